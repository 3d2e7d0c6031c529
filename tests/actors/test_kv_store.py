"""Entries are what their files say, whoever wrote those; memory only saves reading them."""

from __future__ import annotations

import errno
import os
import time
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from cache_actors.actors import kv_store
from cache_actors.actors.evictor import EvictorClient
from cache_actors.actors.hands import ThreadHands
from cache_actors.actors.kv_store import (
    ENTRY_OVERHEAD,
    SETTLED_NS,
    KeyValueStore,
    KeyValueStoreClient,
    Put,
)
from cache_actors.kinds import Kind
from cache_actors.storage.capacity import on_disk
from cache_actors.storage.entries import EntryWriter, MissingArtifact
from cache_actors.storage.errors import StorageError, StorageFull
from cache_actors.storage.files import FileStore, Publication, Replacement
from cache_actors.storage.layout import Entry, Project
from cache_actors.storage.record import ATTRIBUTE
from cache_actors.supervision import ActorCrashed, Mailbox, MailboxFull, Turns, actor_child
from tests.support.metrics import Scrape, new_metrics

from .helpers import (
    OTHER_PROJECT,
    PROJECT,
    CountingThreads,
    Tasks,
    artifact,
    fail_writes,
    leftovers,
    told,
)
from .stores import Gate, GatedStore

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable
    from pathlib import Path

    from cache_actors.storage.temporary import TemporaryFolder
    from tests.supervision.small_actors import Root, Task

    from .helpers import Run


def pair(name: str, project: Project = PROJECT) -> Entry:
    return Entry(project, Kind.KEYVALUE, f"0~{name}")


A, B, C, D = map(pair, "ABCD")
BODY_BYTES = 100


def body(text: str) -> bytes:
    """A body of that many bytes."""
    return text.encode().ljust(BODY_BYTES, b".")


ROOM_FOR_TWO = 2 * (BODY_BYTES + ENTRY_OVERHEAD)


class KeyValue(Tasks):
    """A running store, with memory for two entries, and its client."""

    def __init__(self, store: GatedStore, nursery: trio.Nursery) -> None:
        super().__init__(nursery)
        self.store = store
        self.require_artifacts = True
        self.threads = CountingThreads()
        self.metrics = new_metrics()
        self.mailbox = Mailbox("kv_store", capacity=100, max_weight=100_000)
        self.client = KeyValueStoreClient(self.mailbox.address, store.root, Turns())
        self.incarnations: list[KeyValueStore] = []
        self.evictor = Mailbox("evictor", capacity=100)
        self.child = actor_child(self.mailbox, self._new, shutdown=1)
        self.root: Root

    def _new(self) -> KeyValueStore:
        writer = EntryWriter(self.store, require_artifacts=self.require_artifacts)
        actor = KeyValueStore(
            self.store,
            ThreadHands(writer.put, self.threads.as_limiter()),
            EvictorClient(self.evictor.address),
            ROOM_FOR_TWO,
            self.threads.as_limiter(),
            self.metrics,
        )
        self.incarnations.append(actor)
        return actor

    async def get(self, entry: Entry) -> bytes | None:
        return await self.client.get(entry)

    async def put(self, entry: Entry, content: bytes) -> None:
        await self.client.put(entry, content, frozenset())

    async def put_long_ago(self, entry: Entry, content: bytes) -> None:
        """Store an entry that then looks an hour old: one that is brand new is not remembered."""
        await self.put(entry, content)
        set_time(self.path(entry), time.time_ns() - 3600 * 10**9)

    @asynccontextmanager
    async def busy(self, gate: Gate, work: Awaitable[object]) -> AsyncGenerator[None, None]:
        """While the context lasts the store is at `work`; what it is sent meanwhile waits."""
        gate.close()
        first = await self.begin(work)
        await gate.reached()
        try:
            yield
            assert not first.is_done()
        finally:
            gate.open()
        await first.result()

    def reading(self) -> AbstractAsyncContextManager[None]:
        return self.busy(self.store.load_gate, self.get(A))

    def writing(self, size: int = BODY_BYTES) -> AbstractAsyncContextManager[None]:
        return self.busy(self.store.replace_gate, self.put(A, bytes(size)))

    def path(self, entry: Entry) -> Path:
        return entry.path(self.store.root)

    def remembered(self) -> int:
        """Bytes that the recent entries really take."""
        versions = self.incarnations[-1]._recent._versions.values()
        return sum(len(version.data) + ENTRY_OVERHEAD for version in versions)

    async def is_in_memory(self, entry: Entry) -> bool:
        """Whether a read finds the entry in memory; it is then the one used last."""
        self.store.loads.clear()
        await self.get(entry)
        [[lookup]] = self.store.loads
        return lookup.known is not None


