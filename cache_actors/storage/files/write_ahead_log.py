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
no file without a decision. Decisions lie in memory, so a power cut removes them, and new ones come
from a service that listens only after recovery.

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
import errno
import math
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
from typing import TYPE_CHECKING, BinaryIO
from uuid import uuid4

from cache_actors.storage.integrity.checksum import has_checksums
from cache_actors.storage.layout import LOGS
from cache_actors.storage.locks import lock_abandoned
from cache_actors.storage.mounts import file_system_at

from .folders import IDENTITY_BYTES, opened_folder, sync_folder
from .temporary import write_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SEGMENT_BYTES = 4 << 20
"""Size in bytes at which a segment is full; a process has two segments. What a checkpoint has to
write at once keeps syncs of the log waiting: so more of them, each of less, have shorter waits."""

MAX_AGE_SECONDS = 2.5
"""Age in seconds at which a segment is checkpointed though it is not full. Until then a power cut
may bring back an evicted file; eviction spares what was used in its last 10 seconds, or in the last
one while it hurries. Recovery takes some 0.1 ms for each file that was logged within this time."""

GROWTH_BYTES = 1 << 20
"""Zeros by which a segment grows at a time, in bytes."""

BLOCK_BYTES = 4096
"""Size in bytes of what a disk writes at once."""

DAMAGED = "damaged"
"""The file in a log's folder which says that a checkpoint has failed: the kernel may believe to
have written what the disk lost."""

_FILE_SYSTEMS = {"bcachefs", "btrfs", "ext4", "f2fs", "tmpfs", "xfs", "zfs"}
_MAGIC = b"cachelog"
_SEGMENT = struct.Struct(">8s8s36s")  # magic, number of the use, the machine's boot
_RECORD = struct.Struct(f">8sQ{IDENTITY_BYTES}s32sIH")  # sizes of the data and of the place last
_CHECK = struct.Struct(">I")  # CRC-32 of the above and of the place
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
    pieces: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Position:
    """The position of a record: the segment, the number of its use, and the offset in bytes."""

    segment: Path
    use: bytes
    at: int


def can_log(root: Path) -> bool:
    """Whether the storage folder lies on a file system with attributes that one call syncs.

    That call has to report what could not be written, which that of overlay does not.

    Raises:
        OSError: the disk failed.
    """
    return has_checksums(root) and file_system_at(root) in _FILE_SYSTEMS


class WriteAheadLog:
    """The log of this process, below the storage folder `root`. It is made when it is needed first.

    Args:
        root: the storage folder.
        synced: called with the seconds that each sync of the log took.
        recover: stores again all that is in the log in that folder, of which a checkpoint failed,
            or raises OSError.
    """

    def __init__(
        self, root: Path, synced: Callable[[float], None], recover: Callable[[Path], None]
    ) -> None:
        self._root = root
        self._synced = synced
        self._recover = recover
        self._damaged: _OpenLog | None = None
        self._open: _OpenLog | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")

    def append(self, records: Sequence[LogRecord]) -> None:
        """Append `records`; on return they will survive a power cut.

        Raises:
            OSError: some may not.
        """
        size = sum(map(_size, records))
        with self._given_up_if_it_fails():
            if self._open is not None and not self._open.is_in_place():
                self._open.leave()
                self._open = None
            if self._open is None:
                self._open = _OpenLog(self._root)
            self._open.make_room(size, self._thread)
        began = time.monotonic()
        self._open.active.append(records, size)
        self._synced(time.monotonic() - began)

    def mend(self) -> None:
        """Recover the log if a checkpoint of it has failed.

        To be called before a batch, by one who holds no project's lock: recovery takes them.

        Raises:
            OSError: it cannot be recovered; nothing may be stored before it is.
        """
        if self._damaged is not None:
            self._damaged.release()  # not before: another process might take it for a sound one
            self._recover(self._damaged.folder)
            self._damaged = None

    def checkpoint_if_old(self) -> None:
        """Make a checkpoint of what is old; to be called while nothing is appended.

        Raises:
            OSError: an earlier checkpoint has failed.
        """
        if self._open is not None:
            with self._given_up_if_it_fails():
                self._open.checkpoint_if_old(self._thread)

    def close(self) -> None:
        """Make a last checkpoint, and remove the log.

        Raises:
            OSError: the log is left for recovery.
        """
        try:
            if self._open is not None:
                with self._given_up_if_it_fails():
                    self._open.finish(self._thread)
                self._open.release()
        finally:
            self._thread.shutdown()

    @contextmanager
    def _given_up_if_it_fails(self) -> Iterator[None]:
        """Leave the log for recovery if a checkpoint of it has failed."""
        try:
            yield
        except CheckpointFailed as failure:
            assert self._open is not None  # noqa: S101 - it is its checkpoint
            _note_damage(self._open.folder)
            self._damaged, self._open = self._open, None
            raise failure.error from None


