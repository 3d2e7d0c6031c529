"""Locks on folders and files (`flock`). They end with whoever holds them, however that ends."""

from __future__ import annotations

import fcntl
import math
import os
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path

_RETRY = 0.001


def try_lock(fd: int, how: int = fcntl.LOCK_EX) -> bool:
    """Lock what is open as `fd`, unless somebody else's lock is in the way; say whether it is ours.

    Raises:
        OSError: it cannot be locked.
    """
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class FolderLock:
    """The lock on a folder, until it is closed: an exclusive one, unless it is to be `shared`.

    It is waited for until `until`, in `time.monotonic()`; for ever only in the kernel, as a thread
    that waits there cannot give up. Only with `follow` may the folder be a link to one.

    Raises:
        BlockingIOError: another's lock is in the way.
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
                time.sleep(_RETRY)
            undo.pop_all()

    def is_on(self, folder: Path) -> bool:
        """Whether the folder at that path still is the one that is locked."""
        return os.fstat(self._fd).st_ino == folder.stat().st_ino

    def close(self) -> None:
        """Give up the lock."""
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
