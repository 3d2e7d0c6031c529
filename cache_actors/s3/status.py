"""The status of the bucket, for `/up`, metrics and those who wait for it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

STATES = ("starting", "ok", "unreachable", "misconfigured")


@dataclass(frozen=True, slots=True)
class SharedStatus:
    """The status of the bucket and of replication to it.

    Attributes:
        state: one of `STATES`.
        reason: the reason for a state other than `ok`.
        since: time of the last change of state, in `time.monotonic()`.
        files, bytes: what is not in the bucket yet, as far as it is known; bytes on disk.
        oldest: seconds that the oldest of it has waited.
        dropped: files that were evicted before they were in the bucket, by this process's passes.
    """

    state: str = "starting"
    reason: str | None = None
    since: float = 0.0
    files: int = 0
    bytes: int = 0
    oldest: float = 0.0
    dropped: int = 0

    @property
    def fails(self) -> bool:
        """Whether the bucket cannot be asked."""
        return self.state in STATES[2:]


class SharedMonitor:
    """The status of the bucket, which outlives crashes of the replicator; readers get a snapshot.

    Attributes:
        complete: whether the replicator has been told of all that was stored.
    """

    def __init__(self) -> None:
        self.complete = True
        self._status = SharedStatus(since=time.monotonic())

    def status(self) -> SharedStatus:
        """A snapshot of the current status."""
        return self._status

    def note(self, state: str, reason: str | None) -> bool:
        """Update the state, and return whether it has changed."""
        changed = state != self._status.state
        since = time.monotonic() if changed else self._status.since
        self._status = replace(self._status, state=state, reason=reason, since=since)
        return changed

    def note_backlog(self, files: int, size: int, oldest: float) -> None:
        """Update what is not in the bucket yet."""
        self._status = replace(self._status, files=files, bytes=size, oldest=oldest)

    def note_dropped(self, files: int) -> None:
        """Count files that were evicted before they were in the bucket."""
        self._status = replace(self._status, dropped=self._status.dropped + files)
