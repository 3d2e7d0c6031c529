"""The lock of a project: shared by those who put entries, exclusive to eviction and cleans.

It is a lock (`flock`) on the project's folder, so it needs no file, works between processes and
containers, and ends with whoever holds it. Shared holders that follow each other closely could keep
an exclusive one waiting for ever; hence the gate, a second lock that everyone takes on the way in
and that the exclusive one holds while it waits.

A clean takes the folder away, and others make a new one (`trash.py`). So who has got the lock looks
whether it is that of the folder that is there.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from cache_actors.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MAX_WAIT_SECONDS = 10.0
"""Seconds that a shared holder waits for an exclusive one, which needs milliseconds at a time."""

_RETRY = 0.001


@contextmanager
def shared(project: Path) -> Iterator[None]:
    """Keep eviction and cleans out of the project's folder, which holds one for entries.

    Raises:
        OSError: EBUSY, they have not left within `MAX_WAIT_SECONDS`; or the folder cannot be used.
    """
    give_up = time.monotonic() + MAX_WAIT_SECONDS

    def lock(held: ExitStack) -> int:
        with _opened(project / Kind.KEYVALUE.folder) as gate:
            _lock_shared(gate, give_up)
            folder = held.enter_context(_opened(project))
            _lock_shared(folder, give_up)
            return folder

    with _locked(project, lock):
        yield


@contextmanager
def exclusive(project: Path) -> Iterator[None]:
    """Wait until nobody puts entries into the project, and keep everyone out.

    Raises:
        OSError: the folder cannot be used.
    """

    def lock(held: ExitStack) -> int:
        with ExitStack() as entering:
            try:
                gate = entering.enter_context(_opened(project / Kind.KEYVALUE.folder))
            except FileNotFoundError:
                pass  # then nobody comes in a stream
            else:
                fcntl.flock(gate, fcntl.LOCK_EX)
            folder = held.enter_context(_opened(project))
            fcntl.flock(folder, fcntl.LOCK_EX)
            return folder

    with _locked(project, lock):
        yield


@contextmanager
def brief(project: Path) -> Iterator[None]:
    """Keep them out for a moment. For rare uses, also by those who hold the shared lock.

    Raises:
        OSError: as with `shared`.
    """
    give_up = time.monotonic() + MAX_WAIT_SECONDS

    def lock(held: ExitStack) -> int:
        folder = held.enter_context(_opened(project))
        _lock_shared(folder, give_up)
        return folder

    with _locked(project, lock):
        yield


@contextmanager
def _locked(project: Path, lock: Callable[[ExitStack], int]) -> Iterator[None]:
    """Lock the folder that is the project's: one that a clean has taken away meanwhile is not."""
    while True:
        with ExitStack() as held:
            folder = lock(held)
            if os.path.samestat(os.fstat(folder), project.stat()):
                yield
                return


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _lock_shared(fd: int, give_up: float) -> None:
    """Lock `fd` before the time `give_up`; a thread that waits in the kernel could not."""
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up:
                raise OSError(errno.EBUSY, "its files are being evicted") from None
            time.sleep(_RETRY)
        else:
            return
