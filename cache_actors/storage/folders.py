"""The folders that files lie in."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

from .temporary import FOLDER_MODE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_MOST_KNOWN_FOLDERS = 100_000
_MOST_LISTED = 4_096


def sync_folder(folder: str | Path) -> None:
    """See to it that what has been put into `folder`, or removed from it, survives a power cut.

    Raises:
        OSError: the folder is gone, or the disk failed.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Folders:
    """Makes the folders that files go to, and sees to it that those survive a power cut too.

    A folder that is there may have been made a moment ago by someone who has not synced its parent
    yet. So the first time that this process puts something into a folder, it syncs all the folders
    above; after that it remembers. With that it comes to know all that lie beside the folder.
    """

    def __init__(self, root: Path, sync: Callable[[Path], None]) -> None:
        self._sync = sync
        self._root = root
        self._forget()

    def _forget(self) -> None:
        """Look at all folders again, as somebody has removed some."""
        self._known = {self._root}
        self._listed: set[Path] = set()

    def prepare(self, folders: set[Path]) -> None:
        """Make those of `folders` that are not known yet with one sync for all in one place.

        What goes wrong here is for `ensure` to meet again, and tell.
        """
        unknown = folders - self._known
        for parent in {folder.parent for folder in unknown}:
            with suppress(OSError):
                self._ensure(parent)
                self._make(parent, {folder for folder in unknown if folder.parent == parent})

    def call_in(self, folder: Path, action: Callable[[Path], None], target: Path) -> None:
        """Call `action(target)`, which puts something into `folder`, making that if need be."""
        self.ensure(folder)
        try:
            action(target)
        except FileNotFoundError:
            self._forget()
            self.ensure(folder)
            action(target)

    def ensure(self, folder: Path) -> None:
        """Make `folder` if need be, and see to it that it will survive."""
        try:
            self._ensure(folder)
        except FileNotFoundError:
            self._forget()
            self._ensure(folder)

    def _ensure(self, folder: Path) -> None:
        if folder not in self._known:
            self._ensure(folder.parent)
            self._make(folder.parent, {folder})

    def _make(self, parent: Path, folders: set[Path]) -> None:
        """Make `folders` in `parent`, which is known, and know them and those beside them."""
        for folder in folders:
            with suppress(FileExistsError):
                folder.mkdir()
            if not _is_complete(folder.stat()):  # new, or its maker died too soon
                with suppress(PermissionError):
                    folder.chmod(FOLDER_MODE)
        found = folders if parent in self._listed else folders | _folders_in(parent)
        self._sync(parent)
        if len(self._known) + len(found) > _MOST_KNOWN_FOLDERS:
            self._forget()
        self._listed.add(parent)
        self._known |= found


def _folders_in(parent: Path) -> set[Path]:
    """The folders in `parent` that are complete; some of them, if there are very many."""
    with os.scandir(parent) as entries:
        return {
            parent / entry.name
            for entry in islice(entries, _MOST_LISTED)
            if _is_complete(entry.stat(follow_symlinks=False))
        }


def _is_complete(status: os.stat_result) -> bool:
    """Whether it is a folder that has the mode of all folders."""
    return stat.S_ISDIR(status.st_mode) and stat.S_IMODE(status.st_mode) == FOLDER_MODE
