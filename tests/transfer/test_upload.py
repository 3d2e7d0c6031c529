"""Uploads stay within their memory, and leave nothing behind however they end."""

import errno
import hashlib
import os
import random
from collections.abc import AsyncIterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from cache_actors.storage.errors import StorageFull
from cache_actors.storage.files.store import FileStore
from cache_actors.storage.files.temporary import TemporaryFile, TemporaryFolder
from cache_actors.transfer import upload as upload_module
from cache_actors.transfer.upload import PATIENCE, SMALL_BYTES, EmptyUpload, Upload, WrongDigest
from tests.actors.helpers import (
    Body,
    CountingThreads,
    FastBody,
    Tasks,
    WatchedShares,
    artifact,
    fail_at,
    in_chunks,
    leftovers,
)
from tests.actors.stores import Gate
from tests.support.metrics import new_metrics
from tests.support.waiting import eventually_async

CHUNK = 64 * 1024
LARGE = random.randbytes(SMALL_BYTES + 1)
OWNER = ("project", "sender")


class Uploads(Tasks):
    """Receives uploads within one budget, and keeps what has come of them.

    Attributes:
        received: the bytes of those that were received whole.
    """

    def __init__(
        self, store: FileStore, temporary: TemporaryFolder, limit: int, nursery: trio.Nursery
    ) -> None:
        super().__init__(nursery)
        self.memory = WatchedShares(4 * limit)  # of which one sender has a quarter
        self.threads = CountingThreads()
        self.metrics = new_metrics()
        self.temporary = temporary
        self.received: list[bytes] = []
        self.key = artifact("A")
        self.path = self.key.path(store.root)
        self._store = store

    async def receive(
        self, chunks: AsyncIterable[bytes], size: int | None = None, digest: bytes | None = None
    ) -> type[tuple[bytes, ...] | TemporaryFile] | None:
        """Receive an upload, and return the type of what has come of it; None if it exists."""
        threads = self.threads.as_limiter()
        async with Upload(
            self._store, self.temporary, self.memory, OWNER, threads, self.metrics
        ) as upload:
            if not await upload.receive(self.key, chunks, size, digest):
                return None
            await upload.prepare()
            source = upload.source()
            self.received.append(content_of(source))
            return type(source)

    async def take_all_memory(self) -> list[Body]:
        """Begin two uploads that take it all; each gives its half back when its end comes."""
        bodies = [Body(bytes(SMALL_BYTES)) for _ in range(2)]
        for body in bodies:
            await self.begin(self.receive(body, SMALL_BYTES))
        return bodies

    def assert_nothing_is_held(self) -> None:
        assert self.memory.taken == 0
        assert self.memory.most <= self.memory.limit
        assert leftovers(self.temporary) == []


@pytest.fixture
async def uploads(store: FileStore, temporary: TemporaryFolder, nursery: trio.Nursery) -> Uploads:
    return Uploads(store, temporary, 2 * SMALL_BYTES, nursery)


@pytest.fixture
async def jumping(uploads: Uploads, autojump_clock: MockClock, no_threads: None) -> Uploads:
    """The same, on a clock that jumps when everybody waits."""
    return uploads


def content_of(source: Sequence[bytes] | TemporaryFile) -> bytes:
    if not isinstance(source, TemporaryFile):
        return b"".join(source)
    content = os.pread(source._fd, 1 << 30, 0)
    assert not any(content[source.size :])  # room that was reserved
    return content[: source.size]


def sizes_in(temporary: TemporaryFolder) -> list[int]:
    """The sizes of the files there that are open, with a name or without one."""
    sizes = []
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of the listing itself
            if str(fd.readlink()).startswith(f"{temporary.path}/"):
                sizes.append(os.stat(int(fd.name)).st_size)  # noqa: PTH116
    return sizes


def publish(path: Path) -> None:
    """Have an artifact there."""
    path.parent.mkdir(parents=True)
    path.write_bytes(b"exists")


# Where the bytes go.

SIZES = [1, CHUNK, SMALL_BYTES - 1, SMALL_BYTES, SMALL_BYTES + 1, 4 * SMALL_BYTES + 7]


