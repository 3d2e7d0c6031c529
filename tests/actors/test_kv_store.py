"""Entries are what their files say, whoever wrote those; memory only saves reading them."""

import errno
import os
import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from cache_actors.actors import kv_store
from cache_actors.actors.evictor import EvictorClient
from cache_actors.actors.kv_store import (
    ENTRY_OVERHEAD,
    MTIME_STABLE_NS,
    KeyValueStore,
    KeyValueStoreClient,
    Put,
)
from cache_actors.kinds import Kind
from cache_actors.storage.capacity import on_disk
from cache_actors.storage.entries import EntryWriter, MissingArtifact
from cache_actors.storage.errors import StorageError, StorageFull
from cache_actors.storage.files.temporary import TemporaryFolder
from cache_actors.storage.integrity.checksum import ATTRIBUTE
from cache_actors.storage.layout import Key, Project, StoredKey
from cache_actors.supervision import Mailbox, MailboxFull, Turns
from cache_actors.writer_process.client import ThreadCommitter
from tests.support.metrics import Scrape

from .helpers import OTHER_PROJECT, PROJECT, Run, fail_at, leftovers, told
from .stores import GatedStore, Storing


def pair(name: str, project: Project = PROJECT) -> Key:
    return Key(project, Kind.KEYVALUE, f"0~{name}")


A, B, C, D = map(pair, "ABCD")
BODY_BYTES = 100


def body(text: str) -> bytes:
    """A body of that many bytes."""
    return text.encode().ljust(BODY_BYTES, b".")


ROOM_FOR_TWO = 2 * (BODY_BYTES + ENTRY_OVERHEAD)


class KeyValue(Storing):
    """A running store, with memory for two entries, and its client."""

    actor: KeyValueStore
    require_artifacts = True

    def __init__(self, nursery: trio.Nursery, store: GatedStore) -> None:
        super().__init__(nursery, store, Mailbox("kv_store", capacity=100, max_weight=100_000))
        self.client = KeyValueStoreClient(self.mailbox.address, store.root, Turns())

    def new_actor(self) -> KeyValueStore:
        writer = EntryWriter(self.store, require_artifacts=self.require_artifacts)
        self.actor = KeyValueStore(
            self.store,
            ThreadCommitter(writer.put, self.threads.as_limiter()),
            EvictorClient(self.evictor.address).stored,
            ROOM_FOR_TWO,
            self.threads.as_limiter(),
            self.metrics,
        )
        return self.actor

    async def get(self, key: Key) -> bytes | None:
        return await self.client.get(key)

    async def put(self, key: Key, content: bytes) -> None:
        await self.client.put(key, content, frozenset())

    async def put_long_ago(self, key: Key, content: bytes) -> None:
        """Store an entry that then looks an hour old: one that is brand new is not remembered."""
        await self.put(key, content)
        set_time(self.path(key), time.time_ns() - 3600 * 10**9)

    def reading(self) -> AbstractAsyncContextManager[None]:
        return self.busy(self.store.load_gate, self.get(A))

    def writing(self, size: int = BODY_BYTES) -> AbstractAsyncContextManager[None]:
        return self.busy(self.store.replace_gate, self.put(A, bytes(size)))

    def remembered(self) -> int:
        """Bytes that the recent entries really take."""
        versions = self.actor._recent._versions.values()
        return sum(len(version.data) + ENTRY_OVERHEAD for version in versions)

    async def is_in_memory(self, key: Key) -> bool:
        """Whether a read finds the entry in memory; it is then the one used last."""
        self.store.loads.clear()
        await self.get(key)
        [[lookup]] = self.store.loads
        return lookup.known is not None


@pytest.fixture
async def kv(
    run_tree: Run, storage: Path, temporary: TemporaryFolder, nursery: trio.Nursery
) -> KeyValue:
    kv = KeyValue(nursery, GatedStore(storage, temporary, durable=True))
    kv.root = await run_tree(kv.child)
    return kv


def set_time(path: Path, nanoseconds: int) -> None:
    os.utime(path, ns=(nanoseconds, nanoseconds))


def overwrite(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    os.removexattr(path, ATTRIBUTE)


# Entries.


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
    just_then = SimpleNamespace(time_ns=lambda: written + MTIME_STABLE_NS - 1)
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
    async with kv.reading():
        trips = kv.threads.trips
        tasks = [
            await kv.begin(work)
            for entry in [pair(f"{number}") for number in range(40)]
            for work in (kv.get(entry), kv.put(entry, body("x")))
        ]
    for task in tasks:
        await task.result()
    assert kv.threads.trips == trips + 2


async def test_reads_do_not_wait_behind_writes_of_their_batch(kv: KeyValue) -> None:
    await kv.put(A, body("a"))
    with kv.store.replace_gate.closed():
        async with kv.reading():
            write = await kv.begin(kv.put(B, body("b")))
            read = await kv.begin(kv.get(A))
        await kv.store.replace_gate.reached()
        assert await read.result() == body("a")
        assert not write.is_done()
    await write.result()


# Disks that fail.


async def test_full_disk_is_the_writer_s_to_hear_about_and_no_crash(
    kv: KeyValue, temporary: TemporaryFolder
) -> None:
    await kv.put(A, body("before"))
    with pytest.MonkeyPatch.context() as full:
        fail_at(full, "writev")
        with pytest.raises(StorageFull):
            await kv.put(A, body("after"))
        assert await kv.get(A) == body("before")
        assert leftovers(temporary) == []
    await kv.put(A, body("after"))
    assert await kv.get(A) == body("after")
    assert kv.restarts() == 0


async def test_file_that_cannot_be_read_is_an_error_and_no_crash(
    kv: KeyValue, monkeypatch: pytest.MonkeyPatch
) -> None:
    await kv.put(A, body("a"))
    fail_at(monkeypatch, "open", errno.EACCES)
    with pytest.raises(StorageError, match="Permission denied") as caught:
        await kv.get(A)
    assert "/secret/path" not in str(caught.value)
    assert kv.restarts() == 0


# Crashes and overload.


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


async def put_with(kv: KeyValue, key: Key, *artifacts: str) -> str | None:
    """Store an entry that refers to artifacts."""
    return await kv.client.put(key, body("x"), frozenset(artifacts))


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
    lenient = KeyValue(kv.nursery, kv.store)
    lenient.require_artifacts = False
    await run_tree(lenient.child)
    assert await put_with(lenient, A, ID, "CD" * 32) == ID
    assert await lenient.get(A) == body("x")
    assert await told(lenient.evictor) == [StoredKey(A, on_disk(BODY_BYTES))]


# Room.


async def test_evictor_is_told_of_what_was_stored_and_of_nothing_else(kv: KeyValue) -> None:
    await kv.put(A, body("a"))
    await kv.put(A, body("again"))
    assert await told(kv.evictor) == [StoredKey(A, on_disk(BODY_BYTES))] * 2
    with pytest.raises(MissingArtifact):
        await put_with(kv, A, ID)
    with pytest.MonkeyPatch.context() as full:
        fail_at(full, "writev")
        with pytest.raises(StorageFull):
            await kv.put(B, body("b"))
    await kv.get(A)
    assert await told(kv.evictor) == []
