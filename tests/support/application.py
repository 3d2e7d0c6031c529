"""The application in the tests' own process, so that tests can make any part of it crash."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import structlog
import trio

from cache_actors.application import Application
from cache_actors.cli.dev.tuist import StandInTuist
from cache_actors.runtime.listen_socket import bind
from cache_actors.settings import Settings
from cache_actors.supervision import RestartIntensityError, Status

from .service import HANDLES, free_port
from .waiting import LIMIT, eventually_async


class Injected(Exception):
    """The exception that tests inject."""


class Running:
    """The application, running in this process.

    Attributes:
        client: HTTP client with access to `acme/app`.
        started, ended: events that are set once the application has started or ended.
        error: the error with which the application gave up, or None.
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
        """Run the application until `stop` is set or its restart intensity is exceeded."""
        with self.socket:
            try:
                await self.application.run(self.stop, self.started.set)
            except RestartIntensityError as error:
                self.error = error
        self.ended.set()

    def child(self, name: str) -> Status:
        """The status of the child `name`, anywhere in the tree."""
        todo = [self.application.supervisor.status()]
        while todo:
            status = todo.pop()
            if status.name == name:
                return status
            todo.extend(status.children)
        raise LookupError(name)

    async def has_restarted(self, name: str, restarts: int) -> None:
        """Return once the child `name` has been restarted `restarts` times, and is healthy."""
        await eventually_async(
            lambda: self.child(name).restarts == restarts and self.child(name).is_healthy()
        )


@asynccontextmanager
async def running_application(storage: Path, tuist: StandInTuist) -> AsyncIterator[Running]:
    """Run the application in this process, and stop it in order at the end."""
    running = Running(storage, tuist)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.run)
        await running.started.wait()
        async with running.client:
            yield running
        running.stop.set()
        with trio.fail_after(LIMIT):
            await running.ended.wait()
