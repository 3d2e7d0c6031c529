"""Actors and the listener crash, or are stuck, while clients read and write."""

import contextlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from cache_actors.actors.auth_cache import AuthCache
from cache_actors.actors.disk_writer import DiskWriter
from cache_actors.actors.kv_store import KeyValueStore
from cache_actors.dev.tuist import StandInTuist
from cache_actors.http.listener import Listener
from cache_actors.supervision import Actor, Envelope, RestartIntensityError, supervisor
from tests.support.application import Injected, Running, running_application
from tests.support.service import nodes_of
from tests.support.waiting import eventually_async
from tests.support.writers import Writers

MOST_RESTARTS = 20
CLIENTS = 4
ACTORS: list[tuple[type[Actor], str]] = [
    (DiskWriter, "disk_writer"),
    (KeyValueStore, "kv_store"),
    (AuthCache, "auth_cache"),
]


@pytest.fixture
async def running(tmp_path: Path, tuist: StandInTuist) -> AsyncIterator[Running]:
    async with running_application(tmp_path / "cas", tuist) as running:
        yield running


def node(up: httpx.Response, name: str) -> dict[str, Any]:
    """What `/up` says of a child."""
    return next(node for node in nodes_of(up.json()["tree"]) if node["name"] == name)


# What they are tested with.


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


@asynccontextmanager
async def clients_of(running: Running) -> AsyncIterator[Writers]:
    """Clients that store and read all the time, as a build's do."""
    writers = Writers(str(running.client.base_url), CLIENTS)
    await trio.to_thread.run_sync(writers.__enter__)
    try:
        yield writers
    finally:
        await trio.to_thread.run_sync(writers.finish)


# The listener.


@pytest.fixture
def crash_listener(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes the next connection crash the listener; asked for before that is started."""
    serve = Listener._serve
    is_wanted = False

    async def sabotaged(self: Listener, *connection: Any) -> None:
        nonlocal is_wanted
        if is_wanted:
            is_wanted = False
            raise Injected
        await serve(self, *connection)

    def crash_listener() -> None:
        nonlocal is_wanted
        is_wanted = True

    monkeypatch.setattr(Listener, "_serve", sabotaged)
    return crash_listener


async def test_crash_of_the_listener_breaks_its_connections_and_nothing_else(
    crash_listener: Callable[[], None], running: Running
) -> None:
    async with clients_of(running) as clients, trio.open_nursery() as nursery:
        for crash in range(1, 4):
            crash_listener()
            nursery.start_soon(open_connection, running.client.base_url)
            await running.has_restarted("listener", crash)
            await trio.to_thread.run_sync(clients.store_some_more)
    assert clients.refused == {}
    assert clients.broken <= 3 * CLIENTS
    up = await running.client.get("/up")
    assert up.status_code == httpx.codes.OK
    listener = node(up, "listener")
    assert (listener["restarts"], listener["last_error"]) == (3, "Injected")
    assert await trio.to_thread.run_sync(clients.lost) == []


async def test_download_cut_before_it_has_begun_leaves_no_file_open(running: Running) -> None:
    await running.client.post("/api/cache/cas/A", content=b"bytes")
    head_is_sent = trio.Event()

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(_message: object) -> None:
        head_is_sent.set()
        await trio.sleep_forever()

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/api/cache/cas/A",
        "raw_path": b"/api/cache/cas/A",
        "query_string": b"account_handle=acme&project_handle=app",
        "root_path": "",
        "headers": [(b"host", b"cache"), (b"authorization", b"Bearer token")],
        "client": None,
        "server": None,
        "extensions": {},
        "state": {},
    }
    app: Any = running.application._app
    async with trio.open_nursery() as nursery:
        nursery.start_soon(app, scope, receive, send)
        await head_is_sent.wait()
        nursery.cancel_scope.cancel()
    assert open_files(running.storage) == []


def open_files(folder: Path) -> list[str]:
    """The files below `folder` that this process has open, but for temporary ones."""
    targets = [os.readlink(fd) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]  # noqa: PTH115
    return [target for target in targets if target.startswith(f"{folder}/acme/")]


async def open_connection(url: httpx.URL) -> None:
    """Connect, and wait for the other side to close the connection."""
    stream = await trio.open_tcp_stream(url.host, url.port or 80)
    async with stream:
        try:
            await stream.receive_some()
        except trio.BrokenResourceError:
            return


# Actors.


async def test_crash_of_any_actor_harms_only_what_it_had_in_hand(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    saboteur = Saboteur(monkeypatch)
    async with clients_of(running) as clients:
        for _, name in ACTORS:
            saboteur.victim = name
            await running.has_restarted(name, 1)
        await trio.to_thread.run_sync(clients.store_some_more)

    up = await running.client.get("/up")
    for _, name in ACTORS:
        assert (node(up, name)["restarts"], node(up, name)["last_error"]) == (1, "Injected")
    assert up.json()["status"] == "up"
    assert clients.broken == 0
    assert clients.refused.keys() <= {503}
    assert clients.refused[503] <= saboteur.in_hand
    assert await trio.to_thread.run_sync(clients.lost) == []


async def test_handler_that_crashes_every_time_makes_the_root_give_up(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AuthCache, "handle", crash)
    running.application.supervisor.max_seconds = 3600  # as restarts may take long here
    for _ in range(MOST_RESTARTS):
        answer = await running.client.get("/api/cache/cas/A")
        assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
        assert not running.ended.is_set()
    with contextlib.suppress(httpx.TransportError):  # it may go down before it has answered
        await running.client.get("/api/cache/cas/A")
    await running.ended.wait()
    assert isinstance(running.error, RestartIntensityError)
    with pytest.raises(httpx.TransportError):
        await running.client.get("/up")


async def crash(_: Actor, _batch: list[Envelope]) -> None:
    raise Injected


async def test_stuck_actor_is_seen_in_up_which_still_answers(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = KeyValueStore.handle
    has_begun, gate = trio.Event(), trio.Event()
    answers: list[int] = []

    async def stuck(self: KeyValueStore, batch: list[Envelope]) -> None:
        has_begun.set()
        await gate.wait()
        await handle(self, batch)

    async def retrieve() -> None:
        answers.append((await running.client.put("/api/cache/keyvalue/0~A")).status_code)

    monkeypatch.setattr(KeyValueStore, "handle", stuck)
    monkeypatch.setattr(supervisor, "STUCK_AFTER", 0.2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(retrieve)
        await has_begun.wait()
        for _ in range(2):
            nursery.start_soon(retrieve)
        await eventually_async(
            lambda: running.child("kv_store").stuck and running.child("kv_store").depth == 2
        )
        up = await running.client.get("/up")
        assert up.status_code == httpx.codes.SERVICE_UNAVAILABLE
        kv_store = node(up, "kv_store")
        assert kv_store["stuck"] is True
        assert kv_store["state"] == "running"
        assert kv_store["mailbox_depth"] == 2
        assert kv_store["oldest_message_seconds"] > 0.2
        assert [n["name"] for n in nodes_of(up.json()["tree"]) if n.get("stuck")] == ["kv_store"]
        stored = await running.client.post("/api/cache/cas/A", content=b"bytes")
        assert stored.status_code == httpx.codes.NO_CONTENT  # the others go on
        assert answers == []
        gate.set()
    assert answers == [404] * 3
    assert (await running.client.get("/up")).status_code == httpx.codes.OK
