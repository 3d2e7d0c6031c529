"""Reading, publishing and replacing files.

*Published* files are exclusive: the bytes go to a temporary file, are synced, and get their name
with `link()`, which fails if the name is taken. *Replaced* files get theirs with `rename()`. A
reader sees all of a file or none of it. When `publish` or `replace` return, the file and every
folder above it will survive a power cut, unless the store is relaxed.

Both take batches, and report on each item: what one of them meets does not hurt the others.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, TypeVar

from .temporary import FOLDER_MODE, TemporaryFile, TemporaryFolder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_NO_FILE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}  # the last: a link, which is not ours
_MOST_KNOWN_FOLDERS = 100_000

Argument = TypeVar("Argument")
Outcome = TypeVar("Outcome")


class Published(Enum):
    """How publishing a file went."""

    STORED = "stored"
    EXISTS = "exists"


@dataclass(frozen=True, slots=True)
class Publication:
    """A file to publish at `path`: the pieces of it, or the temporary file that holds them."""

    path: Path
    source: Sequence[bytes] | TemporaryFile


@dataclass(frozen=True, slots=True)
class Replacement:
    """A file to put at `path`, whether or not there is one."""

    path: Path
    data: bytes


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What tells one version of a replaceable file from another without reading it."""

    inode: int
    mtime_ns: int
    size: int

    @classmethod
    def of(cls, status: os.stat_result) -> Fingerprint:
        """The fingerprint in a file's status."""
        return cls(status.st_ino, status.st_mtime_ns, status.st_size)


@dataclass(frozen=True, slots=True)
class Version:
    """The content of a replaceable file, and the fingerprint of that version."""

    fingerprint: Fingerprint
    data: bytes


@dataclass(frozen=True, slots=True)
class Lookup:
    """A replaceable file to read at `path`, and the version of it that is in memory."""

    path: Path
    known: Version | None


Item = TypeVar("Item", Publication, Replacement)


class OpenFile:
    """A published file, open for reading."""

    __slots__ = ("_fd", "mtime", "size")

    def __init__(self, fd: int, status: os.stat_result) -> None:
        self._fd = fd
        self.size = status.st_size
        self.mtime = int(status.st_mtime)

    def read(self, start: int, size: int) -> bytes:
        """Up to `size` bytes from the offset `start`."""
        return os.pread(self._fd, size, start)

    def close(self) -> None:
        """Close the file. May be called again."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class FileStore:
    """The files below one folder.

    Args:
        root: the storage folder, which exists.
        temporary: a folder on the same file system.
        durable: whether to sync before anything is reported done.
    """

    def __init__(self, root: Path, temporary: TemporaryFolder, *, durable: bool) -> None:
        self.root = root
        self._temporary = temporary
        self._durable = durable
        self._folders = _Folders(root, self._sync_folder)
        self._device = root.stat().st_dev

    def publish(self, batch: Sequence[Publication]) -> list[Published | OSError]:
        """Publish each item of `batch` in order; of those that share a path the first one wins."""
        outcomes = [_attempt(self._publish, item) for item in batch]
        return self._settle(batch, outcomes, undo=_unlink_if_stored)

    def replace(self, batch: Sequence[Replacement]) -> list[OSError | None]:
        """Write each item of `batch` in order; of those that share a path the last one stays."""
        outcomes = [_attempt(self._replace, item) for item in batch]
        return self._settle(batch, outcomes, undo=_leave)

    def exists(self, path: Path) -> bool:
        """Whether `path` has been published, for good: its folders are synced before a yes."""
        if not _is_published(path):
            return False
        self._folders.ensure(path.parent)
        self._sync_folder(path.parent)
        return True

    def load(self, batch: Sequence[Lookup]) -> list[Version | OSError | None]:
        """What each path of `batch` holds, None where there is no file.

        It is the version known itself, if it still is that one.
        """
        return [_attempt(_load, lookup) for lookup in batch]

    def open(self, path: Path) -> OpenFile | None:
        """The file at `path`, or None if there is none."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno in _NO_FILE:
                return None
            raise
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode):
            return OpenFile(fd, status)
        os.close(fd)
        return None

    def _publish(self, item: Publication) -> Published:
        self._folders.ensure(item.path.parent)
        if _is_published(item.path):
            return Published.EXISTS
        file, ours = self._on_this_device(item.source)
        try:
            self._sync_file(file)
            self._folders.call_in(item.path.parent, file.link, item.path)
        except FileExistsError:
            if not _is_published(item.path):
                raise  # something else is in its place
            return Published.EXISTS
        finally:
            if ours:
                file.discard()
        return Published.STORED

    def _on_this_device(
        self, source: Sequence[bytes] | TemporaryFile
    ) -> tuple[TemporaryFile, bool]:
        """A file from which `source` can be linked, and whether it was made for that."""
        if isinstance(source, TemporaryFile) and source.device() == self._device:
            return source, False
        file = self._temporary.create()
        try:
            if isinstance(source, TemporaryFile):
                file.copy_from(source)
            else:
                file.write(source)
        except OSError:
            file.discard()
            raise
        return file, True

    def _replace(self, item: Replacement) -> None:
        file = self._temporary.create(named=True)
        try:
            file.write([item.data])
            self._sync_file(file)
            self._folders.call_in(item.path.parent, file.rename, item.path)
        finally:
            file.discard()

    def _settle(
        self,
        batch: Sequence[Item],
        outcomes: list[Outcome | OSError],
        *,
        undo: Callable[[Item, Outcome], None],
    ) -> list[Outcome | OSError]:
        """Sync each folder of the batch once; what lies in one that cannot be synced has failed."""
        synced = {
            folder: _attempt(self._sync_folder, folder)
            for folder in {
                item.path.parent
                for item, outcome in zip(batch, outcomes, strict=True)
                if not isinstance(outcome, OSError)
            }
        }
        settled: list[Outcome | OSError] = []
        for item, outcome in zip(batch, outcomes, strict=True):
            failure = synced.get(item.path.parent)
            if failure is None or isinstance(outcome, OSError):
                settled.append(outcome)
            else:
                undo(item, outcome)
                settled.append(failure)
        return settled

    def _sync_file(self, file: TemporaryFile) -> None:
        if self._durable:
            file.sync()

    def _sync_folder(self, folder: Path) -> None:
        if not self._durable:
            return
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


