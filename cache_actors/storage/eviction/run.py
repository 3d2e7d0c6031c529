"""A pass of eviction from end to end: scan, decide, evict, the faster the fuller the disk is."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from cache_actors.storage.capacity import Amount, Capacity
from cache_actors.storage.integrity.quarantine import last_taken, remove_old
from cache_actors.storage.trash import empty_trash

from .cutoff import cutoff, evictable
from .last_pass import PassReport, last_eviction
from .scan import Scan
from .shared import SharedFiles
from .sweep import ENTRY_GRACE_NS, Evicted, Remaining, Sweep

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cache_actors.storage.layout import Project
    from cache_actors.storage.trash import Removed

PROTECTED_SECONDS = 10.0
"""Age in seconds, from the last use, below which no file is evicted."""

GRACE_SECONDS = 10.0
"""Pause in seconds between the removal of a project's entries and that of its artifacts, in which a
client that has just received an entry fetches its artifacts."""

HURRIED_SECONDS = 1.0
"""Value in seconds to which both sink from the high watermark to the pressure `HURRY_SHARE`. The
last uses on the disk may be older by `store.RECENT_NS`, which has to be less."""

HURRY_SHARE = 0.5
"""Pressure from which a pass runs at full speed, as a share of the way from the high watermark (0)
to a full disk (1)."""

RATE = 2_000.0
"""Largest number of files removed per second at the high watermark; it rises with the pressure."""

NICENESS = 10
"""Niceness of a pass's process, unless the pressure is `HURRY_SHARE` or above at its start."""

_SECOND = 1_000_000_000


class ParentGone(Exception):
    """The process that started this pass has ended."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits on the usage of the storage.

    Attributes:
        high: high watermark, as a share from 0 to 1, from which on eviction runs.
        target: share down to which eviction goes.
        max_bytes: limit on the storage folder's bytes; None for the whole disk.
        bucket: number of the bucket, as in marks; what is not there goes last. None without one.
        share_entries: whether entries are put into the bucket; if not, they go as without one.
    """

    high: float
    target: float
    max_bytes: int | None = None
    bucket: int | None = None
    share_entries: bool = True