@pytest.mark.parametrize("is_known", [True, False], ids=["size known", "size unknown"])
@pytest.mark.parametrize("chunk", [1000, CHUNK, 10 * SMALL_BYTES])
@pytest.mark.parametrize("size", SIZES)
async def test_small_ones_stay_in_memory_and_large_ones_go_to_a_file(
    uploads: Uploads, size: int, chunk: int, is_known: bool
) -> None:
    content = random.randbytes(size)
    where = await uploads.receive(in_chunks(content, chunk), size if is_known else None)
    assert where is (tuple if size <= SMALL_BYTES else TemporaryFile)
    assert (uploads.threads.trips == 0) is (size <= SMALL_BYTES)
    assert uploads.received == [content]
    uploads.assert_nothing_is_held()


async def test_large_one_is_written_in_pieces_larger_than_its_chunks(uploads: Uploads) -> None:
    pieces = 8
    size = pieces * SMALL_BYTES
    await uploads.receive(in_chunks(bytes(size), chunk := 4096), size)
    writes = size // (SMALL_BYTES + chunk) + 1
    assert uploads.threads.trips == 1 + writes + 2  # opened first; synced and discarded in the end


@pytest.mark.parametrize("is_known", [True, False], ids=["size known", "size unknown"])
@pytest.mark.parametrize(("seconds", "trips"), [(60.0, 1), (0.0, 7)], ids=["to its end", "briefly"])
async def test_thread_that_writes_reads_on_and_then_lets_others_have_their_turn(
    uploads: Uploads,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    trips: int,
    is_known: bool,
) -> None:
    monkeypatch.setattr(upload_module, "READ_ON_SECONDS", seconds)
    content = random.randbytes(8 * SMALL_BYTES)
    await uploads.receive(FastBody(content), len(content) if is_known else None)
    assert uploads.received == [content]
    # Without a size it is read until it is large, and needs a file; with one, the file comes first.
    assert uploads.threads.trips == trips + (is_known and seconds == 0) + 2
    uploads.assert_nothing_is_held()


