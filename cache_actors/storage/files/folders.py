"""The folders that files lie in."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager, suppress
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from .temporary import FOLDER_MODE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

UNSETTLED_MODE = 0o1750
"""Mode of a folder that may not survive a power cut yet. It differs from that of all others by the
sticky bit, which takes nothing from whoever reads."""

IDENTITY_BYTES = 16
"""Size of what `identity_of` returns."""

_IDENTITY = "user.cache_actors.folder"
_NO_ATTRIBUTE = {errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODATA, errno.EPERM}

_MAX_KNOWN_FOLDERS = 100_000
_MAX_LISTED = 4_096
Target = TypeVar("Target")
_TRIES = 3  # how often a folder that is taken away just then is made again


def sync_folder(folder: str | Path) -> bool:
    """See to it that what has been put into `folder`, or removed from it, survives a power cut.

    Returns whether the folder itself will: its maker has said so, with its mode.

    Raises:
        OSError: the folder is gone, or the disk failed.
    """
    with opened_folder(folder) as fd:
        os.fsync(fd)
        return is_complete(os.fstat(fd))


class Folders:
    """Makes the folders that files go to, and sees to it that those survive a power cut too.

    A folder that is there may have been made a moment ago by someone who has not synced its parent
    yet. So the first time that this process puts something into a folder, it syncs all the folders
    above; after that it remembers. With that it comes to know all that lie beside the folder.

    Eviction removes folders that are empty, and a clean takes all of a project's away at once. One
    that is known may thus have been made again by another process. Whoever makes a folder gives it
    its final mode when it will survive, with all those above it, and not before.
    """

    def __init__(self, root: Path, sync: Callable[[Path], None]) -> None:
        self._sync = sync
        self._root = root
        self._undeclared = {root}  # of these the mode says nothing: it is not ours to set
        self._forget()

    def _forget(self) -> None:
        """Look at all folders again, as somebody has removed some."""
        self._known = {self._root}
        self._listed: set[Path] = set()

    def prepare(self, folders: set[Path]) -> dict[Path, OSError]:
        """Make those of `folders` that are not known yet, with one sync for all in one place.

        Returns what went wrong with those that will not survive; nothing may be put into them. No
        sync that has failed is made again here: it might say yes to what has been lost.
        """
        failures = self._prepare(folders)
        for _ in range(_TRIES):
            lost = {each for each, err in failures.items() if isinstance(err, FileNotFoundError)}
            if not lost:
                break
            self._forget()
            failures = {each: failures[each] for each in failures.keys() - lost}
            failures |= self._prepare(lost)
        return failures

    def call_in(self, folder: Path, action: Callable[[Target], None], target: Target) -> None:
        """Call `action(target)`, which puts something into `folder`, making that if need be."""
        for _ in range(_TRIES):
            self.ensure(folder)
            with suppress(FileNotFoundError):
                action(target)
                return
            self._known.discard(folder)
        self.ensure(folder)
        action(target)

    def settle(self, folders: set[Path]) -> dict[Path, OSError]:
        """See to it that `folders` survive, which somebody else has made again, as `prepare`."""
        self._known -= folders
        return self.prepare(folders)

    def ensure(self, folder: Path) -> None:
        """Make `folder` if need be, and see to it that it will survive."""
        for failure in self.prepare({folder}).values():
            raise failure

    def _prepare(self, folders: set[Path]) -> dict[Path, OSError]:
        missing: dict[Path, set[Path]] = {}  # by the folder that they lie in
        for each in folders - self._known:
            folder = each
            while folder not in self._known:
                missing.setdefault(folder.parent, set()).add(folder)
                folder = folder.parent
        failures: dict[Path, OSError] = {}
        for parent in sorted(missing, key=lambda path: len(path.parts)):
            try:
                if parent in failures:
                    raise failures[parent]
                failures |= self._make(parent, missing[parent])
            except OSError as error:
                failures |= dict.fromkeys(missing[parent], error)
        return {folder: failure for folder, failure in failures.items() if folder in folders}

    def _make(self, parent: Path, folders: set[Path]) -> dict[Path, OSError]:
        """Make `folders` in `parent`, which is known, and know them and those beside them.

        Returns those that could not be made.

        Raises:
            FileNotFoundError: `parent` has been taken away meanwhile, or since it was known.
            OSError: what has been made will not survive.
        """
        with opened_folder(parent) as fd:
            return self._make_in(parent, fd, folders)

    def _make_in(self, parent: Path, fd: int, folders: set[Path]) -> dict[Path, OSError]:
        failures: dict[Path, OSError] = {}
        for folder in folders:
            try:
                with suppress(FileExistsError):
                    folder.mkdir(mode=UNSETTLED_MODE)
            except OSError as error:
                failures[folder] = error
        if not folders - failures.keys():
            return failures
        found: set[Path] = set()
        if parent not in self._listed:
            found |= _folders_in(parent)
        if parent.parent == self._root:
            for project in folders - failures.keys():
                try:
                    _identify(project)
                    self._sync(project)
                except OSError as error:
                    failures[project] = error
        self._sync(parent)
        self._require_settled(parent, fd)
        for folder in folders - failures.keys():
            try:
                if not _complete(folder.name, fd):
                    self._undeclared.add(folder)
            except OSError as error:
                failures[folder] = error
        found |= folders - failures.keys()
        if len(self._known) + len(found) > _MAX_KNOWN_FOLDERS:
            self._forget()
        self._listed.add(parent)
        self._known |= found
        return failures

    def _require_settled(self, parent: Path, fd: int) -> None:
        """Make sure that `parent` still is the folder `fd`, and that it will survive itself.

        What is taken away never comes back: if it is there now it was all the time.

        Raises:
            FileNotFoundError: it is another one, or its maker has not synced the folder above yet.
        """
        status = os.fstat(fd)
        is_settled = is_complete(status) or parent in self._undeclared
        if not is_settled or not os.path.samestat(status, parent.stat()):
            raise FileNotFoundError(errno.ENOENT, "the folder was made again", str(parent))


@contextmanager
def opened_folder(folder: str | Path) -> Iterator[int]:
    """The descriptor of `folder`, open until the context ends."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def make_folder(folder: Path) -> None:
    """Make `folder`, if it is not there, with the mode of all folders.

    Raises:
        OSError: it cannot be made.
    """
    with suppress(FileExistsError):
        folder.mkdir(mode=UNSETTLED_MODE)
    _complete(folder)


