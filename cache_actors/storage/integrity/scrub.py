"""Scrubbing: reading everything that is stored, to find what is broken before a build does.

The bytes are read from the disk itself, past the page cache (`O_DIRECT`), where the file system
allows that: it is the disk that is in question, and nginx needs that memory. Access times stay as
they are (`O_NOATIME`), since they tell what is in use; a file that belongs to another user cannot
be read in that way, and is skipped.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import random
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cache_actors.kinds import Kind
from cache_actors.storage.layout import LAST_SCRUB, Key, key_at, shard_depth
from cache_actors.storage.locks import FolderLock

from .checksum import read_checksum
from .quarantine import DAMAGE, Quarantine, chown_like
from .validation import Fault, fault_of, open_or_fault

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

READ_BYTES = 1 << 20
MIN_COST = 4096
"""Smallest cost of a file, in bytes: opening one costs the disk something too."""

_FOREIGN = {errno.EPERM, errno.EACCES}
_GONE = {errno.ENOENT, errno.ENOTDIR}


@dataclass(frozen=True, slots=True)
class Damage:
    """A broken file, and where it is now; both below the storage folder.

    `quarantined` is None if it could not be moved.
    """

    path: str
    fault: Fault
    quarantined: str | None


@dataclass(slots=True)
class ScrubReport:
    """The report of a scrub so far.

    Attributes:
        files: how many were checked.
        bytes: how many were read.
        unrecorded: of the files, those without a recorded digest: only their form was checked.
        skipped: files and folders that belong to another user.
        unknown: files that are not this service's, which are left alone.
        folders: how many there are to look at, and `folders_done` of them have been.
        complete: whether it has come to its end.
    """

    files: int = 0
    bytes: int = 0
    unrecorded: int = 0
    skipped: int = 0
    unknown: int = 0
    folders: int = 0
    folders_done: int = 0
    complete: bool = False
    findings: list[Damage] = field(default_factory=list)


class ScrubRunning(Exception):
    """Another scrub of the same storage is running."""


class ScrubLock(FolderLock):
    """The lock on a storage folder that its one scrub holds. It needs no right to write.

    Raises:
        ScrubRunning: another one holds it.
        OSError: there is no such folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        try:
            super().__init__(root, follow=True)
        except BlockingIOError:
            raise ScrubRunning("Another scrub of this storage is running") from None

    def completed(self) -> None:
        """Remember that a scrub has come to its end now.

        Raises:
            OSError: that cannot be written down.
        """
        path = self._root / LAST_SCRUB
        flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(path, flags, 0o600)
        try:
            os.write(fd, b"%d\n" % int(time.time()))
            chown_like(path, self._root)
        finally:
            os.close(fd)


def last_scrub(root: Path) -> float | None:
    """When the last complete scrub ended, in seconds since the epoch; None if there was none."""
    try:
        return int((root / LAST_SCRUB).read_text())
    except (FileNotFoundError, ValueError):
        return None


class Scrub:
    """One pass over the storage folder `root`, in random order of its folders.

    A pass that is cut short, as by a restart, is not taken up again; in random order, everything
    gets its turn all the same.

    Attributes:
        report: what has been seen so far.
    """

    def __init__(self, root: Path) -> None:
        self.report = ScrubReport()
        self._root = root
        self._quarantine = Quarantine(root)
        self._buffer = mmap.mmap(-1, READ_BYTES)  # aligned, as O_DIRECT needs it

    def run(self) -> Iterator[int]:
        """Check everything, and yield the cost of each step in bytes, for whoever bounds the rate.

        Raises:
            OSError: the storage folder cannot be read.
        """
        folders = list(self._folders())
        random.shuffle(folders)
        self.report.folders = len(folders)
        for folder in folders:
            for path in self._listed(folder):
                yield from self._check(path)
            self.report.folders_done += 1
        self.report.complete = True

    def _folders(self) -> Iterator[Path]:
        """The folders that files lie in, `<account>/<project>/<kind>/<shard>`."""
        for account in self._root.iterdir():
            if not account.name.startswith("."):
                for project in self._listed(account):
                    for kind in Kind:
                        yield from self._shards(project / kind.folder, shard_depth())

    def _shards(self, folder: Path, depth: int) -> Iterator[Path]:
        """The folders that lie so many levels below `folder`."""
        for inner in self._listed(folder):
            if depth == 1:
                yield inner
            else:
                yield from self._shards(inner, depth - 1)

    def _check(self, path: Path) -> Iterator[int]:
        key = key_at(path.relative_to(self._root).parts)
        if key is None:
            self.report.unknown += 1
            return
        before = self.report.bytes
        try:
            fd = _open(path)
        except OSError as error:
            yield MIN_COST
            if error.errno not in _FOREIGN:
                raise
            self.report.skipped += 1
            return
        if fd is None or isinstance(fd, Fault):
            yield MIN_COST
            if fd is not None:
                self._found(path, fd)
            return
        try:
            fault = yield from self._fault(fd, key)
            self.report.files += 1
            if fault is not None:
                self._found(path, fault, os.fstat(fd).st_ino)
        finally:
            os.close(fd)
        yield max(0, MIN_COST - (self.report.bytes - before))

    def _fault(self, fd: int, key: Key) -> Generator[int, None, Fault | None]:
        """The fault of an open file, or None; yields the cost of each read in bytes."""
        status = os.fstat(fd)
        if fault := fault_of(status, None):
            return fault
        digest, size = hashlib.sha256(), 0
        content = bytearray()
        has_form = key.kind.has_form
        try:
            record = read_checksum(fd)
            while size < status.st_size and (count := os.preadv(fd, [self._buffer], size)):
                with memoryview(self._buffer)[:count] as piece:
                    digest.update(piece)
                    if has_form is not None and record is None:
                        content += piece
                size += count
                self.report.bytes += count
                yield count
        except OSError as error:
            if error.errno not in DAMAGE:
                raise
            return Fault.UNREADABLE
        if record is None:
            self.report.unrecorded += 1
            return None if has_form is None or has_form(bytes(content)) else Fault.FORM
        if fault := fault_of(status, record):
            return fault
        return None if digest.digest() == record.digest else Fault.DIGEST

    def _found(self, path: Path, fault: Fault, inode: int | None = None) -> None:
        """Move a broken file away, and report it, unless it is not there any more."""
        moved = None
        with suppress(OSError):
            moved = self._quarantine.take(path, inode or path.lstat().st_ino)
            if moved is None:
                return  # another has taken its place, or nothing
        self._report(path, fault, moved)

    def _report(self, path: Path, fault: Fault, moved: Path | None) -> None:
        name = str(path.relative_to(self._root))
        place = None if moved is None else str(moved.relative_to(self._root))
        self.report.findings.append(Damage(name, fault, place))

    def _listed(self, folder: Path) -> list[Path]:
        """The paths in `folder`; none if it is a link or no folder, or gone, broken or foreign."""
        try:
            return [] if folder.is_symlink() else list(folder.iterdir())
        except OSError as error:
            if error.errno in DAMAGE:
                self._report(folder, Fault.UNREADABLE, None)
            elif error.errno in _FOREIGN:
                self.report.skipped += 1
            elif error.errno not in _GONE:
                raise
            return []


def _open(path: Path) -> int | Fault | None:
    try:
        return open_or_fault(path, os.O_NOATIME | os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return open_or_fault(path, os.O_NOATIME)  # a file system without O_DIRECT
