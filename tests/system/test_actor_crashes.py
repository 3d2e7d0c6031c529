"""Every actor crashes in turn while clients read and write."""

from __future__ import annotations

import itertools
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import structlog
import trio

from cache_actors.actors.auth_cache import AuthCache
from cache_actors.actors.disk_writer import DiskWriter
from cache_actors.actors.kv_store import KeyValueStore
from cache_actors.application import Application
from cache_actors.http.endpoint import bind
from cache_actors.settings import Settings
from tests.support.service import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import pytest

    from cache_actors.dev.tuist import StandInTuist
    from cache_actors.supervision import Actor, Envelope, Status

CLIENTS = 4
ACTORS: list[tuple[type[Actor], str]] = [
    (DiskWriter, "disk_writer"),
    (KeyValueStore, "kv_store"),
    (AuthCache, "auth_cache"),
]


class Injected(Exception):
    """The exception that is injected."""


class Saboteur:
    """Makes the next batch that the named actor handles crash it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.victim = ""
        self.in_hand = 0
        for kind in {kind for kind, _ in ACTORS}:
            patch.setattr(kind, "handle", self._sabotaged(kind.handle))

    def _sabotaged(self, handle: Any) -> Any:
        async def sabotaged(actor: Actor, batch: list[Envelope]) -> None:
            if batch[0]._mailbox.name == self.victim:
                self.victim = ""
                self.in_hand += len(batch)
                raise Injected
            await handle(actor, batch)

        return sabotaged


class Clients:
    """They store artifacts and entries and read them back, and remember what was acknowledged."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.statuses: Counter[int] = Counter()
        self.artifacts: dict[str, bytes] = {}
        self.entries: dict[str, str] = {}
        self.enough = False
        self._numbers = itertools.count()

    async def work(self) -> None:
        while not self.enough:
            name = f"N{next(self._numbers):06}"
            body = name.encode() * 50
            if await self._asked("POST", f"/api/cache/cas/{name}", 204, content=body):
                self.artifacts[name] = body
                await self._asked("GET", f"/api/cache/cas/{name}", 200)
            entry = {"cas_id": name, "entries": [{"value": name}]}
            if await self._asked("PUT", "/api/cache/keyvalue", 204, json=entry):
                self.entries[name] = name
                await self._asked("PUT", f"/api/cache/keyvalue/{name}", 200)

    async def _asked(self, method: str, path: str, expected: int, **how: Any) -> bool:
        answer = await self.client.request(method, path, **how)
        self.statuses[answer.status_code] += 1
        if answer.status_code == 503:
            assert answer.headers["Retry-After"] == "1"
            return False
        assert answer.status_code == expected, answer.text
        return True


async def test_crash_of_any_actor_harms_only_what_it_had_in_hand(
    tmp_path: Path, tuist: StandInTuist, monkeypatch: pytest.MonkeyPatch
) -> None:
    saboteur = Saboteur(monkeypatch)
    async with running_application(tmp_path / "cas", tuist) as (application, client):
        clients = Clients(client)
        async with trio.open_nursery() as nursery:
            for _ in range(CLIENTS):
                nursery.start_soon(clients.work)
            for _, name in ACTORS:
                saboteur.victim = name
                await wait_for_restart(application, name)
            await trio.sleep(0.2)
            clients.enough = True

        up = (await client.get("/up")).json()
        nodes = {node["name"]: node for node in nodes_of(up["tree"])}
        for _, name in ACTORS:
            assert (nodes[name]["restarts"], nodes[name]["last_error"]) == (1, "Injected")
        assert up["status"] == "up"
        assert clients.statuses[503] <= saboteur.in_hand
        assert sum(clients.statuses.values()) > 100
        for name, body in clients.artifacts.items():
            assert (await client.get(f"/api/cache/cas/{name}")).content == body
        for name, value in clients.entries.items():
            answer = await client.get(f"/api/cache/keyvalue/{name}")
            assert answer.json() == {"entries": [{"value": value}]}


async def wait_for_restart(application: Application, name: str) -> None:
    """Return once an actor has crashed and runs again."""
    with trio.fail_after(20):
        while find(application, name).restarts == 0:  # noqa: ASYNC110
            await trio.sleep(0.001)
        while not find(application, name).is_healthy():  # noqa: ASYNC110
            await trio.sleep(0.001)


def find(application: Application, name: str) -> Status:
    todo = [application.supervisor.status()]
    while todo:
        status = todo.pop()
        if status.name == name:
            return status
        todo.extend(status.children)
    raise LookupError(name)


def nodes_of(node: dict[str, Any]) -> list[dict[str, Any]]:
    return [node, *(below for child in node.get("children", ()) for below in nodes_of(child))]


@asynccontextmanager
async def running_application(
    storage: Path, tuist: StandInTuist
) -> AsyncIterator[tuple[Application, httpx.AsyncClient]]:
    """The application in this process, and a client that may see `acme/app`."""
    settings = Settings(server_url=tuist.url, port=free_port(), cas_storage_dir=storage)
    silence = structlog.wrap_logger(structlog.ReturnLogger())
    application = Application(settings, bind(settings), silence)
    stop, started = trio.Event(), trio.Event()
    client = httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{settings.port}",
        headers={"Authorization": "Bearer token"},
        params={"account_handle": "acme", "project_handle": "app"},
        trust_env=False,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(application.run, stop, started.set)
        await started.wait()
        async with client:
            yield application, client
        stop.set()
