"""What of the stored files is in a bucket as well: the rest is evicted last."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cache_actors.storage.integrity.checksum import read_checksum
from cache_actors.storage.integrity.quarantine import DAMAGE
from cache_actors.storage.known_cleans import known_clean
from cache_actors.storage.layout import Project

if TYPE_CHECKING:
    from pathlib import Path

    from cache_actors.storage.walk import StoredFile

CLOCK_NS = 1_000_000_000
"""Nanoseconds by which the kernel's clock for files may be behind; it is less than a tenth."""


@dataclass(frozen=True, slots=True)
class SharedFiles:
    """The files that were put into the bucket `target` by a certain time.

    Attributes:
        root: the storage folder.
        target: the number of the bucket, as in marks.
        entries: whether entries are put there at all; if not, they count as if they were.
        now: the time in nanoseconds since the epoch. Files that were marked or touched later count
            as not shared: so a file that is not shared does not become so during a pass.
    """

    root: Path
    target: int
    entries: bool
    now: int
    _since: dict[Project, float] = field(default_factory=dict)

    def has(self, file: StoredFile, *, refers: bool) -> bool:
        """Whether `file`, an entry if it `refers` to others, is in the bucket.

        Raises:
            OSError: the disk failed.
        """
        if refers and not self.entries:
            return True
        if file.status.st_ctime_ns >= self.now - CLOCK_NS:
            return False
        try:
            record = read_checksum(file.path)
        except OSError as error:
            if error.errno not in DAMAGE:
                raise
            return True  # there is nothing to be put
        mark = record.mark if record else None
        return mark is not None and mark.target == self.target and mark.put >= self._since_of(file)

    def _since_of(self, file: StoredFile) -> float:
        """The time from which marks in a file's project count, the same for all of a pass."""
        account, name, _ = file.path[len(str(self.root)) + 1 :].split("/", 2)
        project = Project(account, name)
        if project not in self._since:
            clean = known_clean(self.root, project)
            self._since[project] = clean.marked_since(self.now / 1e9)
        return self._since[project]
