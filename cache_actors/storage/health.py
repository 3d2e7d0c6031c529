"""The health of the storage, derived from the outcomes of all writes."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from .errors import StorageBusy, StorageFull, storage_error

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_PROBE_SECONDS = 10.0
"""Longest duration of a probe in seconds, beyond which the storage counts as failing."""


class StorageState(Enum):
    """The state of writing; reads go on in any state."""

    OK = "ok"
    FULL = "full"
    FAILING = "failing"


@dataclass(frozen=True, slots=True)
class StorageStatus:
    """A snapshot of the storage's state.

    Attributes:
        state: the state of writing.
        reason: the reason for a state other than OK.
        since: the time of the last change of state (`time.monotonic()`).
        free_bytes: free bytes at the last probe; None before the first.
        free_inodes: free inodes likewise; None also on a file system that counts none.
    """

    state: StorageState
    reason: str | None
    since: float
    free_bytes: int | None = None
    free_inodes: int | None = None


class StorageHealth:
    """The health of the storage; safe to update and read from any thread."""

    def __init__(self) -> None:
        self._state: tuple[StorageState, str | None, float] = (
            StorageState.OK,
            None,
            time.monotonic(),
        )
        self._room: tuple[int | None, int | None] = (None, None)
        self._probed_since: float | None = None

    def note(self, outcomes: Sequence[object]) -> None:
        """Update the state from the outcomes of writes; each `OSError` is a failure.

        A lack of file descriptors or memory, and a lock that is held (`StorageBusy`), are no fault
        of the storage and change nothing.
        """
        failures = [storage_error(each) for each in outcomes if isinstance(each, OSError)]
        succeeded = len(failures) < len(outcomes)
        failures = [failure for failure in failures if not isinstance(failure, StorageBusy)]
        if failures:
            full = all(isinstance(failure, StorageFull) for failure in failures)
            state = StorageState.FULL if full else StorageState.FAILING
            self._enter(state, str(failures[-1]))
        elif succeeded:
            self._enter(StorageState.OK, None)

    def note_room(self, free_bytes: int, free_inodes: int | None) -> None:
        """Record the free bytes and inodes; None for a file system that counts no inodes."""
        self._room = (free_bytes, free_inodes)

    @contextmanager
    def probed(self) -> Iterator[None]:
        """Time a probe, which runs in the context: one that hangs makes the storage fail."""
        self._probed_since = time.monotonic()
        try:
            yield
        finally:
            self._probed_since = None

    def _enter(self, state: StorageState, reason: str | None) -> None:
        now, _, since = self._state
        self._state = (state, reason, since if state is now else time.monotonic())

    def status(self) -> StorageStatus:
        """A snapshot of the current state."""
        since = self._probed_since
        if since is not None and time.monotonic() - since > MAX_PROBE_SECONDS:
            reason = f"The storage has not answered for {MAX_PROBE_SECONDS:g} seconds"
            return StorageStatus(StorageState.FAILING, reason, since, *self._room)
        return StorageStatus(*self._state, *self._room)
