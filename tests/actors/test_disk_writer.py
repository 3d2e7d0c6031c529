"""Of many who store one artifact the first one wins, and all of them can count on it."""

from __future__ import annotations

import errno
import hashlib
import os
import random
from collections import Counter
from contextlib import aclosing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest
import trio
import trio.testing

from cache_actors.actors.disk_writer import DiskWriter, DiskWriterClient, Publish
from cache_actors.actors.evictor import EvictorClient
from cache_actors.actors.hands import ThreadHands
from cache_actors.actors.upload import SMALL_BYTES, EmptyUpload, WrongDigest
from cache_actors.storage.capacity import on_disk
from cache_actors.storage.errors import StorageError, StorageFull
from cache_actors.storage.files import Publication, Published
from cache_actors.storage.temporary import TemporaryFile, TemporaryFolder
from cache_actors.supervision import ActorCrashed, ActorStopped, Mailbox, actor_child
from tests.support.metrics import Scrape, new_metrics

from .helpers import (
    OTHER_PROJECT,
    Body,
    CountingThreads,
    Task,
    WatchedBudget,
    artifact,
    begin,
    fail_writes,
    in_chunks,
    leave_no_room,
    leftovers,
    told,
)
from .stores import Gate, GatedStore

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Iterator

    from cache_actors.storage.layout import Entry
    from tests.supervision.small_actors import Root

    from .helpers import Run

A = artifact("A")
SMALL = b"small"
LARGE = random.randbytes(SMALL_BYTES + 100)
CONTENTS = pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
MAX_WEIGHT = 2 * SMALL_BYTES


class Writer:
    """A running disk writer, and its client."""

    def __init__(self, store: GatedStore, uploads: TemporaryFolder) -> None:
        self.store = store
        self.uploads = uploads
        self.memory = WatchedBudget(4 * SMALL_BYTES)
        self.disk_threads, self.stream_threads = CountingThreads(2), CountingThreads()
        self.mailbox = Mailbox("disk_writer", capacity=300, max_weight=MAX_WEIGHT)
        self.evictor = Mailbox("evictor", capacity=100)
        threads = self.stream_threads.as_limiter()
        self.metrics = new_metrics()
        self.client = DiskWriterClient(
            self.mailbox.address, store, uploads, self.memory, threads, self.metrics
        )
        self.child = actor_child(self.mailbox, self._new, shutdown=1)
        self.root: Root

    def _new(self) -> DiskWriter:
        evictor = EvictorClient(self.evictor.address)
        threads = self.disk_threads.as_limiter()
        hands: ThreadHands[Publication, Published | OSError] = ThreadHands(
            lambda batch: self.store.publish(batch), threads
        )
        return DiskWriter(hands, self.store, evictor, threads, self.metrics)

    async def put(self, entry: Entry, content: bytes) -> Published:
        return await self.client.store(entry, in_chunks(content), len(content))

    async def put_unknown(self, entry: Entry, content: bytes) -> Published:
        return await self.client.store(entry, in_chunks(content))

    async def put_body(
        self, entry: Entry, body: AsyncIterable[bytes], digest: bytes | None = None
    ) -> Published:
        return await self.client.store(entry, body, expected_digest=digest)

    def path(self, entry: Entry) -> Path:
        return entry.path(self.store.root)

    def content(self, entry: Entry) -> bytes | None:
        """What is stored."""
        path = self.path(entry)
        return path.read_bytes() if path.exists() else None

    def restarts(self) -> int:
        return self.root.child(self.mailbox.name).restarts

    @contextmanager
    def held_up(self, entry: Entry) -> Iterator[Gate]:
        """Hold up publications of `entry` while the context lasts."""
        gate = self.store.publish_gates[self.path(entry)] = Gate()
        gate.close()
        try:
            yield gate
        finally:
            gate.open()

    def assert_nothing_is_held(self) -> None:
        assert self.memory.taken == 0
        assert self.memory.most <= self.memory.limit
        assert leftovers(self.uploads) == []
        assert self.mailbox._weight.taken == 0


@pytest.fixture
async def writer(run_tree: Run, storage: Path, temporary: TemporaryFolder) -> Writer:
    writer = Writer(GatedStore(storage, temporary, durable=True), temporary)
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


