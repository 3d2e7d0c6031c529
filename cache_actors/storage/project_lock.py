"""The project lock: shared by writers of entries, exclusive to eviction and cleans.

The lock (`flock`) is on the project's folder, so it needs no file, works between processes and
containers, and is released when its holder ends. Overlapping shared holders could starve an
exclusive one; hence the gate, a second lock on the folder of entries that each holder takes on the
way in, and that the exclusive one holds while it waits.

A clean moves the folder away, and writers make a new one (`trash.py`). So a lock counts only if its
folder still has the project's path.
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
"""Longest wait for a shared lock, in seconds; an exclusive holder needs milliseconds at a time."""


@contextmanager
def shared(project: Path) -> Iterator[None]:
    """Keep eviction and cleans out of a project whose folder of entries exists.

    Raises:
        OSError: an exclusive holder kept the lock for `MAX_WAIT_SECONDS` (EBUSY), or a folder
            cannot be opened or locked.
    """
    give_up = time.monotonic() + MAX_WAIT_SECONDS

    def lock() -> FolderLock:
        with _shared(project / Kind.KEYVALUE.folder, give_up):
            return _shared(project, give_up)

    with _locked(project, lock):
        yield


@contextmanager
def exclusive(project: Path) -> Iterator[None]:
    """Wait, without limit, for all holders of the project's lock, and keep others out.

    Raises:
        OSError: a folder cannot be opened or locked.
    """

    def lock() -> FolderLock:
        with ExitStack() as entering:
            with suppress(FileNotFoundError):  # without this folder, no entries are being put
                gate = FolderLock(project / Kind.KEYVALUE.folder, until=math.inf)
                entering.enter_context(gate)
            return FolderLock(project, until=math.inf)

    with _locked(project, lock):
        yield


@contextmanager
def brief(project: Path) -> Iterator[None]:
    """Keep eviction and cleans out for a moment, without passing the gate.

    Meant for rare uses, which starve nobody, and for holders of the shared lock too: at the gate
    they would wait for an exclusive holder that waits for them.

    Raises:
        As `shared`.
    """
    give_up = time.monotonic() + MAX_WAIT_SECONDS
    with _locked(project, lambda: _shared(project, give_up)):
        yield


@contextmanager
def _locked(project: Path, lock: Callable[[], FolderLock]) -> Iterator[None]:
    """Hold `lock`, taken again if a clean has moved its folder away meanwhile."""
    while True:
        with lock() as folder:
            if folder.is_on(project):
                yield
                return


def _shared(folder: Path, give_up: float) -> FolderLock:
    """Take a shared lock on `folder` by `give_up` (`time.monotonic()`), or raise EBUSY."""
    try:
        return FolderLock(folder, shared=True, until=give_up)
    except BlockingIOError:
        raise OSError(errno.EBUSY, "its files are being evicted") from None
