"""Temporary files, in a folder that one process owns and keeps locked.

A file that is being written has no name if the file system allows that (`O_TMPFILE`), so that
nothing of it remains when the process is killed. Elsewhere, and for files that will be renamed over
others, it has a name in the process's folder. That folder's name is random, since in containers
every process may be pid 1. Its owner holds a lock on it: a folder that can be locked has lost its
owner, and is removed.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import itertools
import os
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from cache_actors.storage.errors import OF_THE_MOMENT, Unfit
from cache_actors.storage.integrity.checksum import StoredChecksum, write_checksum
from cache_actors.storage.locks import lock_abandoned

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cache_actors.storage.integrity.checksum import Mark

FILE_MODE = 0o640
FOLDER_MODE = 0o2750
"""Mode of a folder. nginx reads as another user of the same group, which the setgid bit passes on
to the files and folders inside."""

_NO_ANONYMOUS_FILES = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL}

CANNOT_LOCK = "its folders cannot be locked (flock)"
LOCK_ADVICE = "Use a local disk, or NFS version 3 mounted with local_lock=flock, on one host."

PREFIX = "cache-actors-"
"""Prefix of the folders' names; other folders beside them, as in /tmp, are left alone."""

MAX_LIFE_SECONDS = 86_400.0
"""Age in seconds, since the last write, from which a temporary file counts as a leftover."""