class CheckpointFailed(Exception):
    """The disk lost some of what the kernel was to write; the log still has it."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class _OpenLog:
    """A log's folder, held by a lock, with its segments.

    The file system is open too, from before the first file is written: what the kernel cannot write
    is reported to those who had it open by then, and perhaps to nobody who comes later.

    Attributes:
        folder: the folder.
        active: the segment that records are appended to.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        parent = root / LOGS
        parent.mkdir(mode=0o750, exist_ok=True)
        lock = None
        while lock is None:  # another process may take a new folder for an abandoned one
            self.folder = parent / uuid4().hex
            self.folder.mkdir(mode=0o750)
            lock = lock_abandoned(self.folder)
        with ExitStack() as undo:
            undo.enter_context(lock)
            self._file_system = undo.enter_context(opened_folder(root))
            self.active, self._other = (_Segment(self.folder / name) for name in "12")
            undo.callback(self.active.close)
            undo.callback(self._other.close)
            for folder in (self.folder, parent, root):
                sync_folder(folder)
            self._held = undo.pop_all()
        self._checkpoint: Future[None] | None = None

    def make_room(self, size: int, thread: ThreadPoolExecutor) -> None:
        """Go on in the other segment if this one is old, or has no room for `size` bytes."""
        if not self.active.has_room(size) or self.active.is_old():
            self._switch_segments(thread)

    def checkpoint_if_old(self, thread: ThreadPoolExecutor) -> None:
        """Make a checkpoint of what is old, and close both segments if neither is in use."""
        if self.active.is_old():
            self._switch_segments(thread)
        elif self.active.is_empty() and self._checkpoint is not None and self._checkpoint.done():
            self._finish_checkpoint()
            self.active.close()
            self._other.close()

    def is_in_place(self) -> bool:
        """Whether recovery would find it; somebody may have removed or moved its folder."""
        return self.active.is_in_place() and self._other.is_in_place()

    def leave(self) -> None:
        """Put on the disk what a log has that recovery would not find, and release it."""
        self._finish_checkpoint()
        try:
            checkpoint(self._root, self._file_system)
        except OSError as error:
            raise CheckpointFailed(error) from error
        self.release()

    def finish(self, thread: ThreadPoolExecutor) -> None:
        """Make a checkpoint of all there is, and remove the folder."""
        self._switch_segments(thread)
        self._finish_checkpoint()
        shutil.rmtree(self.folder, ignore_errors=True)

    def release(self) -> None:
        """Close all files, and leave the folder to others. May be called again."""
        self._held.close()

    def _switch_segments(self, thread: ThreadPoolExecutor) -> None:
        """Go on in the other segment, and make a checkpoint of this one."""
        self._finish_checkpoint()
        self.active, self._other = self._other, self.active
        self.active.begin()
        self._checkpoint = thread.submit(self._make_checkpoint)

    def _make_checkpoint(self) -> None:
        checkpoint(self._root, self._file_system)
        with suppress(OSError):  # the records are on the disk already, so keeping them is harmless
            self._other.make_void()

    def _finish_checkpoint(self) -> None:
        """Wait until the last checkpoint has set the other segment free."""
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
        self._allocated_until = 0  # bytes; behind them the file ends
        self._fd = os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o640)
        self.begin()

    def begin(self) -> None:
        """Begin a new use: the next sync, which writes a new head, makes the old records void."""
        self._use = os.urandom(8)
        self._end = BLOCK_BYTES
        self._head_is_due = True
        self._first_append = math.inf

    def make_void(self) -> None:
        """Have nothing in it count any more, as all of it is on the disk now."""
        os.pwrite(self._fd, bytes(_SEGMENT.size), 0)
        os.fdatasync(self._fd)

    def is_in_place(self) -> bool:
        """Whether its path still leads to it."""
        try:
            found = self._path.lstat()
        except OSError:
            return False
        return self._fd < 0 or os.path.samestat(found, os.fstat(self._fd))

    def is_empty(self) -> bool:
        """Whether nothing has been appended in this use."""
        return self._end == BLOCK_BYTES

    def is_old(self) -> bool:
        """Whether its first records are so old that it is to be checkpointed."""
        return time.monotonic() - self._first_append > MAX_AGE_SECONDS

    def has_room(self, size: int) -> bool:
        """Whether it has room for `size` bytes; an empty one has room for any number."""
        return self.is_empty() or self._end + size <= SEGMENT_BYTES

    def append(self, records: Sequence[LogRecord], size: int) -> None:
        """Append `records`, of `size` bytes together, and sync them.

        Raises:
            OSError: the next append overwrites what has been written of them.
        """
        if self._fd < 0:
            self._fd = os.open(self._path, _FLAGS)
        end = self._end + size
        if end > self._allocated_until:
            with suppress(OSError):  # it grows by what is appended then
                self._allocated_until = end + os.pwrite(self._fd, _ZEROS, end)
        buffers = [buffer for record in records for buffer in _encoded(self._use, record)]
        write_at(self._fd, buffers, self._end)
        if self._head_is_due:
            os.pwrite(self._fd, _SEGMENT.pack(_MAGIC, self._use, self._boot), 0)
        self._head_is_due = True  # a sync that fails may have lost it
        os.fdatasync(self._fd)
        self._head_is_due = False
        self._first_append = min(self._first_append, time.monotonic())
        self._end = -(-end // BLOCK_BYTES) * BLOCK_BYTES

    def close(self) -> None:
        """Close the file. May be called again; it is opened when it is needed."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def checkpoint(root: Path, file_system: int) -> None:
    """Put all files on the disk, and remove the logs that have lost their owners.

    Args:
        root: the storage folder.
        file_system: `root`, opened before the files were written.

    Raises:
        OSError: the disk failed.
    """
    with ExitStack() as locks:
        done = [each for each in abandoned_logs(root, locks) if not needs_recovery(each)]
        if _libc.syncfs(file_system) != 0:
            number = ctypes.get_errno()
            for folder in done:  # the next checkpoint may hear nothing of it
                _note_damage(folder)
            raise OSError(number, os.strerror(number))
        for folder in done:
            shutil.rmtree(folder, ignore_errors=True)


def abandoned_logs(root: Path, locks: ExitStack) -> Iterator[Path]:
    """The folders of the logs that have lost their owners, each locked until `locks` is closed."""
    for folder in log_folders(root):
        if lock := lock_abandoned(folder):
            locks.enter_context(lock)
            yield folder


def log_folders(root: Path) -> list[Path]:
    """The folders of all logs below the storage folder; what else lies beside them is not ours."""
    found = sorted((root / LOGS).glob("[0-9a-f]" * 32))
    return [folder for folder in found if folder.is_dir() and not folder.is_symlink()]


def is_damaged(folder: Path) -> bool:
    """Whether a checkpoint of the log in `folder` has failed."""
    return (folder / DAMAGED).exists()


def needs_recovery(folder: Path) -> bool:
    """Whether the disk may lack what is in the log in `folder`, which has lost its owner.

    It may if a checkpoint has failed, if the machine has been started anew since, and if the log
    cannot be read. Else the kernel has all of it, and the next checkpoint puts it on the disk.
    """
    try:
        return is_damaged(folder) or any(boot != boot_id() for _, _, boot in _segments(folder))
    except OSError:
        return True


def _note_damage(folder: Path) -> None:
    """Note that a checkpoint of the log in `folder` has failed, if that can be written."""
    with suppress(OSError):
        (folder / DAMAGED).touch()
        sync_folder(folder)


def boot_id() -> bytes:
    """The random id that the kernel has had since the machine was started, in 36 letters."""
    return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()


def read(folder: Path) -> Iterator[tuple[Position, LogRecord]]:
    """The records of the log in `folder`, segment by segment, and where each lies.

    Raises:
        OSError: the disk failed.
    """
    for path, use, _ in _segments(folder):
        with path.open("rb") as file:
            at = BLOCK_BYTES
            while (record := _read_record(file, at, use)) is not None or at % BLOCK_BYTES:
                if record is not None:
                    yield Position(path, use, at), record
                    at += _size(record)
                else:
                    at += BLOCK_BYTES - at % BLOCK_BYTES  # the next batch, if there is one


def read_at(position: Position, segment: BinaryIO) -> LogRecord:
    """The record at that position of its `segment`, which is open.

    Raises:
        OSError: the disk failed.
    """
    record = _read_record(segment, position.at, position.use)
    if record is None:
        raise OSError(errno.EIO, "a log is not as it was", str(position.segment))
    return record


def _segments(folder: Path) -> Iterator[tuple[Path, bytes, bytes]]:
    """The segments of a log that are in use: path, number of the use, boot."""
    for path in sorted(folder.glob("[12]")):
        with path.open("rb") as file:
            head = file.read(_SEGMENT.size)
        if head.startswith(_MAGIC) and len(head) == _SEGMENT.size:
            _, use, boot = _SEGMENT.unpack(head)
            yield path, use, boot


def _read_record(file: BinaryIO, at: int, use: bytes) -> LogRecord | None:
    """The record at an offset, or None if there is no whole one of that use."""
    file.seek(at)
    head = file.read(_RECORD.size + _CHECK.size)
    if len(head) < _RECORD.size + _CHECK.size or not head.startswith(use):
        return None
    _, written, project, digest, size, place_size = _RECORD.unpack_from(head)
    (check,) = _CHECK.unpack_from(head, _RECORD.size)
    place = file.read(place_size)
    if zlib.crc32(place, zlib.crc32(head[: _RECORD.size])) != check:
        return None
    content = file.read(size)
    if sha256(content).digest() != digest:
        return None
    return LogRecord(os.fsdecode(place), written, project, digest, [content])


def _encoded(use: bytes, record: LogRecord) -> list[bytes]:
    place = os.fsencode(record.place)
    size = sum(map(len, record.pieces))
    head = _RECORD.pack(use, record.time, record.project, record.digest, size, len(place))
    check = _CHECK.pack(zlib.crc32(place, zlib.crc32(head)))
    return [head + check + place, *record.pieces]


def _size(record: LogRecord) -> int:
    """The bytes that a record takes in the log."""
    place = len(os.fsencode(record.place))
    return _RECORD.size + _CHECK.size + place + sum(map(len, record.pieces))
