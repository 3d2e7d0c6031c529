"""The last pass of eviction: what it did, and the lock that only one pass at a time can hold.

What it did is in a file below the storage folder, for people and as a hint for processes; whatever
is missing or broken there is found out again by the next pass. The lock is on the folder of
temporary files, which every service has made: on a disk without an inode left there may be no file,
and the storage folder itself is locked by whoever scrubs it.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from cache_actors.storage.errors import FULL
from cache_actors.storage.integrity.quarantine import chown_like
from cache_actors.storage.layout import LAST_EVICTION, TEMPORARY
from cache_actors.storage.locks import FolderLock

if TYPE_CHECKING:
    from pathlib import Path


EXIT_RUNNING = 3
"""Exit status of a process that was to make a pass: another one is running."""


@dataclass(frozen=True, slots=True)
class PassReport:
    """The report of a pass; all figures are totals.

    Attributes:
        ended: seconds since the epoch.
        seconds: how long it took.
        artifacts, entries, bytes: what was evicted; bytes on disk, of both.
        youngest_evicted_seconds: the age of the youngest evicted artifact, from its last use to
            the start of the pass: below a few days, the disk is too small. None if none went.
        stored_artifacts, stored_entries, stored_bytes: what is left.
        entries_checked: of what is older, no entry refers to an artifact that is missing; in
            seconds since the epoch; 0 for never looked.
        folders: empty ones that were removed.
    """

    ended: float
    seconds: float
    artifacts: int
    entries: int
    bytes: int
    youngest_evicted_seconds: float | None
    stored_artifacts: int
    stored_entries: int
    stored_bytes: int
    entries_checked: float = 0.0
    folders: int = 0


class EvictionRunning(Exception):
    """Another pass over the same storage is running."""


class EvictionLock(FolderLock):
    """The lock on a storage folder that its one pass of eviction holds.

    Raises:
        EvictionRunning: another one holds it.
        OSError: the folder cannot be written to.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        folder = root / TEMPORARY
        with suppress(FileExistsError):
            folder.mkdir(mode=0o750)
            chown_like(folder, root)
        try:
            super().__init__(folder, follow=True)
        except BlockingIOError:
            raise EvictionRunning("Another eviction of this storage is running") from None
        try:
            os.close(self._open())
        except OSError as error:
            if error.errno not in FULL:
                self.close()
                raise

    def completed(self, report: PassReport) -> None:
        """Keep the report. On a disk that is full to the last byte it is lost."""
        with suppress(OSError):
            fd = self._open()
            try:
                os.ftruncate(fd, 0)
                os.pwrite(fd, json.dumps(asdict(report)).encode(), 0)
            finally:
                os.close(fd)

    def _open(self) -> int:
        path = self._root / LAST_EVICTION
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
        chown_like(path, self._root)
        return fd


def last_eviction(root: Path) -> PassReport | None:
    """The report of the last pass over the storage folder `root`, if there is one."""
    try:
        report = PassReport(**json.loads((root / LAST_EVICTION).read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    age = report.youngest_evicted_seconds
    values = asdict(report) | {"youngest_evicted_seconds": 0.0 if age is None else age}
    return report if all(isinstance(value, int | float) for value in values.values()) else None
