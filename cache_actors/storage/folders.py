"""The folders that files lie in."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from .temporary import FOLDER_MODE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_MOST_KNOWN_FOLDERS = 100_000


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
