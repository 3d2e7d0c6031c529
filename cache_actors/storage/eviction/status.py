"""The status of eviction in this process, for `/up`, metrics and the evictor itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .last_pass import PassReport


@dataclass(frozen=True, slots=True)
class EvictionStatus:
    """The status of eviction.

    Attributes:
        used: used share of the disk, or of `STORAGE_MAX_BYTES`, at the last check; None before it.
        high_watermark: share from which on a pass runs; None before the first check.
        running: whether this process has a pass running.
        passes, seconds, artifacts, entries, bytes: totals of this process's passes.
        last: report of the last pass of any process.
        failure: reason why this process's last attempt failed; None if it succeeded.
        failures: number of this process's failed attempts.
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
    """The status of eviction, which outlives crashes of the evictor; readers get a snapshot."""

    def __init__(self) -> None:
        self._status = EvictionStatus()

    def status(self) -> EvictionStatus:
        """A snapshot of the current status."""
        return self._status

    def note(self, **changes: object) -> None:
        """Update fields of the status."""
        self._status = replace(self._status, **changes)  # type: ignore[arg-type]

    def note_pass(self, report: PassReport) -> None:
        """Add a pass of this process to the totals."""
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
        """Count a failed attempt, and keep its reason."""
        self._status = replace(self._status, failure=reason, failures=self._status.failures + 1)
