"""Crashes and stuck actors, beyond the one crash of each actor in `test_actor_crashes.py`."""

from __future__ import annotations

import contextlib
import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trio

from cache_actors.actors.auth_cache import AuthCache
from cache_actors.actors.disk_writer import DiskWriter
from cache_actors.actors.kv_store import KeyValueStore
from cache_actors.http.server.listener import Listener
from cache_actors.supervision import RestartIntensityError, supervisor
from cache_actors.writer_process.client import EntryWriterProcess
from tests.support.application import Injected, Running
from tests.support.service import nodes_of
from tests.support.waiting import eventually_async

from .test_actor_crashes import Clients

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from cache_actors.cli.dev.tuist import StandInTuist
    from cache_actors.storage.entries import EntryWrite
    from cache_actors.supervision import Actor, Envelope

MAX_RESTARTS = 20


@pytest.fixture
async def running(
    tmp_path: Path, tuist: StandInTuist, nursery: trio.Nursery
) -> AsyncIterator[Running]:
    running = Running(tmp_path / "cas", tuist)
    nursery.start_soon(running.run)
    await running.started.wait()
    async with running.client:
        yield running
    running.stop.set()
    await running.ended.wait()


def node(up: httpx.Response, name: str) -> dict[str, Any]:
    """What `/up` says of a child."""
    return next(node for node in nodes_of(up.json()["tree"]) if node["name"] == name)


# The listener.


class ClientsThatAskAgain(Clients):
    """Clients that ask again when their connection breaks, as a build's do."""

    broken = 0

    async def store_some_more(self) -> None:
        """Return once ten more artifacts have been stored."""
        stored = len(self.artifacts)
        await eventually_async(lambda: len(self.artifacts) > stored + 10)

    async def _asked(self, method: str, path: str, expected: int, **how: Any) -> bool:
        while True:
            try:
                return await super()._asked(method, path, expected, **how)
            except httpx.TransportError:
                self.broken += 1


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


# Requests that are cut leave generators of httpx to the garbage collector.
@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
async def test_crash_of_the_listener_breaks_its_connections_and_nothing_else(
    crash_listener: Callable[[], None], running: Running
) -> None:
    clients = ClientsThatAskAgain(running.client)
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(clients.work)
        await clients.store_some_more()
        for crash in range(1, 4):
            crash_listener()
            nursery.start_soon(open_connection, running.client.base_url)
            await running.has_restarted("listener", crash)
            await clients.store_some_more()
        clients.enough = True
    assert set(clients.statuses) == {200, 204}
    assert clients.broken <= 3 * 4
    up = await running.client.get("/up")
    assert up.status_code == httpx.codes.OK
    listener = node(up, "listener")
    assert (listener["restarts"], listener["last_error"]) == (3, "Injected")
    await clients.find_all_again()
    gc.collect()  # while the filter is in place


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


async def test_crash_with_work_in_hand_loses_that_work_and_keeps_what_waits(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = trio.Event()
    commit = EntryWriterProcess.commit
    batches: list[int] = []
    answers: dict[str, httpx.Response] = {}

    async def crashing_once(self: EntryWriterProcess, batch: Sequence[EntryWrite]) -> Any:
        batches.append(len(batch))
        if len(batches) == 1:
            await gate.wait()
            raise Injected
        return await commit(self, batch)

    async def put(name: str) -> None:
        entry = {"cas_id": name, "entries": [{"value": name}]}
        answers[name] = await running.client.put("/api/cache/keyvalue", json=entry)

    monkeypatch.setattr(EntryWriterProcess, "commit", crashing_once)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(put, "0~FIRST")
        await eventually_async(lambda: len(batches) == 1)
        for number in range(8):
            nursery.start_soon(put, f"0~LATER{number}")
        await eventually_async(lambda: running.child("kv_store").depth == 8)
        gate.set()
    first = answers.pop("0~FIRST")
    assert first.status_code == httpx.codes.SERVICE_UNAVAILABLE
    assert int(first.headers["Retry-After"]) >= 1
    assert {answer.status_code for answer in answers.values()} == {204}
    assert batches == [1, 8]
    assert running.child("kv_store").restarts == 1
    missing = await running.client.put("/api/cache/keyvalue/0~FIRST")
    assert missing.status_code == httpx.codes.NOT_FOUND
    for name in answers:
        stored = await running.client.put(f"/api/cache/keyvalue/{name}")
        assert stored.json() == {"entries": [{"value": name}]}


@pytest.mark.parametrize(
    ("kind", "method", "path"),
    [
        (DiskWriter, "POST", "/api/cache/cas/A"),
        (KeyValueStore, "PUT", "/api/cache/keyvalue/0~A"),
        (AuthCache, "GET", "/api/cache/cas/A"),
    ],
)
async def test_handler_that_crashes_every_time_makes_the_root_give_up(
    running: Running, monkeypatch: pytest.MonkeyPatch, kind: type[Actor], method: str, path: str
) -> None:
    monkeypatch.setattr(kind, "handle", crash)
    running.application.supervisor.max_seconds = 3600  # as restarts may take long here
    content = b"bytes" if method == "POST" else None
    for _ in range(MAX_RESTARTS):
        answer = await running.client.request(method, path, content=content)
        assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
        assert not running.ended.is_set()
    with contextlib.suppress(httpx.TransportError):  # it may go down before it has answered
        await running.client.request(method, path, content=content)
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