@pytest.fixture
async def kv(
    run_tree: Run, storage: Path, temporary: TemporaryFolder, nursery: trio.Nursery
) -> KeyValue:
    kv = KeyValue(GatedStore(storage, temporary, durable=True), nursery)
    kv.root = await run_tree(kv.child)
    return kv


@pytest.fixture
def other_process(storage: Path, temporary: TemporaryFolder) -> FileStore:
    """Another process's view of the same storage."""
    return FileStore(storage, temporary, durable=False)


def set_time(path: Path, nanoseconds: int) -> None:
    os.utime(path, ns=(nanoseconds, nanoseconds))


def overwrite(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    os.removexattr(path, ATTRIBUTE)


# Entries.


async def test_entry_is_retrieved_as_it_was_stored(kv: KeyValue) -> None:
    content = bytes(range(256))
    await kv.put(A, content)
    for _ in range(3):
        assert await kv.get(A) == content


async def test_what_was_never_stored_is_a_miss(kv: KeyValue) -> None:
    assert await kv.get(A) is None
    await kv.put(B, body("b"))
    assert await kv.get(A) is None
    assert await kv.get(pair("B", OTHER_PROJECT)) is None


async def test_last_of_several_writes_at_once_stays(kv: KeyValue) -> None:
    async with kv.writing():
        writes = [await kv.begin(kv.put(A, body(str(n)))) for n in range(1, 10)]
    for write in writes:
        await write.result()
    assert len(kv.store.replacements) == 2
    assert await kv.get(A) == body("9")


# Memory.


async def test_entry_that_is_brand_new_is_read_again(
    kv: KeyValue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the clock for files is coarse, the next version may differ in nothing but content."""
    await kv.put(A, body("ours"))
    written = kv.path(A).stat().st_mtime_ns
    just_then = SimpleNamespace(time_ns=lambda: written + SETTLED_NS - 1)
    monkeypatch.setattr(kv_store, "time", just_then)
    assert await kv.get(A) == body("ours")
    overwrite(kv.path(A), body("theirs"))
    set_time(kv.path(A), written)
    assert await kv.get(A) == body("theirs")


async def test_entry_that_was_replaced_is_not_remembered(kv: KeyValue) -> None:
    """Its file's number may be used again, for a version with the same time and size."""
    await kv.put_long_ago(A, body("first"))
    await kv.get(A)
    path = kv.path(A)
    other_name = path.with_name("the same file")
    os.link(path, other_name)
    written = path.stat().st_mtime_ns
    await kv.put(A, body("second"))
    overwrite(other_name, body("third"))
    os.replace(other_name, path)  # noqa: PTH105
    set_time(path, written)
    assert await kv.get(A) == body("third")


async def test_memory_is_bounded_by_what_the_entries_used_last_take(kv: KeyValue) -> None:
    for entry in (A, B, C, D):
        await kv.put_long_ago(entry, body("x"))
    for entry in (A, B, A, C):
        assert await kv.get(entry) == body("x")
        assert kv.remembered() <= ROOM_FOR_TWO
    assert kv.remembered() == ROOM_FOR_TWO
    assert await kv.is_in_memory(C)
    assert await kv.is_in_memory(A)
    assert not await kv.is_in_memory(B)


async def test_entries_that_grow_and_shrink_are_counted_right(kv: KeyValue) -> None:
    for number in range(20):
        for entry in (A, B):
            await kv.put_long_ago(entry, bytes(number * 7 % 100))
            await kv.get(entry)
            assert kv.remembered() <= ROOM_FOR_TWO
    for entry in (A, B):
        kv.path(entry).unlink()
        await kv.get(entry)
    assert kv.remembered() == 0
    for entry in (A, B):
        await kv.put_long_ago(entry, body("x"))
        await kv.get(entry)
    assert await kv.is_in_memory(A)
    assert await kv.is_in_memory(B)


async def test_entry_too_large_for_the_memory_is_retrieved_all_the_same(kv: KeyValue) -> None:
    await kv.put_long_ago(A, bytes(ROOM_FOR_TWO))
    assert await kv.get(A) == await kv.get(A) == bytes(ROOM_FOR_TWO)
    assert kv.remembered() == 0
    await kv.put_long_ago(B, body("b"))
    await kv.get(B)
    assert await kv.is_in_memory(B)


async def test_read_that_pushes_out_another_of_its_batch_hurts_neither(kv: KeyValue) -> None:
    entries = (A, B, C, D)
    for entry in entries:
        await kv.put_long_ago(entry, body(entry.id))
    for entry in (B, A):  # B is the one that goes first
        await kv.get(entry)
    async with kv.reading():
        reads = [await kv.begin(kv.get(entry)) for entry in (C, B, A, D, B)]
        kv.store.loads.clear()
    assert [await read.result() for read in reads] == [body(e.id) for e in (C, B, A, D, B)]
    assert [len(batch) for batch in kv.store.loads] == [5]
    for entry in entries:
        assert await kv.get(entry) == body(entry.id)
    assert kv.remembered() <= ROOM_FOR_TWO


# Behind its back.


async def test_entry_that_differs_in_nothing_but_its_content_and_inode_is_noticed(
    kv: KeyValue, other_process: FileStore
) -> None:
    await kv.put_long_ago(A, body("ours"))
    await kv.get(A)
    before = kv.path(A).stat().st_mtime_ns
    other_process.replace([Replacement(kv.path(A), body("theirs"))])
    set_time(kv.path(A), before)
    assert await kv.get(A) == body("theirs")


@pytest.mark.parametrize("content", [body("theirs"), b"shorter", b""])
async def test_entry_whose_bytes_have_changed_is_a_miss(kv: KeyValue, content: bytes) -> None:
    await kv.put_long_ago(A, body("ours"))
    await kv.get(A)
    kv.path(A).write_bytes(content)
    assert await kv.get(A) is None
    assert not kv.path(A).exists()
    await kv.put(A, body("again"))
    assert await kv.get(A) == body("again")


async def test_entry_removed_by_another_process_is_a_miss(kv: KeyValue) -> None:
    await kv.put_long_ago(A, body("a"))
    await kv.get(A)
    kv.path(A).unlink()
    assert await kv.get(A) is None
    assert kv.remembered() == 0
    await kv.put_long_ago(A, body("again"))
    assert await kv.get(A) == body("again")


# Batches.


async def test_all_that_waits_is_read_in_one_trip_and_written_in_another(kv: KeyValue) -> None:
    tasks: list[Task[bytes | None] | Task[None]] = []
    async with kv.reading():
        trips = kv.threads.trips
        for number in range(40):
            tasks.append(await kv.begin(kv.get(pair(f"{number}"))))
            tasks.append(await kv.begin(kv.put(pair(f"{number}"), body("x"))))
    for task in tasks:
        await task.result()
    assert kv.threads.trips == trips + 2


async def test_reads_do_not_wait_behind_writes_of_their_batch(kv: KeyValue) -> None:
    await kv.put(A, body("a"))
    kv.store.replace_gate.close()
    async with kv.reading():
        write = await kv.begin(kv.put(B, body("b")))
        read = await kv.begin(kv.get(A))
    await kv.store.replace_gate.reached()
    assert await read.result() == body("a")
    assert not write.is_done()
    kv.store.replace_gate.open()
    await write.result()


# Writes.


async def test_write_is_not_acknowledged_while_it_is_under_way(kv: KeyValue) -> None:
    async with kv.writing():
        await trio.testing.wait_all_tasks_blocked()


async def test_write_under_way_is_finished_though_its_caller_left(kv: KeyValue) -> None:
    kv.store.replace_gate.close()
    write = await kv.begin(kv.put(A, body("a")))
    await kv.store.replace_gate.reached()
    await write.leave()
    kv.store.replace_gate.open()
    assert await kv.get(A) == body("a")


# Disks that fail.


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, StorageFull), (errno.EDQUOT, StorageFull), (errno.EIO, StorageError)],
)
async def test_failing_disk_is_the_writer_s_to_hear_about_and_no_crash(
    kv: KeyValue, temporary: TemporaryFolder, number: int, kind: type[StorageError]
) -> None:
    await kv.put(A, body("before"))
    with pytest.MonkeyPatch.context() as failing:
        fail_writes(failing, number)
        with pytest.raises(StorageError, match=os.strerror(number)) as caught:
            await kv.put(A, body("after"))
        assert type(caught.value) is kind
        assert await kv.get(A) == body("before")
        assert leftovers(temporary) == []
    await kv.put(A, body("after"))
    assert await kv.get(A) == body("after")
    assert kv.root.child("kv_store").restarts == 0


