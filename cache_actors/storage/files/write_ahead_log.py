"""A write-ahead log: files that have been acknowledged and may not be on the disk yet.

Theory of operation
-------------------
To sync each small file and its folder costs several times what it costs to write them. So the bytes
of a batch are appended to a log, which is synced once. Then the files get their names, are
acknowledged, and are left to the kernel, which writes them when it likes.

The log consists of two segments. When one is full, or some seconds old, batches go on in the other,
while a thread makes a *checkpoint*: it syncs the whole file system (`syncfs`). Then all files of
the first segment are on the disk, and it is made void, to be overwritten. A segment grows by zeros,
ahead of what is appended: a sync of what overwrites them is one write of the disk, as neither the
file's size nor the place of its blocks changes.

After a power cut, `recovery.py` stores again what a log holds and the disk does not. Nothing has a
name before the log has its bytes, and nobody reads a file before recovery has ended: nginx serves
no file without a decision, forgets all decisions with the memory that they lie in, and asks for new
ones a service that listens only after recovery.

Each process that writes has a log of its own, in a folder that it holds by a lock. A folder that
can be locked has lost its owner. As long as the machine has not been started anew since, the kernel
has all files of that log: the next checkpoint of another process puts them on the disk, and then
removes the log.

A batch begins at a new block of 4 KiB, so that no sync overwrites what an earlier one has made
durable. Each record holds the random number of its segment's present use, so that nothing left of
an earlier use is taken for it, and a checksum of itself beside the checksum of its file.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import shutil
import struct
import time
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from cache_actors.storage.integrity.checksum import has_checksums
from cache_actors.storage.layout import LOGS
from cache_actors.storage.locks import FolderLock, lock_abandoned
from cache_actors.storage.mounts import file_system_at

from .folders import IDENTITY_BYTES, sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SEGMENT_BYTES = 32 << 20
"""Size in bytes at which a segment is full; a process has two segments."""

MAX_AGE_SECONDS = 5.0
"""Age in seconds at which a segment is checkpointed though it is not full. A power cut may bring
back what has been evicted as long as a log has it; nothing so young is evicted."""

GROWTH_BYTES = 1 << 20
"""Zeros by which a segment grows at a time, in bytes."""

BLOCK_BYTES = 4096
"""Size in bytes of what a disk writes at once."""

DAMAGED = "damaged"
"""The file in a log's folder which says that a checkpoint has failed: the kernel may believe to
have written what the disk does not have."""

_FILE_SYSTEMS = {"bcachefs", "btrfs", "ext4", "f2fs", "overlay", "tmpfs", "xfs", "zfs"}
_MAGIC = b"cachelog"
_SEGMENT = struct.Struct(">8s8s36s")  # magic, number of the use, the machine's boot
_RECORD = struct.Struct(f">8sQ{IDENTITY_BYTES}s32sIH")  # sizes of the data and of the place last
_CHECK = struct.Struct(">I")  # CRC-32 of the above and of the place
_MAX_BUFFERS = 1024  # IOV_MAX on Linux
_ZEROS = bytes(GROWTH_BYTES)
_FLAGS = os.O_RDWR | os.O_CLOEXEC
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class LogRecord:
    """A file in the log.

    Attributes:
        place: the path from the storage folder to the file.
        time: the file's modification time, in nanoseconds since the epoch.
        project: the identity of the project's folder, as `identity_of` says.
        digest: the SHA-256 of its bytes.
        pieces: its bytes.
    """

    place: str
    time: int
    project: bytes
    digest: bytes
    pieces: Sequence[bytes | memoryview]


def can_log(root: Path) -> bool:
    """Whether the storage folder lies on a file system with attributes that one call syncs.

    Raises:
        OSError: the disk failed.
    """
    return has_checksums(root) and file_system_at(root) in _FILE_SYSTEMS


class WriteAheadLog:
    """The log of this process, below the storage folder `root`. It is made when it is needed first.

    Args:
        root: the storage folder.
        synced: called with the seconds that each sync of the log took.
        recover: stores again what a log has of which a checkpoint failed; called with its folder.
    """

    def __init__(
        self, root: Path, synced: Callable[[float], None], recover: Callable[[Path], object]
    ) -> None:
        self._root = root
        self._synced = synced
        self._recover = recover
        self._damaged: Path | None = None
        self._open: _OpenLog | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")

    def append(self, records: Sequence[LogRecord]) -> None:
        """Append `records`; on return they will survive a power cut.

        Raises:
            OSError: some may not.
        """
        with self._abandoned_if_it_fails():
            if self._damaged is not None:
                self._recover(self._damaged)
                self._damaged = None
            if self._open is None:
                self._open = _OpenLog(self._root)
            self._open.make_room(sum(map(_size, records)), self._thread)
        began = time.monotonic()
        self._open.active.append(records)
        self._synced(time.monotonic() - began)

    def rest(self) -> None:
        """Make a checkpoint of what is old; to be called while nothing is appended.

        Raises:
            OSError: an earlier checkpoint has failed.
        """
        if self._open is not None:
            with self._abandoned_if_it_fails():
                self._open.rest(self._thread)

    def close(self) -> None:
        """Make a last checkpoint, and remove the log.

        Raises:
            OSError: the log is left for recovery.
        """
        try:
            if self._open is not None:
                with self._abandoned_if_it_fails():
                    self._open.finish(self._thread)
                self._open.release()
        finally:
            self._thread.shutdown()

    @contextmanager
    def _abandoned_if_it_fails(self) -> Iterator[None]:
        """Leave the log for recovery if a checkpoint of it has failed."""
        try:
            yield
        except CheckpointFailed as failure:
            assert self._open is not None  # noqa: S101 - it is its checkpoint
            self._damaged = self._open.folder
            with suppress(OSError):  # as long as this process lives it knows
                (self._damaged / DAMAGED).touch()
                sync_folder(self._damaged)
            self._open.release()
            self._open = None
            raise failure.error from None


class CheckpointFailed(Exception):
    """The disk lost some of what the kernel was to write; the log still has it."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class _OpenLog:
    """A log's folder, held by a lock, with its segments.

    Attributes:
        folder: the folder.
        active: the segment that records are appended to.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        parent = root / LOGS
        with suppress(FileExistsError):
            parent.mkdir(mode=0o750)
        self.folder = parent / uuid4().hex
        self.folder.mkdir(mode=0o750)
        with ExitStack() as undo:
            self._lock = undo.enter_context(FolderLock(self.folder))
            self.active, self._full = (_Segment(self.folder / name) for name in "12")
            undo.callback(self.active.close)
            undo.callback(self._full.close)
            for folder in (self.folder, parent, root):
                sync_folder(folder)
            undo.pop_all()
        self._checkpoint: Future[None] | None = None

    def make_room(self, size: int, thread: ThreadPoolExecutor) -> None:
        """Go on in the other segment if this one is old, or has no room for `size` bytes."""
        if not self.active.has_room(size) or self.active.is_old():
            self._turn(thread)

    def rest(self, thread: ThreadPoolExecutor) -> None:
        """Make a checkpoint of what is old, and hold no file open of which nothing is needed."""
        if self.active.is_old():
            self._turn(thread)
        elif self.active.is_empty() and self._checkpoint is not None and self._checkpoint.done():
            self._finish_checkpoint()
            self.active.close()
            self._full.close()

    def finish(self, thread: ThreadPoolExecutor) -> None:
        """Make a checkpoint of all there is, and remove the folder."""
        self._turn(thread)
        self._finish_checkpoint()
        shutil.rmtree(self.folder, ignore_errors=True)

    def release(self) -> None:
        """Close all files, and leave the folder to others."""
        self.active.close()
        self._full.close()
        self._lock.close()

    def _turn(self, thread: ThreadPoolExecutor) -> None:
        """Go on in the other segment, and make a checkpoint of this one."""
        self._finish_checkpoint()
        self.active, self._full = self._full, self.active
        self.active.begin()
        self._checkpoint = thread.submit(self._make_checkpoint)

    def _make_checkpoint(self) -> None:
        checkpoint(self._root)
        with suppress(OSError):  # its records are on the disk; it does no harm that it has them too
            self._full.make_void()

    def _finish_checkpoint(self) -> None:
        """Wait until the last checkpoint has set the full segment free."""
        try:
            if self._checkpoint is not None:
                self._checkpoint.result()
        except OSError as error:
            raise CheckpointFailed(error) from error


class _Segment:
    """One file of the log. It is open while it is in use."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._boot = boot_id()
        self._filled = 0  # bytes; behind them the file ends
        self._fd = os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o640)
        self.begin()

    def begin(self) -> None:
        """Begin a new use: what is in it counts no more once the next sync has ended."""
        self._use = os.urandom(8)
        self._end = BLOCK_BYTES
        self._head_is_due = True
        self._since = math.inf

    def make_void(self) -> None:
        """Have nothing in it count any more, as all of it is on the disk now."""
        os.pwrite(self._fd, bytes(_SEGMENT.size), 0)
        os.fdatasync(self._fd)

    def is_empty(self) -> bool:
        """Whether nothing has been appended in this use."""
        return self._end == BLOCK_BYTES

    def is_old(self) -> bool:
        """Whether its first records are so old that it is to be checkpointed."""
        return time.monotonic() - self._since > MAX_AGE_SECONDS

    def has_room(self, size: int) -> bool:
        """Whether it has room for `size` bytes; an empty one has room for any number."""
        return self.is_empty() or self._end + size <= SEGMENT_BYTES

    def append(self, records: Sequence[LogRecord]) -> None:
        """Append `records`, and sync them.

        Raises:
            OSError: the next records are written over what came of it.
        """
        if self._fd < 0:
            self._fd = os.open(self._path, _FLAGS)
        end = self._end + sum(map(_size, records))
        if end > self._filled:
            with suppress(OSError):  # it grows by what is appended then
                self._filled = end + os.pwrite(self._fd, _ZEROS, end)
        buffers = [buffer for record in records for buffer in _encoded(self._use, record)]
        at = self._end
        for start in range(0, len(buffers), _MAX_BUFFERS):
            at = _write(self._fd, buffers[start : start + _MAX_BUFFERS], at)
        if self._head_is_due:
            os.pwrite(self._fd, _SEGMENT.pack(_MAGIC, self._use, self._boot), 0)
        self._head_is_due = True  # a sync that fails may have lost it
        os.fdatasync(self._fd)
        self._head_is_due = False
        self._since = min(self._since, time.monotonic())
        self._end = -(-end // BLOCK_BYTES) * BLOCK_BYTES

    def close(self) -> None:
        """Close the file. May be called again; it is opened when it is needed."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def checkpoint(root: Path) -> None:
    """Put all files on the disk, and remove the logs that have lost their owners.

    Raises:
        OSError: the disk failed.
    """
    with ExitStack() as locks:
        done = [
            folder
            for folder in abandoned_logs(root, locks)
            if not is_damaged(folder) and all(boot == boot_id() for boot, _ in read(folder))
        ]
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if _libc.syncfs(fd) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
        finally:
            os.close(fd)
        for folder in done:
            shutil.rmtree(folder, ignore_errors=True)


def abandoned_logs(root: Path, locks: ExitStack) -> Iterator[Path]:
    """The folders of the logs that have lost their owners, each locked until `locks` is closed."""
    for folder in sorted((root / LOGS).glob("[0-9a-f]" * 32)):
        if lock := lock_abandoned(folder):
            locks.enter_context(lock)
            yield folder


def is_damaged(folder: Path) -> bool:
    """Whether a checkpoint of the log in `folder` has failed."""
    return (folder / DAMAGED).exists()


def boot_id() -> bytes:
    """The random id that the kernel has had since the machine was started, in 36 letters."""
    return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()


def read(folder: Path) -> Iterator[tuple[bytes, Iterator[LogRecord]]]:
    """The segments of the log in `folder`: the boot in which each was written, and its records."""
    for path in sorted(folder.glob("[12]")):
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < BLOCK_BYTES:
                continue
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        magic, use, boot = _SEGMENT.unpack_from(data)
        if magic == _MAGIC:
            yield boot, _records(data, use)


def _records(data: memoryview, use: bytes) -> Iterator[LogRecord]:
    at = BLOCK_BYTES
    while at < len(data):
        if (record := _decoded(data, at, use)) is not None:
            yield record
            at += _size(record)
        elif at % BLOCK_BYTES:
            at += BLOCK_BYTES - at % BLOCK_BYTES  # the next batch, if there is one
        else:
            return


def _decoded(data: memoryview, at: int, use: bytes) -> LogRecord | None:
    """The record at an offset, or None if there is no whole one of that use."""
    place_at = at + _RECORD.size + _CHECK.size
    if place_at > len(data) or data[at : at + len(use)] != use:
        return None
    _, written, project, digest, size, place_size = _RECORD.unpack_from(data, at)
    head, place = data[at : at + _RECORD.size], bytes(data[place_at : place_at + place_size])
    content = data[place_at + place_size : place_at + place_size + size]
    (check,) = _CHECK.unpack_from(data, at + _RECORD.size)
    if zlib.crc32(place, zlib.crc32(head)) != check or sha256(content).digest() != digest:
        return None
    return LogRecord(os.fsdecode(place), written, project, digest, [content])


def _encoded(use: bytes, record: LogRecord) -> list[bytes | memoryview]:
    place = os.fsencode(record.place)
    size = sum(map(len, record.pieces))
    head = _RECORD.pack(use, record.time, record.project, record.digest, size, len(place))
    check = _CHECK.pack(zlib.crc32(place, zlib.crc32(head)))
    return [head + check + place, *record.pieces]


def _size(record: LogRecord) -> int:
    """The bytes that a record takes in the log."""
    place = len(os.fsencode(record.place))
    return _RECORD.size + _CHECK.size + place + sum(map(len, record.pieces))


def _write(fd: int, buffers: Sequence[bytes | memoryview], at: int) -> int:
    """Write all of `buffers` at the offset `at`, and return the offset behind them."""
    views = [memoryview(buffer) for buffer in buffers if buffer]
    while views:
        written = os.pwritev(fd, views, at)
        at += written
        while views and written >= len(views[0]):
            written -= len(views.pop(0))
        if written:
            views[0] = views[0][written:]
    return at
