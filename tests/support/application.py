"""The application in the tests' own process, so that they can make it crash where they want."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import structlog
import trio

from cache_actors.application import Application
from cache_actors.dev.tuist import StandInTuist
from cache_actors.http.endpoint import bind
from cache_actors.settings import Settings
from cache_actors.supervision import RestartIntensityError, Status

from .service import HANDLES, free_port
from .waiting import LIMIT, eventually_async


class Injected(Exception):
    """The exception that is injected."""


class Running:
    """The application, running in this process.

    Attributes:
        client: may see `acme/app`.
        started, ended: set once it has, by itself or because it was asked to.
        error: what it ended with, if it gave up.
    """

    def __init__(self, storage: Path, tuist: StandInTuist) -> None:
        settings = Settings(server_url=tuist.url, port=free_port(), cas_storage_dir=storage)
        self.storage = storage
        self.socket = bind(settings)
        silence = structlog.wrap_logger(structlog.ReturnLogger())
        self.application = Application(settings, self.socket, silence)
        self.started, self.ended, self.stop = trio.Event(), trio.Event(), trio.Event()
        self.error: RestartIntensityError | None = None
        self.client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{settings.port}",
            headers={"Authorization": "Bearer token"},
            params=HANDLES,
            timeout=LIMIT,
            trust_env=False,
            verify=False,  # noqa: S501
        )

    async def run(self) -> None:
        """Run it until `stop` is set, or it gives up."""
        with self.socket:
            try:
                await self.application.run(self.stop, self.started.set)
            except RestartIntensityError as error:
                self.error = error
        self.ended.set()

    def child(self, name: str) -> Status:
        """What is known of a child, wherever it is in the tree."""
        todo = [self.application.supervisor.status()]
        while todo:
            status = todo.pop()
            if status.name == name:
                return status
            todo.extend(status.children)
        raise LookupError(name)

    async def has_restarted(self, name: str, restarts: int) -> None:
        """Return once a child has crashed so often, and runs again."""
        await eventually_async(
            lambda: self.child(name).restarts == restarts and self.child(name).is_healthy()
        )


@asynccontextmanager
async def running_application(storage: Path, tuist: StandInTuist) -> AsyncIterator[Running]:
    """The application in this process, which is stopped in order in the end."""
    running = Running(storage, tuist)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.run)
        await running.started.wait()
        async with running.client:
            yield running
        running.stop.set()
        with trio.fail_after(LIMIT):
            await running.ended.wait()
