"""The status of the bucket, for `/up`, metrics and those who wait for it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

STATES = ("starting", "ok", "unreachable", "misconfigured")

_WORST_FIRST = ("misconfigured", "unreachable", "starting", "ok")

Asker = Literal["replicator", "fetcher"]
"""Who asks the bucket: one puts, the other gets."""

ASKERS: tuple[Asker, ...] = ("replicator", "fetcher")


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
        return _fails(self.state)


def _fails(state: str) -> bool:
    return state in STATES[2:]


def worst(statuses: Iterable[SharedStatus]) -> SharedStatus:
    """The status of a service of which processes have these: the worst state, and all backlogs."""
    each = sorted(statuses, key=lambda status: _WORST_FIRST.index(status.state))
    return replace(
        each[0],
        files=sum(status.files for status in each),
        bytes=sum(status.bytes for status in each),
        oldest=max(status.oldest for status in each),
        dropped=sum(status.dropped for status in each),
    )


class SharedMonitor:
    """The status of the bucket, which outlives crashes of actors; readers get a snapshot.

    The state is that of the asker for whom the bucket is worst: it may take what is put, and give
    nothing, or the other way round; and while nothing is stored, only the other one asks it.

    Attributes:
        complete: whether the replicator has been told of all that was stored.
    """

    def __init__(self) -> None:
        self.complete = True
        self._states: dict[Asker, tuple[str, str | None]] = dict.fromkeys(
            ASKERS, ("starting", None)
        )
        self._status = SharedStatus(since=time.monotonic())

    def status(self) -> SharedStatus:
        """A snapshot of the current status."""
        return self._status

    def fails(self, asker: Asker) -> bool:
        """Whether the bucket cannot be asked by `asker`."""
        return _fails(self._states[asker][0])

    def note(self, asker: Asker, state: str, reason: str | None) -> bool:
        """Update the state for `asker`, and return whether that of the bucket has changed."""
        self._states[asker] = state, reason
        state, reason = min(self._states.values(), key=lambda found: _WORST_FIRST.index(found[0]))
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