class EvictionPass:
    """One pass over the storage folder `root`.

    Args:
        root: the storage folder.
        limits: limits on the usage.
        project: project to evict from; None for all.
        dry_run: whether to count, and not remove, what would be evicted.
        require_artifacts: whether the service refuses entries without their artifacts.
        parent: pid of the process whose end stops the pass; None for none.

    Attributes:
        scan: scan of the storage.
        excess: amount to evict beside empty folders; known when the scan is complete.
        removed: amount evicted so far, or that would be evicted at most.
    """

    def __init__(
        self,
        root: Path,
        limits: Limits,
        project: Project | None = None,
        *,
        dry_run: bool = False,
        require_artifacts: bool = True,
        parent: int | None = None,
    ) -> None:
        self._root = root
        self._limits = limits
        self._project = project
        self._dry_run = dry_run
        self._require_artifacts = require_artifacts
        self._parent = parent
        self._begun = time.monotonic()
        self._sweep: Sweep | None = None
        self._capacity = Capacity(root, limits.max_bytes)
        self._disk = Capacity(root)
        self._disk_bytes = 0  # used when the scan was complete
        last = last_eviction(root)
        self._entries_checked = last.entries_checked if last else 0.0
        now = time.time_ns()
        shared = None
        if limits.bucket is not None:
            shared = SharedFiles(root, limits.bucket, limits.share_entries, now)
        self.scan = Scan(now, shared)
        self.excess = Amount()

    @property
    def removed(self) -> Evicted:
        """The totals of evicted files so far."""
        return self._sweep.removed if self._sweep else Evicted()

    def run(self) -> Iterator[None]:
        """Run the pass, resting as the pressure allows; yield between steps, with no lock held.

        Raises:
            ClockStepped: the clock was set, so that ages mean nothing.
            ParentGone: the parent process has ended.
            OSError: the disk failed, or a file or folder belongs to somebody else.
        """
        if not self._dry_run and self._pressure() < HURRY_SHARE:
            os.nice(NICENESS)
        for _ in chain(self._trash(), self.scan.run(self._root, self._project)):
            self._require_parent()
            yield
        self._capacity.note_scan(self.scan.bytes)
        self._disk_bytes = self._disk.usage().used.bytes
        usage = self._capacity.usage()
        too_much = usage.excess(self._limits.target)
        self.excess = Amount(too_much.bytes, max(0, too_much.files - self.scan.empty_folders))
        protected = self._hurried(PROTECTED_SECONDS)
        rule = cutoff(self.scan.histogram, self.excess, protected)
        first = evictable(self.scan.histogram, protected)
        rest = Amount(
            max(0, self.excess.bytes - first.bytes), max(0, self.excess.files - first.files)
        )
        self._sweep = sweep = Sweep(
            self._root,
            rule,
            self._hurried(GRACE_SECONDS),
            self._require_artifacts,
            last=cutoff(self.scan.unshared, rest, protected),
            shared=self.scan.shared,
        )
        projects = [self._project] if self._project else list(self.scan.usage)
        if self._dry_run:
            yield from sweep.look(projects)
            return
        if not too_much and not self._must_mend():
            return
        began = time.time()
        for step in sweep.run(projects) if too_much else sweep.mend(projects):
            yield
            self._require_parent()
            time.sleep(max(step.pause, step.removed / self._rate()))
            self._note_changes()
            sweep.grace = self._hurried(GRACE_SECONDS)
        if self._project is None:
            waiting = ENTRY_GRACE_NS / _SECOND if sweep.unsettled else 0.0
            self._entries_checked = began - waiting
        remove_old(self._root)

    def _trash(self) -> Iterator[Removed]:
        """Empty the trash first and without rests: what that frees need not be evicted."""
        if not self._dry_run:
            with suppress(OSError):  # the cleaner logs it
                yield from empty_trash(self._root)

    def _note_changes(self) -> None:
        """Update the usage of `max_bytes` by the change of the whole disk since the scan."""
        if self._limits.max_bytes is not None:
            changed = self._disk.usage().used.bytes - self._disk_bytes
            self._capacity.note_scan(self.scan.bytes + changed)

    def _must_mend(self) -> bool:
        """Whether a file was quarantined since entries were last checked for missing artifacts."""
        return self._entries_checked <= last_taken(self._root)

    def _pressure(self) -> float:
        """The pressure to evict: 0 up to the high watermark, and 1 from a full disk on."""
        above = self._capacity.usage().share - self._limits.high
        return min(1.0, max(0.0, above / max(1 - self._limits.high, 0.001)))

    def _hurried(self, seconds: float) -> float:
        """A time in seconds, shortened as the current pressure demands."""
        return max(HURRIED_SECONDS, seconds * (1 - self._pressure() / HURRY_SHARE))

    def _rate(self) -> float:
        """The largest number of files to remove per second at the current pressure."""
        return RATE / max(1 - self._pressure() / HURRY_SHARE, 0.01)

    def _require_parent(self) -> None:
        if self._parent is not None and os.getppid() != self._parent:
            raise ParentGone("The process that this pass was started by is gone")

    def age(self, used: int | None) -> float | None:
        """The age in seconds, at the start of the pass, of a file last used at `used`."""
        return None if used is None else max(0.0, (self.scan.now - used) / _SECOND)

    def kept(self) -> dict[Project, Remaining]:
        """The artifacts left in each project; those of the scan if the sweep is not that far."""
        before = {
            project: Remaining(held.artifacts, held.artifact_bytes, held.oldest_use)
            for project, held in self.scan.usage.items()
        }
        return before | (self._sweep.kept if self._sweep else {})

    def report(self) -> PassReport:
        """The report of this pass."""
        held = self.scan.usage.values()
        gone = self.removed
        return PassReport(
            ended=time.time(),
            seconds=round(time.monotonic() - self._begun, 3),
            artifacts=gone.artifacts,
            entries=gone.entries,
            bytes=gone.bytes,
            youngest_evicted_seconds=self.age(gone.youngest_use),
            stored_artifacts=sum(each.artifacts for each in held) - gone.artifacts,
            stored_entries=sum(each.entries for each in held) - gone.entries,
            stored_bytes=self.scan.bytes - gone.bytes,
            entries_checked=self._entries_checked,
            folders=gone.folders,
            dropped=gone.dropped,
        )