@CONTENTS
async def test_artifact_that_exists_stays_as_it_is(writer: Writer, content: bytes) -> None:
    await writer.put(A, b"first")
    before = os.stat(writer.path(A))  # noqa: PTH116
    assert await writer.put(A, content) is Published.EXISTS
    assert await writer.put_body(A, in_chunks(content)) is Published.EXISTS
    after = os.stat(writer.path(A))  # noqa: PTH116
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert writer.content(A) == b"first"
    writer.assert_nothing_is_held()


async def test_large_artifact_that_exists_is_not_read_nor_sent_to_the_writer(
    writer: Writer,
) -> None:
    await writer.put(A, SMALL)
    body = Body(LARGE)
    assert await writer.client.store(A, body, len(LARGE)) is Published.EXISTS
    assert not body.is_read
    assert len(writer.store.publications) == 1
    assert writer.disk_threads.trips == 1


async def test_one_id_in_two_projects_is_two_artifacts(writer: Writer) -> None:
    other = artifact("A", OTHER_PROJECT)
    await writer.put(A, SMALL)
    assert await writer.put(other, LARGE) is Published.STORED
    assert (writer.content(A), writer.content(other)) == (SMALL, LARGE)


async def test_small_artifact_costs_one_trip_to_a_thread(writer: Writer) -> None:
    await writer.put(A, bytes(SMALL_BYTES))
    assert (writer.disk_threads.trips, writer.stream_threads.trips) == (1, 0)


async def test_all_that_waits_is_published_in_one_trip(
    writer: Writer, nursery: trio.Nursery
) -> None:
    mine = [artifact(str(number)) for number in range(60)]
    with writer.held_up(A) as gate:
        tasks = [await begin(nursery, lambda: writer.put(A, SMALL))]
        await gate.reached()
        tasks += [await begin(nursery, partial(writer.put, entry, SMALL)) for entry in mine]
    for task in tasks:
        assert await task.result() is Published.STORED
    assert [len(batch) for batch in writer.store.publications] == [1, len(mine)]


async def test_artifact_is_not_acknowledged_before_it_is_published(
    writer: Writer, nursery: trio.Nursery
) -> None:
    for content in (SMALL, LARGE):
        entry = artifact(f"SIZE{len(content)}")
        with writer.held_up(entry) as gate:
            task = await begin(nursery, partial(writer.put, entry, content))
            await gate.reached()
            await trio.testing.wait_all_tasks_blocked()
            assert not task.is_done()
        assert await task.result() is Published.STORED


