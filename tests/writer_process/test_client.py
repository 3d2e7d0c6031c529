"""Hands that are a process: what they are told and tell, and that they end together."""

import errno
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from cache_actors.actor_process import client as actor_process
from cache_actors.actor_process.client import ProcessDied
from cache_actors.actor_process.framing import framed
from cache_actors.kinds import Kind
from cache_actors.storage.capacity import Capacity
from cache_actors.storage.entries import EntryWrite, MissingArtifact
from cache_actors.storage.errors import NoRoom, Shortage
from cache_actors.storage.files.store import FileStore, Publication, Published
from cache_actors.storage.files.temporary import TemporaryFolder
from cache_actors.storage.layout import TEMPORARY, Key
from cache_actors.storage.recovery import Recovered
from cache_actors.writer_process import client
from cache_actors.writer_process.client import (
    ArtifactWriterProcess,
    EntryWriterProcess,
    supervised,
)
from cache_actors.writer_process.protocol import CommitResponse, Failed, decode_response
from tests.actors.helpers import PROJECT, artifact

LIMIT = 60.0
SMALL = (b"two ", b"pieces")


@pytest.fixture(autouse=True)
def _enough_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a process to end by itself, also on a busy machine."""
    monkeypatch.setattr(actor_process, "END_SECONDS", LIMIT)


def publication(store: FileStore, name: str) -> Publication:
    return Publication(str(artifact(name).path(store.root)), SMALL)


def folders(storage: Path) -> int:
    return len(list((storage / TEMPORARY).iterdir()))


async def test_artifacts_are_published_with_their_syncs_counted(store: FileStore) -> None:
    syncs: list[float] = []
    items = [publication(store, name) for name in ("A", "B", "A", "x" * 300)]
    async with ArtifactWriterProcess(store, syncs.append) as process:
        *outcomes, failure = await process.commit(items)
        assert folders(store.root) == 2
    assert outcomes == [Published.STORED, Published.STORED, Published.EXISTS]
    assert isinstance(failure, OSError)
    assert failure.filename is None
    assert Path(items[0].path).read_bytes() == b"".join(SMALL)
    assert len(syncs) > 2
    assert store.health.status().reason is not None
    assert folders(store.root) == 1


async def test_entries_are_stored_or_refused(store: FileStore) -> None:
    writes = [
        EntryWrite(Key(PROJECT, Kind.KEYVALUE, f"0~{number}"), b"{}", frozenset(artifacts))
        for number, artifacts in enumerate([(), ("AB",)])
    ]
    async with EntryWriterProcess(store, lambda _: None) as process:
        stored, refused = await process.commit(writes)
    assert stored is None
    assert isinstance(refused, MissingArtifact)
    assert refused.artifact_id == "AB"
    async with EntryWriterProcess(store, lambda _: None, require_artifacts=False) as process:
        assert await process.commit(writes) == [None, "AB"]


async def test_room_that_others_have_taken_counts(
    storage: Path, temporary: TemporaryFolder
) -> None:
    capacity = Capacity(storage, 1000)
    store = FileStore(storage, temporary, durable=False, capacity=capacity)
    async with ArtifactWriterProcess(store, lambda _: None) as process:
        capacity.note_stored(995)
        [refused] = await process.commit([publication(store, "A")])
        assert isinstance(refused, NoRoom)
        assert refused.shortage is Shortage.LIMIT
        capacity.note_scan(0)
        with capacity.reserve(995):
            [refused] = await process.commit([publication(store, "A")])
        assert isinstance(refused, OSError)
        assert await process.commit([publication(store, "A")]) == [Published.STORED]


async def test_what_is_being_published_does_not_exist_yet(store: FileStore) -> None:
    item = publication(store, "A")
    async with ArtifactWriterProcess(store, lambda _: None) as process:
        await process.commit([item])
        os.kill(process._process.pid, signal.SIGSTOP)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(process.commit, [item])
            await trio.testing.wait_all_tasks_blocked()
            assert not store.exists(Path(item.path))
            os.kill(process._process.pid, signal.SIGCONT)
        assert store.exists(Path(item.path))


@pytest.mark.parametrize("is_stopped", [True, False])
async def test_process_that_is_killed_is_noticed(store: FileStore, is_stopped: bool) -> None:
    with trio.fail_after(LIMIT):
        async with (
            ArtifactWriterProcess(store, lambda _: None) as process,
            trio.open_nursery() as more,
        ):
            os.kill(process._process.pid, signal.SIGSTOP if is_stopped else signal.SIGKILL)
            if is_stopped:
                more.start_soon(kill_soon, process)
            with pytest.raises(ProcessDied):
                await process.commit([publication(store, "A")])
    assert not Path(publication(store, "A").path).exists()


@pytest.mark.parametrize("is_idle", [True, False])
async def test_killed_process_is_one_error_whoever_notices_it(
    store: FileStore, is_idle: bool
) -> None:
    """The watch alone, or a batch together with it."""
    process = ArtifactWriterProcess(store, lambda _: None)

    async def live() -> None:
        async with supervised(process):
            os.kill(process._process.pid, signal.SIGKILL)
            if is_idle:
                await trio.sleep_forever()
            with trio.CancelScope(shield=True):
                await process._process.wait()
            raise ProcessDied("a batch has noticed it")

    with trio.fail_after(LIMIT), pytest.raises(ProcessDied):
        await live()


async def kill_soon(process: ArtifactWriterProcess) -> None:
    await trio.testing.wait_all_tasks_blocked()
    os.kill(process._process.pid, signal.SIGKILL)


async def test_process_that_hangs_holds_up_no_end(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actor_process, "END_SECONDS", 0.1)
    with trio.fail_after(LIMIT):
        async with ArtifactWriterProcess(store, lambda _: None) as process:
            os.kill(process._process.pid, signal.SIGSTOP)
    assert process._process.returncode == -signal.SIGKILL


async def test_process_leaves_signals_to_its_parent(store: FileStore) -> None:
    async with ArtifactWriterProcess(store, lambda _: None) as process:
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(process._process.pid, number)
        assert await process.commit([publication(store, "A")]) == [Published.STORED]
    assert process._process.returncode == 0


def saying(first: Any, answer: bytes) -> tuple[str, ...]:
    """A command whose process says `first`, and `answer` to a batch."""
    script = (
        "import sys, json, socket; s = socket.socket(fileno=json.loads(sys.argv[1])['channel'])"
        f"; s.sendall({bytes(framed(first))!r}); s.recv(9); s.sendall({answer!r}); s.recv(999)"
    )
    return (sys.executable, "-c", script)


async def test_process_that_cannot_be_understood_is_a_crash(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "COMMAND", saying(Recovered(), bytes([0, 0, 0, 1, 7])))
    with trio.fail_after(LIMIT):
        async with ArtifactWriterProcess(store, lambda _: None) as process:
            with pytest.raises(ProcessDied):
                await process.commit([publication(store, "A")])


async def test_process_that_crashes_says_why(
    store: FileStore, capfd: pytest.CaptureFixture[str]
) -> None:
    async def crash() -> None:
        async with ArtifactWriterProcess(store, lambda _: None) as process:
            await process.send("no batch")
            await process.receive(decode_response)

    with trio.fail_after(LIMIT), pytest.raises(ProcessDied):
        await crash()
    assert "ValidationError" in capfd.readouterr().err


async def test_what_has_been_recovered_is_told_at_the_start_and_later(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[Recovered, str]] = []
    at_start, later = Recovered(logged=3, stored=1), Recovered(logged=2, failed=2)
    failed = Failed(errno.EIO, "no")
    answer = bytes(framed(CommitResponse([failed], [], later)))
    monkeypatch.setattr(client, "COMMAND", saying(at_start, answer))
    process = ArtifactWriterProcess(
        store, lambda _: None, recovered=lambda *found: told.append(found)
    )
    with trio.fail_after(LIMIT):
        async with process:
            await process.commit([publication(store, "A")])
    assert told == [(at_start, "start"), (later, "running")]


async def test_process_that_cannot_start_is_a_crash(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "COMMAND", (sys.executable, "-c", "raise SystemExit(1)"))
    with pytest.raises(ProcessDied, match="has ended"):
        async with ArtifactWriterProcess(store, lambda _: None):
            pass


async def test_process_inherits_nothing_but_its_channel(store: FileStore) -> None:
    async with ArtifactWriterProcess(store, lambda _: None) as process:
        found = [str(fd.readlink()) for fd in Path(f"/proc/{process._process.pid}/fd").iterdir()]
    assert len([name for name in found if name.startswith("socket:")]) == 1
    assert not [name for name in found if str(store._temporary.path) in name]