class _Folders:
    """Makes the folders that files go to, and sees to it that those survive a power cut too.

    A folder that is there may have been made a moment ago by someone who has not synced its parent
    yet. So the first time that this process puts something into a folder, it syncs all the folders
    above; after that it remembers.
    """

    def __init__(self, root: Path, sync: Callable[[Path], None]) -> None:
        self._sync = sync
        self._known = {root}
        self._root = root

    def call_in(self, folder: Path, action: Callable[[Path], None], target: Path) -> None:
        """Call `action(target)`, which puts something into `folder`, making that if need be."""
        self.ensure(folder)
        try:
            action(target)
        except FileNotFoundError:
            self._known = {self._root}  # somebody removed folders: look at all of them again
            self.ensure(folder)
            action(target)

    def ensure(self, folder: Path) -> None:
        """Make `folder` if need be, and see to it that it will survive."""
        try:
            self._ensure(folder)
        except FileNotFoundError:  # somebody removed folders: look at all of them again
            self._known = {self._root}
            self._ensure(folder)

    def _ensure(self, folder: Path) -> None:
        if folder in self._known:
            return
        self._ensure(folder.parent)
        with suppress(FileExistsError):
            folder.mkdir()
        if stat.S_IMODE(folder.stat().st_mode) != FOLDER_MODE:  # new, or its maker died too soon
            with suppress(PermissionError):
                folder.chmod(FOLDER_MODE)
        self._sync(folder.parent)
        if len(self._known) >= _MOST_KNOWN_FOLDERS:
            self._known = {self._root}
        self._known.add(folder)


def _is_published(path: Path) -> bool:
    """Whether there is an artifact at `path`: a file, with bytes, and no link to one."""
    try:
        status = path.lstat()
    except OSError as error:
        if error.errno in _NO_FILE:
            return False
        raise
    return stat.S_ISREG(status.st_mode) and status.st_size > 0


def _load(lookup: Lookup) -> Version | None:
    known = lookup.known
    try:
        if known is not None and Fingerprint.of(lookup.path.stat()) == known.fingerprint:
            return known
        with lookup.path.open("rb") as file:
            return Version(Fingerprint.of(os.fstat(file.fileno())), file.read())
    except (FileNotFoundError, NotADirectoryError):
        return None


def _attempt(action: Callable[[Argument], Outcome], argument: Argument) -> Outcome | OSError:
    """What `action` returns for `argument`, or the operating system error that it met."""
    try:
        return action(argument)
    except OSError as error:
        return error


def _unlink_if_stored(item: Publication, outcome: Published) -> None:
    if outcome is Published.STORED:
        with suppress(OSError):
            item.path.unlink()


def _leave(_item: Replacement, _outcome: None) -> None:
    """Leave a replaced file: it is complete, and the one before it is gone."""