async def test_large_one_is_on_its_way_to_the_disk_while_it_comes(
    uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    monkeypatch.setattr(TemporaryFile, "start_sync", lambda file: begun.append(file.size))
    await uploads.receive(in_chunks(2 * LARGE))
    assert begun[0] < len(LARGE) + CHUNK
    assert begun[-1] == 2 * len(LARGE)


async def test_empty_body_is_refused(uploads: Uploads) -> None:
    for size in (None, 0):
        with pytest.raises(EmptyUpload):
            await uploads.receive(in_chunks(b""), size)
    assert uploads.threads.trips == 0
    uploads.assert_nothing_is_held()


async def test_announced_size_is_not_believed(uploads: Uploads) -> None:
    for announced in (1, 1000, len(LARGE) + 5, 100 * SMALL_BYTES):
        await uploads.receive(in_chunks(LARGE), announced)
    assert uploads.received == [LARGE] * 4
    uploads.assert_nothing_is_held()


# Those that exist.


async def test_one_of_unknown_size_that_exists_is_read_until_it_is_large(uploads: Uploads) -> None:
    publish(uploads.path)
    body = Body(LARGE)  # the rest does not come
    assert await uploads.receive(body) is None
    uploads.assert_nothing_is_held()


# Digests.


@pytest.mark.parametrize("is_known", [True, False], ids=["size known", "size unknown"])
@pytest.mark.parametrize("content", [b"small", LARGE], ids=["small", "large"])
async def test_digest_is_checked(uploads: Uploads, content: bytes, is_known: bool) -> None:
    size = len(content) if is_known else None
    right = hashlib.sha256(content).digest()
    assert await uploads.receive(in_chunks(content, 1000), size, right) is not None
    for changed in (content[:-1] + b"?", content[:-1], content + b"?"):
        with pytest.raises(WrongDigest):
            await uploads.receive(in_chunks(changed, 1000), None, right)
    assert uploads.received == [content]
    uploads.assert_nothing_is_held()


# Memory.


@pytest.mark.parametrize(("size", "taken"), [(8, 8), (None, 4)])
async def test_memory_is_taken_for_what_is_known_to_come_and_held_to_the_end(
    uploads: Uploads, size: int | None, taken: int
) -> None:
    body = Body(b"1234", rest=b"5678")
    task = await uploads.begin(uploads.receive(body, size))
    assert uploads.memory.taken == taken
    body.come.set()
    await task.result()
    assert uploads.memory.most == 8
    uploads.assert_nothing_is_held()


async def test_large_one_holds_no_memory_while_it_waits_for_its_client(uploads: Uploads) -> None:
    body = Body(LARGE, rest=b"rest")
    task = await uploads.begin(uploads.receive(body, len(LARGE) + 4))
    await eventually_async(lambda: uploads.threads.trips >= 2 and not uploads.memory.taken)
    body.come.set()
    assert await task.result() is TemporaryFile
    uploads.assert_nothing_is_held()


async def test_small_one_that_waits_too_long_for_memory_goes_to_a_file(jumping: Uploads) -> None:
    await jumping.take_all_memory()
    assert await jumping.receive(in_chunks(b"small"), 5) is TemporaryFile
    assert trio.current_time() == PATIENCE
    assert jumping.received == [b"small"]


async def test_small_one_waits_unread_for_memory_and_needs_no_file_if_it_gets_it_in_time(
    jumping: Uploads,
) -> None:
    holders = await jumping.take_all_memory()
    body = in_chunks(b"small")
    task = await jumping.begin(jumping.receive(body, 5))
    await trio.sleep(PATIENCE - 0.1)
    assert not body.is_read
    holders[0].come.set()
    assert await task.result() is tuple
    assert jumping.threads.trips == 0


async def test_one_of_unknown_size_waits_for_no_memory(jumping: Uploads) -> None:
    await jumping.take_all_memory()
    assert await jumping.receive(in_chunks(LARGE)) is TemporaryFile
    assert await jumping.receive(in_chunks(b"small")) is TemporaryFile
    assert trio.current_time() == 0
    assert jumping.received == [LARGE, b"small"]


@pytest.mark.parametrize("seed", range(3))
async def test_many_at_once_stay_within_the_budget(uploads: Uploads, seed: int) -> None:
    chances = random.Random(seed)
    uploads.memory.limit = 4 * SMALL_BYTES
    wanted: list[bytes] = []
    tasks = []
    for _ in range(60):
        content = chances.randbytes(chances.choice([1, 1000, CHUNK, SMALL_BYTES, len(LARGE)]))
        wanted.append(content)
        size = chances.choice([len(content), None])
        chunk = chances.choice([1000, CHUNK, SMALL_BYTES])
        tasks.append(uploads.start(uploads.receive(in_chunks(content, chunk), size)))
    for task in tasks:
        await task.result()
    assert sorted(uploads.received) == sorted(wanted)
    assert uploads.memory.most > 0
    uploads.assert_nothing_is_held()


# Ends.

BODIES = {"small": (b"small", 8), "small of unknown size": (b"small", None), "large": (LARGE, None)}


@pytest.mark.parametrize("how", BODIES)
async def test_cancelled_upload_leaves_nothing_behind(uploads: Uploads, how: str) -> None:
    first, size = BODIES[how]
    task = await uploads.begin(uploads.receive(Body(first), size))
    await task.leave()
    uploads.assert_nothing_is_held()


async def test_upload_cancelled_while_it_waits_for_memory_takes_none(uploads: Uploads) -> None:
    bodies = Body(b"1"), Body(b"1"), Body(b"small")
    tasks = [await uploads.begin(uploads.receive(body, SMALL_BYTES)) for body in bodies]
    for task in reversed(tasks):
        await task.leave()
    uploads.assert_nothing_is_held()


async def test_file_is_not_closed_while_a_thread_writes_to_it(
    uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, written = Gate(), list[int]()
    real_writev = os.writev

    def writev(fd: int, buffers: Sequence[memoryview]) -> int:
        gate.go_through()
        written.append(real_writev(fd, buffers))
        return written[-1]

    monkeypatch.setattr(os, "writev", writev)
    with gate.closed():
        task = await uploads.begin(uploads.receive(Body(LARGE), len(LARGE) + 1))
        await gate.reached()
        task.scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert not task.is_done()
    await task.leave()
    assert sum(written) == len(LARGE)
    uploads.assert_nothing_is_held()


@pytest.mark.parametrize("size", [None, len(LARGE)])
async def test_failing_disk_is_a_storage_error(uploads: Uploads, size: int | None) -> None:
    with pytest.MonkeyPatch.context() as failing:
        fail_at(failing, "writev")
        with pytest.raises(StorageFull):
            await uploads.receive(in_chunks(LARGE), size)
        uploads.assert_nothing_is_held()
    assert await uploads.receive(in_chunks(LARGE), size) is TemporaryFile
    uploads.assert_nothing_is_held()


# Room on the disk.


def full(*_: object) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def test_room_is_tried_before_the_body_is_asked_for_and_not_kept(
    uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_reserve, reserved = os.posix_fallocate, list[tuple[int, bool]]()
    body = Body(LARGE, rest=b"rest")

    def reserve(fd: int, offset: int, size: int) -> None:
        reserved.append((size, body.is_read))
        really_reserve(fd, offset, size)

    monkeypatch.setattr(os, "posix_fallocate", reserve)
    task = await uploads.begin(uploads.receive(body, len(LARGE) + 4))
    await eventually_async(lambda: uploads.threads.trips >= 2 and not uploads.memory.taken)
    assert reserved == [(SMALL_BYTES, False)]
    assert sizes_in(uploads.temporary) == [len(LARGE)]
    body.come.set()
    assert await task.result() is TemporaryFile
    assert uploads.received == [LARGE + b"rest"]
    uploads.assert_nothing_is_held()


async def test_full_disk_is_told_before_the_body_is_asked_for(
    uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", full)
    body = in_chunks(LARGE)
    with pytest.raises(StorageFull):
        await uploads.receive(body, len(LARGE))
    assert not body.is_read
    uploads.assert_nothing_is_held()
    assert await uploads.receive(in_chunks(LARGE), None) is TemporaryFile
    uploads.assert_nothing_is_held()


async def test_room_is_looked_for_before_each_piece_that_a_thread_reads_on(
    uploads: Uploads, store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def check_room(size: int, _files: int = 1) -> None:
        asked.append(size)
        if len(asked) == 4:
            full()

    monkeypatch.setattr(upload_module, "READ_ON_SECONDS", 60.0)
    monkeypatch.setattr(store.capacity, "check_room", check_room)
    with pytest.raises(StorageFull):
        await uploads.receive(FastBody(2 * LARGE), 2 * len(LARGE))
    assert asked == [2 * len(LARGE), CHUNK, CHUNK, CHUNK]
    uploads.assert_nothing_is_held()


@pytest.mark.parametrize("is_full", [True, False], ids=["full", "not full"])
async def test_room_is_looked_for_where_an_upload_will_go(
    uploads: Uploads, store: FileStore, monkeypatch: pytest.MonkeyPatch, is_full: bool
) -> None:
    asked: list[int] = []

    def check_room(size: int, _files: int = 1) -> None:
        asked.append(size)
        if is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    body = in_chunks(LARGE)
    monkeypatch.setattr(store.capacity, "check_room", check_room)
    if is_full:
        with pytest.raises(StorageFull):
            await uploads.receive(body, len(LARGE))
    else:
        assert await uploads.receive(body, len(LARGE)) is TemporaryFile
    assert body.is_read is not is_full
    assert asked == [len(LARGE)] * (1 if is_full else 2)  # and again when it is written
    uploads.assert_nothing_is_held()


async def test_room_for_one_of_unknown_size_is_looked_for_as_it_comes(
    uploads: Uploads, store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def check_room(size: int, _files: int = 1) -> None:
        asked.append(size)
        if sum(asked) > 2 * SMALL_BYTES:
            full()

    monkeypatch.setattr(store.capacity, "check_room", check_room)
    body = Body(LARGE, LARGE, LARGE)  # the rest does not come
    with pytest.raises(StorageFull):
        await uploads.receive(body)
    assert asked == [0, len(LARGE), len(LARGE)]
    uploads.assert_nothing_is_held()


async def test_one_that_exists_is_not_read_and_needs_no_room(
    uploads: Uploads, store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(uploads.path)
    monkeypatch.setattr(store.capacity, "check_room", full)
    body = in_chunks(LARGE)
    assert await uploads.receive(body, len(LARGE)) is None
    assert not body.is_read
    uploads.assert_nothing_is_held()
    assert await uploads.receive(in_chunks(b"small"), 5) is tuple  # its writer will see


async def test_memory_for_what_was_only_announced_goes_to_those_who_need_it(
    jumping: Uploads,
) -> None:
    """Who announces and does not send keeps nobody waiting, and loses nothing that he has sent."""
    idle = [Body(b"1", rest=b"2") for _ in range(2)]
    tasks = [await jumping.begin(jumping.receive(body, SMALL_BYTES)) for body in idle]
    assert await jumping.receive(in_chunks(bytes(SMALL_BYTES)), SMALL_BYTES) is tuple
    for body, task in zip(idle, tasks, strict=True):
        body.come.set()
        assert await task.result() is tuple
    assert jumping.received[1:] == [b"12", b"12"]
    jumping.assert_nothing_is_held()
