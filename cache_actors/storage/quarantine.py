"""Where broken files go: out of everyone's reach, and kept for whoever wants to know why.

A broken file that keeps its name is served, and stands in the way of a new upload. Once it is moved
here, it is a miss. Nothing in this folder is ever read or removed by the service.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import TYPE_CHECKING
from uuid import uuid4

from .layout import QUARANTINE

if TYPE_CHECKING:
    from pathlib import Path

FOLDER_MODE = 0o700

DAMAGE = {errno.EIO, errno.EUCLEAN, errno.EBADMSG}
"""Errors of a read that say that the bytes are lost: of the device, or of the file system's own
checksums."""


class Quarantine:
    """The quarantine folder below the storage folder `root`; made when it is needed."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def take(self, path: Path, inode: int) -> Path | None:
        """Move `path` here, if it still is the file `inode`; return where to, else None.

        Raises:
            OSError: it cannot be moved; it is where it was.
        """
        target = self._target(path)
        try:
            if path.lstat().st_ino != inode:
                return None
            for folder in reversed(target.relative_to(self._root).parents[:-1]):
                (self._root / folder).mkdir(mode=FOLDER_MODE, exist_ok=True)
                hand_over(self._root / folder, self._root)
            path.rename(target)
        except FileNotFoundError:
            return None
        if target.lstat().st_ino != inode:  # replaced by a good one just before it was moved
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
        folder = path.parent.parent.relative_to(self._root)
        return self._root / QUARANTINE / folder / f"{path.name}.{uuid4().hex[:8]}"


def hand_over(path: Path, root: Path) -> None:
    """Give `path` to the owner of the storage folder, if root has made it and may do that."""
    if os.geteuid() == 0:
        owner = root.stat()
        with suppress(PermissionError):
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
