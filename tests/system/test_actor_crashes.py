"""Every actor crashes in turn while clients read and write."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any

import trio

from cache_actors.actors.auth_cache import AuthCache
from cache_actors.actors.disk_writer import DiskWriter
from cache_actors.actors.kv_store import KeyValueStore
from tests.support.application import Injected, running_application
from tests.support.service import nodes_of
from tests.support.waiting import eventually_async

if TYPE_CHECKING:
    from pathlib import Path

    import httpx
    import pytest

    from cache_actors.cli.dev.tuist import StandInTuist
    from cache_actors.supervision import Actor, Envelope

CLIENTS = 4
ACTORS: list[tuple[type[Actor], str]] = [
    (DiskWriter, "disk_writer"),
    (KeyValueStore, "kv_store"),
    (AuthCache, "auth_cache"),
]


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

    async def find_all_again(self) -> None:
        """Everything that was acknowledged is there."""
        for name, body in self.artifacts.items():
            assert (await self.client.get(f"/api/cache/cas/{name}")).content == body
        for name, value in self.entries.items():
            answer = await self.client.get(f"/api/cache/keyvalue/{name}")
            assert answer.json() == {"entries": [{"value": value}]}

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
    async with running_application(tmp_path / "cas", tuist) as running:
        clients = Clients(running.client)
        async with trio.open_nursery() as nursery:
            for _ in range(CLIENTS):
                nursery.start_soon(clients.work)
            for _, name in ACTORS:
                saboteur.victim = name
                await running.has_restarted(name, 1)
            so_far = clients.statuses.total()
            await eventually_async(lambda: clients.statuses.total() > so_far + 100)
            clients.enough = True

        up = (await running.client.get("/up")).json()
        nodes = {node["name"]: node for node in nodes_of(up["tree"])}
        for _, name in ACTORS:
            assert (nodes[name]["restarts"], nodes[name]["last_error"]) == (1, "Injected")
        assert up["status"] == "up"
        assert clients.statuses[503] <= saboteur.in_hand
        await clients.find_all_again()