async def test_file_that_cannot_be_read_is_an_error_and_hurts_no_other_of_its_batch(
    kv: KeyValue, monkeypatch: pytest.MonkeyPatch
) -> None:
    await kv.put(A, body("a"))
    really_open = os.open

    def guarded(path: object, *how: int, **more: int) -> int:
        if path == kv.path(B):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return really_open(path, *how, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", guarded)
    async with kv.reading():
        tasks = [await kv.begin(kv.get(entry)) for entry in (A, B, C)]
    assert await tasks[0].result() == body("a")
    assert isinstance(trouble := await tasks[1].error(), StorageError)
    assert await tasks[2].result() is None
    assert str(kv.store.root) not in str(trouble)
    assert kv.root.child("kv_store").restarts == 0


# Crashes and overload.


async def test_crash_loses_nothing(kv: KeyValue, monkeypatch: pytest.MonkeyPatch) -> None:
    await kv.put(A, body("a"))
    await kv.get(A)
    with monkeypatch.context() as bug:
        bug.setattr(kv.store, "load", lambda _batch: 1 / 0)
        with pytest.raises(ActorCrashed):
            await kv.get(A)
    assert await kv.get(A) == body("a")
    assert len(kv.incarnations) == 2


async def test_bodies_that_wait_are_bounded_in_bytes(kv: KeyValue) -> None:
    async with kv.writing(60_000):
        with pytest.raises(MailboxFull):
            await kv.put(B, bytes(60_000))
        second = await kv.begin(kv.put(B, bytes(40_000)))
        with pytest.raises(MailboxFull):
            await kv.put(C, b"1")
    await second.result()
    await kv.put(C, bytes(100_000))


def test_body_does_not_show_in_what_is_printed() -> None:
    assert "secret" not in repr(Put(A, b"secret", frozenset()))


async def test_commits_are_counted(kv: KeyValue) -> None:
    await kv.put(A, b"one")
    assert await kv.get(A) == b"one"
    found = Scrape.of(kv.metrics)
    assert found.value("cache_actors_commit_files_sum", kind="entry") == 1
    assert found.value("cache_actors_commit_files_count", kind="entry") == 1


# Artifacts.

ID = "AB" * 32


async def put_with(kv: KeyValue, entry: Entry, *artifacts: str) -> str | None:
    """Store an entry that refers to artifacts."""
    return await kv.client.put(entry, body("x"), frozenset(artifacts))


async def test_entry_without_its_artifact_is_refused(kv: KeyValue) -> None:
    await kv.put(A, body("before"))
    for _ in range(2):
        with pytest.raises(MissingArtifact, match=f"Artifact {ID} does not exist"):
            await put_with(kv, A, ID)
    assert await kv.get(A) == body("before")
    kv.store.publish([Publication(artifact(ID).path(kv.store.root), [b"bytes"])])
    assert await put_with(kv, A, ID) is None
    assert await kv.get(A) == body("x")
    assert kv.root.child("kv_store").restarts == 0


async def test_refusal_hurts_no_other_of_its_batch(kv: KeyValue) -> None:
    async with kv.reading():
        writes = [
            await kv.begin(put_with(kv, pair(f"{number}"), *[ID] * (number % 2)))
            for number in range(10)
        ]
    for number, write in enumerate(writes):
        if number % 2:
            assert isinstance(await write.error(), MissingArtifact)
        else:
            assert await write.result() is None
        assert (await kv.get(pair(f"{number}")) is None) == bool(number % 2)
    assert len(kv.store.replacements) == 1


async def test_lenient_store_takes_it_and_says_what_is_missing(kv: KeyValue, run_tree: Run) -> None:
    lenient = KeyValue(kv.store, kv.nursery)
    lenient.require_artifacts = False
    await run_tree(lenient.child)
    assert await put_with(lenient, A, ID, "CD" * 32) == ID
    assert await lenient.get(A) == body("x")
    assert await told(lenient.evictor) == [on_disk(BODY_BYTES)]


# Room.


async def test_evictor_is_told_of_what_was_stored_and_of_nothing_else(kv: KeyValue) -> None:
    await kv.put(A, body("a"))
    await kv.put(A, body("again"))
    assert await told(kv.evictor) == [on_disk(BODY_BYTES)] * 2
    with pytest.raises(MissingArtifact):
        await put_with(kv, A, ID)
    with pytest.MonkeyPatch.context() as full:
        fail_writes(full)
        with pytest.raises(StorageFull):
            await kv.put(B, body("b"))
    await kv.get(A)
    assert await told(kv.evictor) == []
