"""The quarantine: a folder for broken files, kept there for people to examine.

A broken file that keeps its name is served, and blocks a new upload. Once it is in quarantine, its
key is a miss. The service never reads files in quarantine, and removes them only in passes of
eviction, after `KEPT_SECONDS`, and in cleans of their project.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING
from uuid import uuid4

from cache_actors.storage.layout import QUARANTINE, project_folder_of, quarantine_folder_of
from cache_actors.storage.project_lock import brief

if TYPE_CHECKING:
    from pathlib import Path

FOLDER_MODE = 0o700

KEPT_SECONDS = 30 * 86_400.0

DAMAGE = {errno.EIO, errno.EUCLEAN, errno.EBADMSG}
"""Error numbers of a read whose bytes are lost: the device failed, or the file system found a wrong
checksum of its own."""


class Quarantine:
    """The quarantine folder below the storage folder `root`, made on first use."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def take(self, path: Path, inode: int) -> Path | None:
        """Move `path` here, and return the new path; None if it is no longer the file `inode`.

        Raises:
            OSError: the file cannot be moved, and stays.
        """
        target = self._target(path)
        try:
            # Eviction must not find another file in place of the one that it has checked.
            with brief(project_folder_of(path, self._root)):
                return self._take(path, inode, target)
        except FileNotFoundError:
            return None

    def _take(self, path: Path, inode: int, target: Path) -> Path | None:
        try:
            if path.lstat().st_ino != inode:
                return None
            for folder in reversed(target.relative_to(self._root).parents[:-1]):
                (self._root / folder).mkdir(mode=FOLDER_MODE, exist_ok=True)
                chown_like(self._root / folder, self._root)
            path.rename(target)
            os.utime(self._root / QUARANTINE)
        except FileNotFoundError:
            return None
        if target.lstat().st_ino != inode:  # a good file came just before the rename: put it back
            try:
                os.link(target, path, follow_symlinks=False)
            except FileExistsError:
                target.unlink()
            except OSError:
                target.rename(path)
            else:
                target.unlink()
            return None
        return target

    def _target(self, path: Path) -> Path:
        """`.quarantine/<account>/<project>/<kind>/<name>.<8 random characters>`."""
        return quarantine_folder_of(path, self._root) / f"{path.name}.{uuid4().hex[:8]}"


def last_taken(root: Path) -> float:
    """The time of the last move into quarantine, in seconds since the epoch; 0 for never."""
    try:
        return (root / QUARANTINE).stat().st_mtime
    except OSError:
        return 0.0


def remove_old(root: Path) -> None:
    """Remove files that have been in quarantine below `root` for longer than `KEPT_SECONDS`."""
    oldest = time.time() - KEPT_SECONDS
    for path in (root / QUARANTINE).glob("*/*/*/*"):
        with suppress(OSError):
            if path.lstat().st_ctime < oldest:  # the time of the move
                path.unlink()


def chown_like(path: Path, root: Path) -> None:
    """Give `path` to the owner of the storage folder `root`, if this process runs as root."""
    if os.geteuid() == 0:
        owner = root.stat()
        with suppress(PermissionError):
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
