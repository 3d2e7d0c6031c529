"""What of the stored files is in a bucket as well: the rest is evicted last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cache_actors.storage.integrity.checksum import read_checksum
from cache_actors.storage.integrity.quarantine import DAMAGE

if TYPE_CHECKING:
    from cache_actors.storage.walk import StoredFile

CLOCK_NS = 1_000_000_000
"""Nanoseconds by which the kernel's clock for files may be behind; it is less than a tenth."""


@dataclass(frozen=True, slots=True)
class SharedFiles:
    """The files that were put into the bucket `target` by a certain time.

    Attributes:
        target: the number of the bucket, as in marks.
        entries: whether entries are put there at all; if not, they count as if they were.
        now: the time in nanoseconds since the epoch. Files that were marked or touched later count
            as not shared: so a file that is not shared does not become so during a pass.
    """

    target: int
    entries: bool
    now: int

    def has(self, file: StoredFile, *, refers: bool) -> bool:
        """Whether `file`, an entry if it `refers` to others, is in the bucket."""
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
        return record is not None and record.mark is not None and record.mark.target == self.target
