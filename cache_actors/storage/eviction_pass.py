"""A pass of eviction from end to end: look, decide, evict, at a pace that the disk's state sets."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .capacity import Amount, Capacity
from .cutoff import cutoff
from .eviction import SETTLING_NS, Eviction, Kept, Removed
from .last_eviction import PassReport, last_eviction
from .quarantine import last_taken, remove_old
from .survey import Survey

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .layout import Project

GRACE = 10.0
"""Seconds that a client has for the artifacts of an entry that it was given just before it went,
and within which nothing that was used is evicted."""

MINIMUM_GRACE = 1.0
"""What is left of that when the pass has to hurry."""

HURRY = 0.5
"""How far on the way from the high watermark to a full disk a pass goes as fast as it can."""

RATE = 2_000.0
"""Files a second that are removed at the high watermark; more as the disk fills further."""

NICENESS = 10
"""Of a pass, unless it has to hurry from the start."""

_SECOND = 1_000_000_000


class ParentGone(Exception):
    """The process that this pass was started by is gone."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How full the storage may be.

    Attributes:
        high: the share, from 0 to 1, from which eviction has to hurry.
        target: the share down to which it goes.
        max_bytes: what the storage folder may take; None for the whole disk.
    """

    high: float
    target: float
    max_bytes: int | None = None


class EvictionPass:
    """One pass over the storage folder `root`.

    Args:
        root: the storage folder.
        limits: how full it may be.
        project: the one that is evicted from; None for all.
        dry_run: whether to look only at what would go.
        require_artifacts: whether an entry may not be put before its artifacts.
        parent: the process with which the pass ends; None for none.

    Attributes:
        survey: what there was.
        excess: what had to go beside empty folders, once the survey is complete.
        removed: what has gone, or would go at most.
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
        self._eviction: Eviction | None = None
        self._capacity = Capacity(root, limits.max_bytes)
        self._disk = Capacity(root)
        self._disk_bytes = 0  # used when the survey was complete
        last = last_eviction(root)
        self._entries_checked = last.entries_checked if last else 0.0
        self.survey = Survey(time.time_ns())
        self.excess = Amount()

    @property
    def removed(self) -> Removed:
        """What has gone so far."""
        return self._eviction.removed if self._eviction else Removed()

    def run(self) -> Iterator[None]:
        """Run it, at its pace; yields between steps, when no lock is held.

        Raises:
            ClockStepped, ParentGone: it cannot go on.
            OSError: the disk failed, or something on it belongs to somebody else.
        """
        if not self._dry_run and self._pressure() < HURRY:
            os.nice(NICENESS)
        for _ in self.survey.run(self._root, self._project):
            self._require_parent()
            yield
        self._capacity.note_scan(self.survey.bytes)
        self._disk_bytes = self._disk.usage().used.bytes
        usage = self._capacity.usage()
        too_much = usage.excess(self._limits.target)
        self.excess = Amount(too_much.bytes, max(0, too_much.files - self.survey.empty_folders))
        rule = cutoff(self.survey.histogram, self.excess, self._grace())
        self._eviction = eviction = Eviction(
            self._root, rule, self._grace(), self._require_artifacts
        )
        projects = [self._project] if self._project else list(self.survey.holdings)
        if self._dry_run:
            yield from eviction.look(projects)
            return
        if not too_much and not self._must_mend():
            return
        began = time.time()
        for step in eviction.run(projects) if too_much else eviction.mend(projects):
            yield
            self._require_parent()
            time.sleep(max(step.pause, step.removed / self._rate()))
            self._note_changes()
            eviction.grace = self._grace()
        if self._project is None:
            waiting = SETTLING_NS / _SECOND if eviction.unsettled else 0.0
            self._entries_checked = began - waiting
        remove_old(self._root)

    def _note_changes(self) -> None:
        """Take in what was stored and removed since the survey, for a limit of our own."""
        if self._limits.max_bytes is not None:
            changed = self._disk.usage().used.bytes - self._disk_bytes
            self._capacity.note_scan(self.survey.bytes + changed)

    def _must_mend(self) -> bool:
        """Whether artifacts have gone into quarantine, and their entries have stayed."""
        return self._entries_checked <= last_taken(self._root)

    def _pressure(self) -> float:
        """How far the disk is from the high watermark (0 or less) to full (1)."""
        above = self._capacity.usage().share - self._limits.high
        return min(1.0, max(0.0, above / max(1 - self._limits.high, 0.001)))

    def _grace(self) -> float:
        """Seconds that clients have at the moment."""
        return max(MINIMUM_GRACE, GRACE * (1 - self._pressure() / HURRY))

    def _rate(self) -> float:
        """Files to remove in a second at most."""
        return RATE / max(1 - self._pressure() / HURRY, 0.01)

    def _require_parent(self) -> None:
        if self._parent is not None and os.getppid() != self._parent:
            raise ParentGone("The process that this pass was started by is gone")

    def age(self, used: int | None) -> float | None:
        """Seconds from a last use to the start of the pass."""
        return None if used is None else max(0.0, (self.survey.now - used) / _SECOND)

    def kept(self) -> dict[Project, Kept]:
        """What each project has left, as far as is known."""
        before = {
            project: Kept(held.artifacts, held.artifact_bytes, held.oldest_use)
            for project, held in self.survey.holdings.items()
        }
        return before | (self._eviction.kept if self._eviction else {})

    def report(self) -> PassReport:
        """What has been done."""
        held = self.survey.holdings.values()
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
            stored_bytes=self.survey.bytes - gone.bytes,
            entries_checked=self._entries_checked,
            folders=gone.folders,
        )