def identity_of(project: str | Path) -> bytes:
    """The identity of a project's folder, which one that is made after a clean does not share.

    It is the inode's number, and a random one that the folder got when it was made. The latter is 0
    where the file system has no extended attributes, or an older version has made the folder. It is
    empty if there is no such folder.

    Raises:
        OSError: the disk failed.
    """
    try:
        inode = os.stat(project).st_ino  # noqa: PTH116 - for each batch
        try:
            number = os.getxattr(project, _IDENTITY)
        except OSError as error:
            if error.errno not in _NO_ATTRIBUTE:
                raise
            number = b""
    except FileNotFoundError:  # a clean has taken it away, perhaps since the first look
        return b""
    return inode.to_bytes(8) + number[:8].ljust(8, b"\0")


def is_same_folder(recorded: bytes, found: bytes) -> bool:
    """Whether two identities are of one folder. One without a random number may get it later."""
    return recorded[:8] == found[:8] and recorded[8:] in (bytes(8), found[8:])


def _identify(project: Path) -> None:
    """Give a project's folder its random number, unless it has one."""
    with suppress(OSError):  # it is another process's, or there are no attributes
        os.setxattr(project, _IDENTITY, os.urandom(8), os.XATTR_CREATE)


def _complete(folder: str | Path, parent: int | None = None) -> bool:
    """Give a folder that will survive its final mode; return whether it has it then."""
    if is_complete(os.stat(folder, dir_fd=parent)):
        return True  # else it is new, or its maker died too soon
    with suppress(PermissionError):
        os.chmod(folder, FOLDER_MODE, dir_fd=parent)
    return is_complete(os.stat(folder, dir_fd=parent))


def _folders_in(parent: Path) -> set[Path]:
    """The folders in `parent` that are complete; some of them, if there are very many."""
    found: set[Path] = set()
    with os.scandir(parent) as entries:
        for entry in islice(entries, _MAX_LISTED):
            with suppress(FileNotFoundError):  # it is gone already
                if is_complete(entry.stat(follow_symlinks=False)):
                    found.add(parent / entry.name)
    return found


def is_complete(status: os.stat_result) -> bool:
    """Whether it is a folder that has the mode of all folders."""
    return stat.S_ISDIR(status.st_mode) and stat.S_IMODE(status.st_mode) == FOLDER_MODE
