"""The report of the last pass of eviction, and the lock that only one pass at a time holds.

The report is a file below the storage folder, for people and as a hint for processes; the next pass
replaces one that is missing or broken. The lock is on the folder of temporary files, which every
service makes: a disk without free inodes may have no room for a lock file, and the lock on the
storage folder itself is that of a scrub.
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
"""Exit status of an eviction process that found another pass running."""


@dataclass(frozen=True, slots=True)
class PassReport:
    """The report of a pass. Artifacts are all files but entries.

    Attributes:
        ended: time of the end, in seconds since the epoch.
        seconds: duration of the pass.
        artifacts, entries: numbers of evicted files.
        bytes: bytes on disk of the evicted files.
        youngest_evicted_seconds: age of the youngest evicted artifact, from its last use to the
            start of the pass; None if no artifact was evicted. Below a few days, the disk is too
            small.
        stored_artifacts, stored_entries, stored_bytes: the same of the remaining files.
        entries_checked: time in seconds since the epoch; no entry is left of an artifact that was
            missing before it. 0 if entries were never checked.
        folders: number of removed empty folders.
        dropped: number of evicted files that were not in the bucket; 0 without one.
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
    dropped: int = 0


class EvictionRunning(Exception):
    """Another pass over the same storage is running."""


class EvictionLock(FolderLock):
    """The lock that only one pass of eviction of a storage folder at a time holds.

    Raises:
        EvictionRunning: another pass holds the lock.
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

    def record_completed(self, report: PassReport) -> None:
        """Save the report of the pass; a disk without any room loses it."""
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
    """The report of the last pass over the storage folder `root`; None if missing or broken."""
    try:
        report = PassReport(**json.loads((root / LAST_EVICTION).read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    age = report.youngest_evicted_seconds
    values = asdict(report) | {"youngest_evicted_seconds": 0.0 if age is None else age}
    return report if all(isinstance(value, int | float) for value in values.values()) else None
