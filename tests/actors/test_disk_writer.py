"""Of many who store one artifact the first one wins, and all of them can count on it."""

import hashlib
import random
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import AbstractAsyncContextManager, aclosing
from pathlib import Path

import pytest
import trio
import trio.testing

from cache_actors.actors.disk_writer import DiskWriter, DiskWriterClient, Publish
from cache_actors.actors.evictor import EvictorClient
from cache_actors.kinds import Kind
from cache_actors.storage.capacity import on_disk
from cache_actors.storage.errors import StorageError, StorageFull
from cache_actors.storage.files.store import Published
from cache_actors.storage.files.temporary import TemporaryFile, TemporaryFolder
from cache_actors.storage.layout import Key, StoredKey
from cache_actors.supervision import Mailbox, Turns
from cache_actors.transfer.upload import SMALL_BYTES, WrongDigest
from cache_actors.writer_process.client import ThreadCommitter
from tests.support.metrics import Scrape

from .helpers import (
    CountingThreads,
    Run,
    WatchedShares,
    artifact,
    fail_at,
    in_chunks,
    leftovers,
    told,
)
from .stores import GatedStore, Storing

A = artifact("A")
SMALL = b"small"
LARGE = random.randbytes(SMALL_BYTES + 100)
MAX_WEIGHT = 2 * SMALL_BYTES


class Writer(Storing):
    """A running disk writer, and its client."""

    def __init__(self, nursery: trio.Nursery, store: GatedStore, uploads: TemporaryFolder) -> None:
        mailbox = Mailbox("disk_writer", capacity=300, max_weight=MAX_WEIGHT)
        super().__init__(nursery, store, mailbox)
        self.uploads = uploads
        self.memory = WatchedShares(4 * SMALL_BYTES)
        self.stream_threads = CountingThreads()
        threads = self.stream_threads.as_limiter()
        self.client = DiskWriterClient(
            mailbox.address, store, uploads, self.memory, threads, self.metrics, Turns()
        )

    def new_actor(self) -> DiskWriter:
        announce = EvictorClient(self.evictor.address).stored
        threads = self.threads.as_limiter()
        committer = ThreadCommitter(self.store.publish, threads)
        return DiskWriter(committer, self.store, announce, threads, self.metrics)

    async def put(self, key: Key, content: bytes) -> Published:
        return await self.client.store(key, in_chunks(content), len(content))

    async def put_body(
        self, key: Key, body: AsyncIterable[bytes], digest: bytes | None = None
    ) -> Published:
        return await self.client.store(key, body, expected_digest=digest)

    def content(self, key: Key) -> bytes | None:
        """What is stored."""
        path = self.path(key)
        return path.read_bytes() if path.exists() else None

    def publishing(self) -> AbstractAsyncContextManager[None]:
        return self.busy(self.store.publish_gate, self.put(A, SMALL))

    def assert_nothing_is_held(self) -> None:
        assert self.memory.taken == 0
        assert self.memory.most <= self.memory.limit
        assert leftovers(self.uploads) == []
        assert self.mailbox._weight.taken == 0


@pytest.fixture
async def writer(
    run_tree: Run, storage: Path, temporary: TemporaryFolder, nursery: trio.Nursery
) -> Writer:
    writer = Writer(nursery, GatedStore(storage, temporary, durable=True), temporary)
    writer.root = await run_tree(writer.child)
    return writer


# Storing.


@pytest.mark.parametrize("size", [1, SMALL_BYTES, SMALL_BYTES + 1, 5 * SMALL_BYTES + 3])
@pytest.mark.parametrize("is_known", [True, False], ids=["size known", "size unknown"])
async def test_artifact_is_stored_whole(writer: Writer, size: int, is_known: bool) -> None:
    content = random.randbytes(size)
    stored = writer.put(A, content) if is_known else writer.put_body(A, in_chunks(content))
    assert await stored is Published.STORED
    assert writer.content(A) == content
    writer.assert_nothing_is_held()


async def test_small_artifact_costs_one_trip_to_a_thread(writer: Writer) -> None:
    await writer.put(A, bytes(SMALL_BYTES))
    assert (writer.threads.trips, writer.stream_threads.trips) == (1, 0)


async def test_all_that_waits_is_published_in_one_trip(writer: Writer) -> None:
    mine = [artifact(str(number)) for number in range(60)]
    async with writer.publishing():
        tasks = [await writer.begin(writer.put(entry, SMALL)) for entry in mine]
    for task in tasks:
        assert await task.result() is Published.STORED
    assert [len(batch) for batch in writer.store.publications] == [1, len(mine)]
    assert (await told(writer.evictor))[1:] == [StoredKey(e, on_disk(len(SMALL))) for e in mine]


# Many at once.


async def test_of_200_uploads_of_one_id_one_is_stored_whole_and_all_succeed(writer: Writer) -> None:
    sizes = [10, 10_000, SMALL_BYTES, SMALL_BYTES + 1]
    contents = [random.randbytes(sizes[number % 4]) for number in range(200)]
    tasks = [
        writer.start(writer.client.store(A, in_chunks(content, 50_000), known))
        for content in contents
        for known in [len(content) if content[0] % 2 else None]
    ]
    outcomes = [await task.result() for task in tasks]
    assert Counter(outcomes) == {Published.STORED: 1, Published.EXISTS: 199}
    assert writer.content(A) == contents[outcomes.index(Published.STORED)]
    writer.assert_nothing_is_held()