_MAX_BUFFERS = 1024  # IOV_MAX on Linux
_COPY_BYTES = 1 << 20
_BEGIN_WRITING = 2  # SYNC_FILE_RANGE_WRITE; a length of 0 is all of the file
_libc = ctypes.CDLL(None)
_NO_COPY = {errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_NO_RESERVATIONS = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


class TemporaryFile:
    """A file that is being written, with or without a name.

    Its creator must discard or close it in the end, whether it was published or not.

    Attributes:
        path: its name, if it has one.
        size: the number of bytes written so far.
        mark: the mark that it gets when it is sealed, if it comes from a bucket.
        is_sealed: whether it has its record, and is complete.
        has_time: whether its time was set, to that of the node that stored it first.
    """

    __slots__ = (
        *("_descriptors", "_fd", "_hash", "_reserved"),
        *("has_time", "is_sealed", "mark", "path", "size"),
    )

    def __init__(self, fd: int, path: Path | None, descriptors: int = -1) -> None:
        self._fd = fd
        self._descriptors = descriptors  # /proc/self/fd, open
        self._hash = hashlib.sha256()
        self._reserved = 0
        self.path = path
        self.size = 0
        self.mark: Mark | None = None
        self.is_sealed = False
        self.has_time = False

    def reserve(self, size: int) -> None:
        """Preallocate `size` bytes, if the file system can.

        Raises:
            OSError: the disk failed, or has too little room.
        """
        try:
            os.posix_fallocate(self._fd, 0, size)
        except OSError as error:
            if error.errno not in _NO_RESERVATIONS:
                raise
        else:
            self._reserved = size

    def release(self) -> None:
        """Free preallocated room behind the end of the written bytes."""
        if self._reserved > self.size:
            os.ftruncate(self._fd, self.size)
        self._reserved = 0

    def write(self, chunks: Sequence[bytes | memoryview]) -> None:
        """Append `chunks` to the file."""
        for chunk in chunks:
            self._hash.update(chunk)

        def write(views: list[memoryview], _done: int) -> int:
            written = os.writev(self._fd, views)
            self.size += written
            return written

        _write_all(chunks, write)

    def copy_from(self, source: TemporaryFile) -> None:
        """Copy all of `source`, which may be on another file system, into this empty file.

        Raises:
            OSError: the disk failed, or the bytes read differ from those written to `source`.
        """
        while chunk := os.pread(source._fd, min(_COPY_BYTES, source.size - self.size), self.size):
            self.write([chunk])
        if self.digest() != source.digest():
            raise OSError(errno.EIO, "a temporary file is not as it was written")

    def copy_to(self, target: int, at: int) -> None:
        """Copy all of this file into the open file `target`, from the offset `at` on.

        On a file system with reflinks both files share the bytes instead.

        Raises:
            OSError: the disk failed, or this file is shorter than was written.
        """
        done = 0
        while done < self.size:
            try:
                copied = os.copy_file_range(self._fd, target, self.size - done, done, at + done)
            except OSError as error:
                if error.errno not in _NO_COPY:
                    raise
                chunk = os.pread(self._fd, min(_COPY_BYTES, self.size - done), done)
                copied = os.pwrite(target, chunk, at + done)
            if not copied:
                raise OSError(errno.EIO, "a temporary file is shorter than it was")
            done += copied

    def take_in(self) -> None:
        """Count and hash the bytes that the file already has, as if they had been written here."""
        while chunk := os.pread(self._fd, _COPY_BYTES, self.size):
            self._hash.update(chunk)
            self.size += len(chunk)

    def digest(self) -> bytes:
        """The SHA-256 of the bytes written so far."""
        return self._hash.digest()

    def set_time(self, when: int, used: int | None = None) -> None:
        """Have the file look as if it had been written at `when`, and used then or at `used`.

        Both are in nanoseconds since the epoch.
        """
        os.utime(self._fd, ns=(when if used is None else used, when))
        self.has_time = True

    def seal(self) -> None:
        """Free unused room, and record checksum and mark; nothing may be written afterwards."""
        self.release()
        write_checksum(self._fd, StoredChecksum(self.digest(), self.size, self.mark))
        self.is_sealed = True

    def start_sync(self) -> None:
        """Have the kernel begin to write the file to the disk, so that `sync` has less to wait for.

        The bytes stay in memory, for those who read the file. An error is left to `sync`.
        """
        _libc.sync_file_range(self._fd, ctypes.c_int64(0), ctypes.c_int64(0), _BEGIN_WRITING)

    def sync(self) -> None:
        """Sync the file, so that it survives a power cut.

        A file must be discarded if this fails: the kernel may have dropped the pages that it could
        not write, and would report no error a second time.

        Raises:
            OSError: the disk failed.
        """
        os.fdatasync(self._fd)

    def device(self) -> tuple[int, str]:
        """The file system and the mount of the file; see `device_of`."""
        return device_of(self._fd)

    def group(self) -> int:
        """The id of the group that the file belongs to."""
        return os.fstat(self._fd).st_gid

    def link(self, target: str | Path) -> None:
        """Link the file to the path `target`.

        Raises:
            FileExistsError: the path exists; between processes the kernel decides who is first.
            OSError: the disk failed, or the file cannot be linked there.
        """
        if self.path is not None:
            os.link(self.path, target)
            return
        # Without src_dir_fd Python calls link() rather than linkat(), which does not follow the
        # symbolic link in /proc and fails with EXDEV.
        os.link(str(self._fd), target, src_dir_fd=self._descriptors, follow_symlinks=True)

    def rename(self, target: str | Path) -> None:
        """Rename the file, which must have a name, to `target`, and replace a file there."""
        assert self.path is not None, "an anonymous file has no name to change"  # noqa: S101
        os.replace(self.path, target)  # noqa: PTH105 - which makes a path of the target
        self.path = None

    def close(self) -> None:
        """Close the file and keep its name, if it has one; further calls do nothing."""
        self.path = None
        self.discard()

    def discard(self) -> None:
        """Close the file and remove its temporary name; further calls do nothing.

        A name that cannot be removed is left to the next sweep.
        """
        fd, self._fd = self._fd, -1
        path, self.path = self.path, None
        if fd >= 0:
            with suppress(OSError):
                os.close(fd)
        if path is not None:
            with suppress(OSError):
                path.unlink()


class TemporaryFolder:
    """A folder below `parent` for this process's temporary files, made and locked on creation.

    Creation also removes folders below `parent` whose owners are gone.

    Raises:
        Unfit: folders there cannot be locked.
        OSError: the folder cannot be made.
    """

    def __init__(self, parent: Path) -> None:
        self._parent = parent
        self._anonymous = True
        self._numbers = itertools.count()
        self._making = threading.Lock()
        self._make()
        # /proc/self is that of this process: a forked one must make a folder of its own.
        self._descriptors = os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        sweep(parent)

    def _make(self) -> None:
        self._parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        while True:
            path = self._parent / (PREFIX + uuid4().hex)
            path.mkdir(mode=0o750)
            try:
                lock = lock_abandoned(path)
            except OSError as error:
                path.rmdir()
                if error.errno in OF_THE_MOMENT:
                    raise
                raise Unfit(error.errno, f"{CANNOT_LOCK}: {error.strerror}", LOCK_ADVICE) from error
            if lock is not None:
                break
        self.path, self._lock = path, lock

    def create(self, *, named: bool = False) -> TemporaryFile:
        """Create an empty file; one that will be renamed has to be `named`.

        Raises:
            OSError: the disk failed, or has no room.
        """
        try:
            return self._create(named=named)
        except FileNotFoundError:  # the folder was removed
            self._make_again()
            return self._create(named=named)

    def link(self, source: Path) -> TemporaryFile:
        """Open the file at `source`, of this file system, by another name, in this folder.

        Its bytes are not counted in the result before `TemporaryFile.take_in`.

        Raises:
            FileNotFoundError: there is no file at `source`.
            OSError: the disk failed.
        """
        try:
            return self._link(source)
        except FileNotFoundError:  # one of them was removed
            self._make_again()
            return self._link(source)

    def replace(self, file: TemporaryFile, target: str | Path) -> None:
        """Link `file`, of this file system, to the path `target`, in place of a file there.

        Raises:
            OSError: the disk failed, or the file cannot be linked there.
        """
        if file.path is None:
            path = self.path / str(next(self._numbers))
            file.link(path)
            file.path = path
        file.rename(target)

    def _make_again(self) -> None:
        with self._making:
            if not self.path.is_dir():  # else another thread has made it meanwhile
                removed = self._lock
                self._make()
                removed.close()

    def _create(self, *, named: bool) -> TemporaryFile:
        if self._anonymous and not named:
            try:
                fd = os.open(self.path, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, FILE_MODE)
            except OSError as error:
                if error.errno not in _NO_ANONYMOUS_FILES:
                    raise
                self._anonymous = False
            else:
                return _with_mode(TemporaryFile(fd, None, self._descriptors), fd)
        path = self.path / str(next(self._numbers))
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, FILE_MODE)
        return _with_mode(TemporaryFile(fd, path, self._descriptors), fd)

    def _link(self, source: Path) -> TemporaryFile:
        path = self.path / str(next(self._numbers))
        path.hardlink_to(source)
        return TemporaryFile(os.open(path, os.O_RDWR | os.O_CLOEXEC), path, self._descriptors)

    def sweep(self) -> None:
        """Remove folders without owners, and files here that are older than `MAX_LIFE_SECONDS`."""
        sweep(self._parent)
        now = time.time()
        for file in self.path.glob("*"):
            with suppress(OSError):
                if now - file.lstat().st_mtime > MAX_LIFE_SECONDS:
                    file.unlink()

    def remove(self) -> None:
        """Remove the folder with its files, and release the lock."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._descriptors)
        self._lock.close()


def write_at(fd: int, buffers: Sequence[bytes], at: int) -> None:
    """Write all of `buffers` into the open file `fd`, from the offset `at` on.

    Raises:
        OSError: the disk failed, or has no room.
    """
    _write_all(buffers, lambda views, done: os.pwritev(fd, views, at + done))


def _write_all(
    buffers: Sequence[bytes | memoryview], write: Callable[[list[memoryview], int], int]
) -> None:
    """Call `write` with what is left of `buffers`, and the bytes written so far, until all are."""
    done = 0
    for start in range(0, len(buffers), _MAX_BUFFERS):
        views = [memoryview(each) for each in buffers[start : start + _MAX_BUFFERS] if each]
        while views:
            written = write(views, done)
            done += written
            while views and written >= len(views[0]):
                written -= len(views.pop(0))
            if written:
                views[0] = views[0][written:]


def device_of(fd: int) -> tuple[int, str]:
    """The device number and the mount of the open file `fd`; a link needs both to be equal.

    The device number is not enough: two mounts of one file system, such as two volumes of a
    container, share it.
    """
    info = Path(f"/proc/self/fdinfo/{fd}").read_text()
    mount = next((line for line in info.splitlines() if line.startswith("mnt_id:")), "")
    return os.fstat(fd).st_dev, mount


def sweep(parent: Path) -> None:
    """Remove the temporary folders below `parent` whose owners are gone."""
    for folder in parent.glob(PREFIX + "[0-9a-f]" * 32):
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            lock = lock_abandoned(folder)
            if lock is not None:
                with lock:
                    shutil.rmtree(folder, ignore_errors=True)


def _with_mode(file: TemporaryFile, fd: int) -> TemporaryFile:
    try:
        os.fchmod(fd, FILE_MODE)  # whatever the umask is
    except OSError:
        file.discard()
        raise
    return file
