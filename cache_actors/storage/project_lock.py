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
import math
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from cache_actors.kinds import Kind

from .locks import FolderLock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MAX_WAIT_SECONDS = 10.0
"""Seconds that a shared holder waits for an exclusive one, which needs milliseconds at a time."""


@contextmanager
def shared(project: Path) -> Iterator[None]:
    """Keep eviction and cleans out of the project's folder, which holds one for entries.

    Raises:
        OSError: EBUSY, they have not left within `MAX_WAIT_SECONDS`; or the folder cannot be used.
    """
    give_up = time.monotonic() + MAX_WAIT_SECONDS

    def lock() -> FolderLock:
        with _shared(project / Kind.KEYVALUE.folder, give_up):
            return _shared(project, give_up)

    with _locked(project, lock):
        yield


@contextmanager
def exclusive(project: Path) -> Iterator[None]:
    """Wait until nobody puts entries into the project, and keep everyone out.

    Raises:
        OSError: the folder cannot be used.
    """

    def lock() -> FolderLock:
        with ExitStack() as entering:
            with suppress(FileNotFoundError):  # without a gate, nobody comes in a stream
                gate = FolderLock(project / Kind.KEYVALUE.folder, until=math.inf)
                entering.enter_context(gate)
            return FolderLock(project, until=math.inf)

    with _locked(project, lock):
        yield


@contextmanager
def brief(project: Path) -> Iterator[None]:
    """Keep them out for a moment. For rare uses, also by those who hold the shared lock.

    Raises:
        OSError: as with `shared`.
    """
    give_up = time.monotonic() + MAX_WAIT_SECONDS
    with _locked(project, lambda: _shared(project, give_up)):
        yield


@contextmanager
def _locked(project: Path, lock: Callable[[], FolderLock]) -> Iterator[None]:
    """Lock the folder that is the project's: one that a clean has taken away meanwhile is not."""
    while True:
        with lock() as folder:
            if folder.is_on(project):
                yield
                return


def _shared(folder: Path, give_up: float) -> FolderLock:
    """Lock `folder` before the time `give_up`."""
    try:
        return FolderLock(folder, shared=True, until=give_up)
    except BlockingIOError:
        raise OSError(errno.EBUSY, "its files are being evicted") from None