async def test_commits_of_one_id_never_overlap(writer: Writer) -> None:
    async with writer.publishing():
        waiting = [await writer.begin(writer.put(A, c)) for c in (b"second", LARGE)]
        assert not any(task.is_done() for task in waiting)
        assert writer.content(A) is None
    assert [await task.result() for task in waiting] == [Published.EXISTS] * 2
    assert writer.content(A) == SMALL


async def test_artifacts_that_wait_for_the_disk_are_bounded_in_bytes_and_none_is_refused(
    writer: Writer,
) -> None:
    entries = [artifact(str(number)) for number in range(12)]
    async with writer.publishing():
        size = MAX_WEIGHT // 4
        writer.memory.limit = 20 * size
        tasks = [await writer.begin(writer.put(entry, bytes(size))) for entry in entries]
        assert writer.mailbox._weight.taken <= MAX_WEIGHT
        assert not any(task.is_done() for task in tasks)
    for task in tasks:
        assert await task.result() is Published.STORED
    writer.assert_nothing_is_held()


# Ends.


async def test_body_other_than_declared_stores_nothing(writer: Writer) -> None:
    with pytest.raises(WrongDigest):
        await writer.put_body(A, in_chunks(b"other"), hashlib.sha256(SMALL).digest())
    assert writer.content(A) is None
    writer.assert_nothing_is_held()


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("call", ["writev", "fdatasync", "fsync", "link"])
async def test_whatever_the_disk_fails_at_stores_nothing_and_is_no_crash(
    writer: Writer, content: bytes, call: str
) -> None:
    with pytest.MonkeyPatch.context() as full:
        fail_at(full, call)
        with pytest.raises(StorageFull) as caught:
            await writer.put(A, content)
    assert "/secret/path" not in str(caught.value)
    assert writer.content(A) is None
    writer.assert_nothing_is_held()
    assert await writer.put(A, content) is Published.STORED
    assert writer.restarts() == 0


async def test_one_that_fails_hurts_no_other_of_its_batch(writer: Writer) -> None:
    good = [artifact(str(number)) for number in range(20)]
    bad = artifact("x" * 300)  # a name that is too long for a file
    async with writer.publishing():
        tasks = [await writer.begin(writer.put(entry, SMALL)) for entry in (*good, bad)]
    assert isinstance(await tasks.pop().error(), StorageError)
    for task in tasks:
        assert await task.result() is Published.STORED
    assert [len(batch) for batch in writer.store.publications] == [1, len(good) + 1]
    assert writer.restarts() == 0


# The evictor.


async def test_evictor_is_told_of_what_was_stored_and_of_nothing_else(writer: Writer) -> None:
    await writer.put(A, SMALL)
    await writer.put_body(artifact("B"), in_chunks(LARGE))
    assert await told(writer.evictor) == [
        StoredKey(A, on_disk(len(SMALL))),
        StoredKey(artifact("B"), on_disk(len(LARGE))),
    ]
    assert await writer.put(A, b"again") is Published.EXISTS
    with pytest.MonkeyPatch.context() as full:
        fail_at(full, "writev")
        with pytest.raises(StorageFull):
            await writer.put(artifact("C"), SMALL)
    assert await told(writer.evictor) == []


# Cancellation.


async def test_commit_of_a_large_artifact_goes_on_though_its_client_left(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    discarded_during_commit: list[bool] = []
    real_discard = TemporaryFile.discard

    def discard(file: TemporaryFile) -> None:
        discarded_during_commit.append(writer.content(A) is None)
        real_discard(file)

    monkeypatch.setattr(TemporaryFile, "discard", discard)
    with writer.store.publish_gate.closed():
        task = await writer.begin(writer.put(A, LARGE))
        await writer.store.publish_gate.reached()
        task.scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert not task.is_done()
        assert discarded_during_commit == []
    await task.result()  # what is shielded is not cancelled any more
    assert discarded_during_commit == [False]
    assert writer.content(A) == LARGE
    writer.assert_nothing_is_held()


# Messages.


def test_message_weighs_what_it_holds_in_memory_and_does_not_show_it(
    temporary: TemporaryFolder,
) -> None:
    small = Publish(artifact("A"), (b"sec", b"ret"))
    assert small.weight == 6
    assert "sec" not in repr(small)
    file = temporary.create()
    file.write([LARGE])
    assert Publish(artifact("A"), file).weight == 0
    file.discard()


# Metrics.


async def test_commits_are_counted_by_the_kinds_of_their_files(writer: Writer) -> None:
    keys = [artifact("ONE"), artifact("TWO"), Key(A.project, Kind.GRADLE, "ONE")]
    async with writer.publishing():
        tasks = [await writer.begin(writer.put(key, SMALL)) for key in keys]
    for task in tasks:
        await task.result()
    found = Scrape.of(writer.metrics)
    for kind, commits, files in ("artifact", 2, 3), ("gradle", 1, 1), ("module", 0, 0):
        assert found.value("cache_actors_commit_files_count", kind=kind) == commits
        assert found.value("cache_actors_commit_files_sum", kind=kind) == files
        assert found.value("cache_actors_commit_duration_seconds_count", kind=kind) == commits


async def test_upload_counts_as_a_temporary_file_while_it_is_one(writer: Writer) -> None:
    def files() -> float:
        return Scrape.of(writer.metrics).value("cache_actors_temporary_files")

    seen: list[float] = []

    async def chunks() -> AsyncGenerator[bytes, None]:
        yield LARGE
        seen.append(files())

    for name in "ONE", "TWO":
        await writer.client.store(artifact(name), chunks())
    async with aclosing(chunks()) as unread:
        assert await writer.client.store(artifact("TWO"), unread) is Published.EXISTS
    assert seen == [1, 1]
    assert files() == 0