@CONTENTS
async def test_artifact_is_on_disk_before_it_is_acknowledged(
    writer: Writer, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal: list[str] = []
    real_fdatasync, real_fsync, real_link = os.fdatasync, os.fsync, os.link

    def fdatasync(fd: int) -> None:
        real_fdatasync(fd)
        assert os.fstat(fd).st_size == len(content)
        journal.append("synced the file")

    def fsync(fd: int) -> None:
        real_fsync(fd)
        if os.readlink(f"/proc/self/fd/{fd}") == str(writer.path(A).parent):  # noqa: PTH115
            journal.append("synced its folder")

    def link(source: str, target: Path, **how: object) -> None:
        real_link(source, target, **how)  # type: ignore[arg-type]
        journal.append("linked")

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", link)
    await writer.put(A, content)
    journal.append("acknowledged")
    assert journal == ["synced the file", "linked", "synced its folder", "acknowledged"]


@CONTENTS
async def test_uploads_may_wait_on_another_device(
    run_tree: Run, storage: Path, temporary: TemporaryFolder, content: bytes
) -> None:
    elsewhere = Path("/dev/shm")  # noqa: S108
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == storage.stat().st_dev:
        pytest.skip("there is no other device")
    uploads = TemporaryFolder(elsewhere / f"cache-actors-test-{os.getpid()}")
    try:
        writer = Writer(GatedStore(storage, temporary, durable=True), uploads)
        writer.root = await run_tree(writer.child)
        assert await writer.put(A, content) is Published.STORED
        assert writer.content(A) == content
        writer.assert_nothing_is_held()
        assert leftovers(temporary) == []
    finally:
        uploads.remove()
        uploads.path.parent.rmdir()


# Many at once.


async def test_of_200_uploads_of_one_id_one_is_stored_whole_and_all_succeed(
    writer: Writer, nursery: trio.Nursery
) -> None:
    sizes = [10, 10_000, SMALL_BYTES, SMALL_BYTES + 1]
    contents = [random.randbytes(sizes[number % 4]) for number in range(200)]
    tasks = [Task[Published]() for _ in contents]
    for task, content in zip(tasks, contents, strict=True):
        known = len(content) if content[0] % 2 else None
        nursery.start_soon(
            task.run, partial(writer.client.store, A, in_chunks(content, 50_000), known)
        )
    outcomes = [await task.result() for task in tasks]
    assert Counter(outcomes) == {Published.STORED: 1, Published.EXISTS: 199}
    assert writer.content(A) == contents[outcomes.index(Published.STORED)]
    writer.assert_nothing_is_held()


async def test_commits_of_one_id_never_overlap(writer: Writer, nursery: trio.Nursery) -> None:
    with writer.held_up(A) as gate:
        first = await begin(nursery, lambda: writer.put(A, SMALL))
        await gate.reached()
        waiting = [await begin(nursery, partial(writer.put, A, c)) for c in (b"second", LARGE)]
        await trio.testing.wait_all_tasks_blocked()
        assert not any(task.is_done() for task in (first, *waiting))
        assert writer.content(A) is None
    assert await first.result() is Published.STORED
    assert [await task.result() for task in waiting] == [Published.EXISTS] * 2
    assert writer.content(A) == SMALL
    assert writer.store.most_at_once[writer.path(A)] == 1


async def test_artifacts_that_wait_for_the_disk_are_bounded_in_bytes_and_none_is_refused(
    writer: Writer, nursery: trio.Nursery
) -> None:
    entries = [artifact(str(number)) for number in range(12)]
    with writer.held_up(A) as gate:
        first = await begin(nursery, lambda: writer.put(A, SMALL))
        await gate.reached()
        size = MAX_WEIGHT // 4
        writer.memory.limit = 20 * size
        tasks = [await begin(nursery, partial(writer.put, e, bytes(size))) for e in entries]
        assert writer.mailbox._weight.taken <= MAX_WEIGHT
        assert not any(task.is_done() for task in tasks)
    for task in (first, *tasks):
        assert await task.result() is Published.STORED
    writer.assert_nothing_is_held()


# Ends.


@pytest.mark.parametrize("size", [0, None])
async def test_empty_upload_stores_nothing(writer: Writer, size: int | None) -> None:
    with pytest.raises(EmptyUpload):
        await writer.client.store(A, in_chunks(b""), size)
    assert writer.content(A) is None
    assert writer.store.publications == []


@CONTENTS
async def test_body_other_than_declared_stores_nothing(writer: Writer, content: bytes) -> None:
    digest = hashlib.sha256(content).digest()
    with pytest.raises(WrongDigest):
        await writer.put_body(A, in_chunks(content + b"?"), digest)
    assert writer.content(A) is None
    writer.assert_nothing_is_held()
    assert await writer.put_body(A, in_chunks(content), digest) is Published.STORED


@CONTENTS
async def test_upload_cut_short_stores_nothing(
    writer: Writer, nursery: trio.Nursery, content: bytes
) -> None:
    body = Body(content, error=ConnectionResetError())
    task = await begin(nursery, lambda: writer.put_body(A, body))
    body.come.set()
    assert isinstance(await task.error(), ConnectionResetError)
    assert writer.content(A) is None
    assert writer.store.publications == []
    writer.assert_nothing_is_held()


@CONTENTS
async def test_full_disk_stores_nothing_and_is_no_crash(writer: Writer, content: bytes) -> None:
    with pytest.MonkeyPatch.context() as full:
        fail_writes(full)
        with pytest.raises(StorageFull):
            await writer.put(A, content)
        assert writer.content(A) is None
        writer.assert_nothing_is_held()
    assert await writer.put(A, content) is Published.STORED
    assert writer.content(A) == content
    assert writer.restarts() == 0


@CONTENTS
@pytest.mark.parametrize(
    ("call", "number", "kind"),
    [
        ("fdatasync", errno.EIO, StorageError),
        ("fdatasync", errno.ENOSPC, StorageFull),
        ("fsync", errno.EIO, StorageError),
        ("link", errno.ENOSPC, StorageFull),
        ("link", errno.EDQUOT, StorageFull),
    ],
)
async def test_whatever_the_disk_fails_at_stores_nothing_and_is_no_crash(
    writer: Writer, content: bytes, call: str, number: int, kind: type[StorageError]
) -> None:
    def failing(*_: object, **__: object) -> NoReturn:
        raise OSError(number, os.strerror(number), "/secret/path")

    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(os, call, failing)
        with pytest.raises(StorageError) as caught:
            await writer.put(A, content)
    assert type(caught.value) is kind
    assert "/secret/path" not in str(caught.value)
    assert writer.content(A) is None
    writer.assert_nothing_is_held()
    assert await writer.put(A, content) is Published.STORED
    assert writer.restarts() == 0


async def test_one_that_fails_hurts_no_other_of_its_batch(
    writer: Writer, nursery: trio.Nursery
) -> None:
    good = [artifact(str(number)) for number in range(20)]
    bad = artifact("x" * 300)  # a name that is too long for a file
    with writer.held_up(A) as gate:
        first = await begin(nursery, lambda: writer.put(A, SMALL))
        await gate.reached()
        tasks = [await begin(nursery, partial(writer.put, e, SMALL)) for e in (*good, bad)]
    await first.result()
    assert isinstance(await tasks.pop().error(), StorageError)
    for task in tasks:
        assert await task.result() is Published.STORED
    assert [len(batch) for batch in writer.store.publications] == [1, len(good) + 1]
    assert writer.restarts() == 0


@CONTENTS
async def test_crash_of_the_writer_is_heard_and_leaves_nothing_behind(
    writer: Writer, content: bytes
) -> None:
    with pytest.MonkeyPatch.context() as bug:
        bug.setattr(writer.store, "publish", lambda _batch: 1 / 0)
        with pytest.raises(ActorCrashed):
            await writer.put(A, content)
    writer.assert_nothing_is_held()
    assert await writer.put(A, content) is Published.STORED
    assert writer.restarts() == 1


@CONTENTS
async def test_stopped_writer_is_heard_and_leaves_nothing_behind(
    writer: Writer, content: bytes
) -> None:
    await writer.root.stop()
    with pytest.raises(ActorStopped):
        await writer.put(A, content)
    writer.assert_nothing_is_held()


# Room.


@CONTENTS
@pytest.mark.parametrize("is_known", [True, False], ids=["size known", "size unknown"])
async def test_upload_leaves_the_reserve_alone(
    writer: Writer, content: bytes, is_known: bool
) -> None:
    await writer.put(A, SMALL)
    late = artifact("LATE")
    with pytest.MonkeyPatch.context() as full:
        leave_no_room(full)
        with pytest.raises(StorageFull):
            await (writer.put if is_known else writer.put_unknown)(late, content)
        assert writer.content(late) is None
        writer.assert_nothing_is_held()
        assert await writer.put(A, content) is Published.EXISTS  # this needs none
    assert await writer.put(late, content) is Published.STORED
    assert writer.restarts() == 0


async def test_evictor_is_told_of_what_was_stored(writer: Writer) -> None:
    await writer.put(A, SMALL)
    await writer.put_body(artifact("B"), in_chunks(LARGE))
    assert await told(writer.evictor) == [on_disk(len(SMALL)), on_disk(len(LARGE))]


async def test_evictor_is_not_told_of_what_was_not_stored(writer: Writer) -> None:
    await writer.put(A, SMALL)
    await told(writer.evictor)
    assert await writer.put(A, b"again") is Published.EXISTS
    with pytest.MonkeyPatch.context() as full:
        fail_writes(full)
        with pytest.raises(StorageFull):
            await writer.put(artifact("B"), SMALL)
    assert await told(writer.evictor) == []


async def test_evictor_is_told_once_of_a_batch(writer: Writer, nursery: trio.Nursery) -> None:
    mine = [artifact(str(number)) for number in range(20)]
    with writer.held_up(A) as gate:
        tasks = [await begin(nursery, lambda: writer.put(A, SMALL))]
        await gate.reached()
        tasks += [await begin(nursery, partial(writer.put, e, SMALL)) for e in (*mine, *mine, A)]
    for task in tasks:
        await task.result()
    assert await told(writer.evictor) == [on_disk(len(SMALL)), len(mine) * on_disk(len(SMALL))]


async def test_evictor_that_does_not_listen_holds_up_nobody(writer: Writer) -> None:
    for number in range(150):
        assert await writer.put(artifact(str(number)), SMALL) is Published.STORED
    assert writer.evictor.depth() == 100
    writer.evictor.close()
    assert await writer.put(artifact("last"), SMALL) is Published.STORED
    assert writer.restarts() == 0


# Cancellation.


async def test_commit_of_a_large_artifact_goes_on_though_its_client_left(
    writer: Writer, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    discarded_during_commit: list[bool] = []
    real_discard = TemporaryFile.discard

    def discard(file: TemporaryFile) -> None:
        discarded_during_commit.append(writer.content(A) is None)
        real_discard(file)

    monkeypatch.setattr(TemporaryFile, "discard", discard)
    with writer.held_up(A) as gate:
        task = await begin(nursery, lambda: writer.put(A, LARGE))
        await gate.reached()
        task.scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert not task.is_done()
        assert discarded_during_commit == []
    await task.result()  # what is shielded is not cancelled any more
    assert discarded_during_commit == [False]
    assert writer.content(A) == LARGE
    writer.assert_nothing_is_held()


async def test_commit_of_a_large_artifact_that_waits_its_turn_goes_on_though_its_client_left(
    writer: Writer, nursery: trio.Nursery
) -> None:
    late = artifact("LATE")
    with writer.held_up(A) as gate:
        first = await begin(nursery, lambda: writer.put(A, SMALL))
        await gate.reached()
        task = await begin(nursery, lambda: writer.put(late, LARGE))
        with trio.fail_after(5):
            while not writer.mailbox.depth():
                await trio.lowlevel.checkpoint()
        task.scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert not task.is_done()
    await first.result()
    await task.result()
    assert writer.content(late) == LARGE
    writer.assert_nothing_is_held()


async def test_commit_of_a_small_artifact_is_finished_behind_a_client_that_left(
    writer: Writer, nursery: trio.Nursery
) -> None:
    with writer.held_up(A) as gate:
        task = await begin(nursery, lambda: writer.put(A, SMALL))
        await gate.reached()
        task.scope.cancel()
        await task.cancelled()
    assert await writer.put(A, b"second") is Published.EXISTS
    assert writer.content(A) == SMALL
    writer.assert_nothing_is_held()


async def test_small_artifact_whose_client_left_before_its_turn_is_not_written(
    writer: Writer, nursery: trio.Nursery
) -> None:
    with writer.held_up(A) as gate:
        first = await begin(nursery, lambda: writer.put(A, SMALL))
        await gate.reached()
        second = await begin(nursery, lambda: writer.put(A, b"second"))
        second.scope.cancel()
        await second.cancelled()
    await first.result()
    assert await writer.put(A, b"third") is Published.EXISTS
    assert [len(batch) for batch in writer.store.publications] == [1, 1]
    writer.assert_nothing_is_held()


# Messages.


def test_message_weighs_what_it_holds_in_memory(temporary: TemporaryFolder) -> None:
    assert Publish(Path("a"), (b"12", b"345")).weight == 5
    file = temporary.create()
    file.write([LARGE])
    assert Publish(Path("a"), file).weight == 0
    file.discard()


def test_content_does_not_show_in_what_is_printed() -> None:
    assert "secret" not in repr(Publish(Path("a"), (b"secret",)))


# Metrics.


async def test_commits_and_their_syncs_are_counted(writer: Writer) -> None:
    await writer.put(artifact("ONE"), SMALL)
    found = Scrape.of(writer.metrics)
    assert found.value("cache_actors_commit_files_sum", kind="artifact") == 1
    assert found.value("cache_actors_commit_duration_seconds_count", kind="artifact") == 1


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
