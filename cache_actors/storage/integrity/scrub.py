"""Scrubbing: reading all stored files, to find broken ones before a build does.

Reads bypass the page cache (`O_DIRECT`) where the file system allows that: the disk is to be
checked, and nginx needs the memory. They leave access times alone (`O_NOATIME`), which record last
uses; a file of another user cannot be read like that, and is skipped.
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
"""Smallest cost of a file, in bytes, since opening it costs the disk something too."""

_FOREIGN = {errno.EPERM, errno.EACCES}
_GONE = {errno.ENOENT, errno.ENOTDIR}


@dataclass(frozen=True, slots=True)
class Damage:
    """A broken file or folder.

    Attributes:
        path: its path below the storage folder.
        fault: its fault.
        quarantined: its path in quarantine, below the storage folder; None if it was not moved.
    """

    path: str
    fault: Fault
    quarantined: str | None


@dataclass(slots=True)
class ScrubReport:
    """The report of a scrub so far.

    Attributes:
        files: number of checked files.
        bytes: number of bytes read.
        unrecorded: checked files without a recorded SHA-256, of which only the form was checked.
        skipped: files and folders that belong to another user.
        unknown: files that no key has, which are left alone.
        folders: number of folders to check.
        folders_done: number of checked folders.
        complete: whether the scrub has reached its end.
        findings: broken files and folders.
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
    """The lock that only one scrub of a storage folder at a time holds; needs no write access.

    Raises:
        ScrubRunning: another scrub holds the lock.
        OSError: the folder cannot be opened or locked.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        try:
            super().__init__(root, follow=True)
        except BlockingIOError:
            raise ScrubRunning("Another scrub of this storage is running") from None

    def record_completed(self) -> None:
        """Record the current time as the end of the last complete scrub.

        Raises:
            OSError: the file cannot be written.
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
    """The end of the last complete scrub, in seconds since the epoch; None if there was none.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        return int((root / LAST_SCRUB).read_text())
    except (FileNotFoundError, ValueError):
        return None


class Scrub:
    """One scrub of the storage folder `root`, folder by folder in random order.

    A scrub that a restart interrupts is not resumed; thanks to the random order, every file is
    checked sooner or later all the same.

    Attributes:
        report: the report so far.
    """

    def __init__(self, root: Path) -> None:
        self.report = ScrubReport()
        self._root = root
        self._quarantine = Quarantine(root)
        self._buffer = mmap.mmap(-1, READ_BYTES)  # aligned, as O_DIRECT needs it

    def run(self) -> Iterator[int]:
        """Check all files; yield the cost of each step in bytes, for a limit on the rate.

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
        """The folders of stored files, `<account>/<project>/<kind>/<shard>`."""
        for account in self._root.iterdir():
            if not account.name.startswith("."):
                for project in self._listed(account):
                    for kind in Kind:
                        yield from self._shards(project / kind.folder, shard_depth())

    def _shards(self, folder: Path, depth: int) -> Iterator[Path]:
        """The folders `depth` levels below `folder`."""
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
        """Move a broken file to quarantine, and report it unless it was replaced or removed."""
        moved = None
        with suppress(OSError):
            moved = self._quarantine.take(path, inode or path.lstat().st_ino)
            if moved is None:
                return  # replaced or removed meanwhile
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
