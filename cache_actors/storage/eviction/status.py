"""The status of eviction, for everyone who asks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .last_pass import PassReport


@dataclass(frozen=True, slots=True)
class EvictionStatus:
    """The status of eviction.

    Attributes:
        used: the used share of the disk, or of the limit, at the last look; None before it.
        high_watermark: the share from which on there is a pass; None before the first look.
        running: whether a pass of this process's is running.
        passes, seconds, artifacts, entries, bytes: totals of the passes that this process has had
            run, since it started.
        last: the last pass, of whatever process.
        failure: why the last attempt failed; None if it didn't.
        failures: how many attempts of this process's have failed, since it started.
    """

    used: float | None = None
    high_watermark: float | None = None
    running: bool = False
    passes: int = 0
    seconds: float = 0.0
    artifacts: int = 0
    entries: int = 0
    bytes: int = 0
    last: PassReport | None = None
    failure: str | None = None
    failures: int = 0


class EvictionMonitor:
    """The evictor's record, which outlives its crashes; anyone reads it, as one value."""

    def __init__(self) -> None:
        self._status = EvictionStatus()

    def status(self) -> EvictionStatus:
        """What is known."""
        return self._status

    def note(self, **changes: object) -> None:
        """Take in what has changed."""
        self._status = replace(self._status, **changes)  # type: ignore[arg-type]

    def note_pass(self, report: PassReport) -> None:
        """Take in what a pass has done."""
        status = self._status
        self._status = replace(
            status,
            passes=status.passes + 1,
            seconds=status.seconds + report.seconds,
            artifacts=status.artifacts + report.artifacts,
            entries=status.entries + report.entries,
            bytes=status.bytes + report.bytes,
            last=report,
            failure=None,
        )

    def note_failure(self, reason: str) -> None:
        """Take in why an attempt to evict has failed."""
        self._status = replace(self._status, failure=reason, failures=self._status.failures + 1)
