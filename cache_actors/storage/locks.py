"""Locks on folders and files (`flock`), which the kernel releases when their process ends."""

from __future__ import annotations

import fcntl
import math
import os
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path

_RETRY_SECONDS = 0.001


def try_lock(fd: int, how: int = fcntl.LOCK_EX) -> bool:
    """Lock the open file or folder `fd` without waiting, and return whether that succeeded.

    Raises:
        OSError: the file system cannot lock `fd`.
    """
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class FolderLock:
    """A lock on a folder, taken on creation and held until closed.

    Args:
        folder: the folder to lock.
        shared: whether the lock is shared rather than exclusive.
        until: deadline in `time.monotonic()` seconds. Up to a finite one the lock is polled, since
            a thread that waits in the kernel cannot give up; infinity waits in the kernel.
        follow: whether the folder may be a symbolic link.

    Raises:
        BlockingIOError: somebody else still held the lock at the deadline.
        OSError: the folder cannot be opened or locked.
    """

    def __init__(
        self, folder: Path, *, shared: bool = False, until: float = 0.0, follow: bool = False
    ) -> None:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        self._fd = os.open(folder, flags if follow else flags | os.O_NOFOLLOW)
        how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        with ExitStack() as undo:
            undo.callback(self.close)
            if until == math.inf:
                fcntl.flock(self._fd, how)
            while not try_lock(self._fd, how):
                if time.monotonic() > until:
                    raise BlockingIOError
                time.sleep(_RETRY_SECONDS)
            undo.pop_all()

    def is_on(self, folder: Path) -> bool:
        """Whether the path `folder` still leads to the locked folder."""
        return os.fstat(self._fd).st_ino == folder.stat().st_ino

    def close(self) -> None:
        """Release the lock."""
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def lock_abandoned(folder: Path) -> FolderLock | None:
    """The lock on a folder that its owner has left; None if it has not, or the folder is gone.

    Raises:
        OSError: the folder cannot be locked.
    """
    with suppress(BlockingIOError, FileNotFoundError), ExitStack() as undo:
        lock = undo.enter_context(FolderLock(folder))
        if lock.is_on(folder):
            undo.pop_all()
            return lock
    return None
