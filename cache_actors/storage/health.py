"""Whether the storage can be written to at the moment, as everyone sees who writes."""

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
"""Longest time that a probe may take, in seconds; after that the disk counts as one that hangs."""


class StorageState(Enum):
    """The state of writing. Reading goes on in any state."""

    OK = "ok"
    FULL = "full"
    FAILING = "failing"


@dataclass(frozen=True, slots=True)
class StorageStatus:
    """A state, why, and since when (`time.monotonic()`); and the room there was at the last look.

    `free_bytes` and `free_inodes` are None before the first look, and the latter also where the
    file system counts no inodes.
    """

    state: StorageState
    reason: str | None
    since: float
    free_bytes: int | None = None
    free_inodes: int | None = None


class StorageHealth:
    """The latest outcome of writing. Threads note it and anyone reads it, as one value."""

    def __init__(self) -> None:
        self._state: tuple[StorageState, str | None, float] = (
            StorageState.OK,
            None,
            time.monotonic(),
        )
        self._room: tuple[int | None, int | None] = (None, None)
        self._probed_since: float | None = None

    def note(self, outcomes: Sequence[object]) -> None:
        """Take in how writes went: those that failed are `OSError`s.

        A lack of open files or of memory is not the storage's fault, and says nothing of it; no
        more does a project whose entries are being evicted.
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
        """Take in how much room there is; inodes only where they are counted."""
        self._room = (free_bytes, free_inodes)

    @contextmanager
    def probed(self) -> Iterator[None]:
        """Somebody tries to write, for as long as the context lasts; he may not come back."""
        self._probed_since = time.monotonic()
        try:
            yield
        finally:
            self._probed_since = None

    def _enter(self, state: StorageState, reason: str | None) -> None:
        now, _, since = self._state
        self._state = (state, reason, since if state is now else time.monotonic())

    def status(self) -> StorageStatus:
        """What is known."""
        since = self._probed_since
        if since is not None and time.monotonic() - since > MAX_PROBE_SECONDS:
            reason = f"The storage has not answered for {MAX_PROBE_SECONDS:g} seconds"
            return StorageStatus(StorageState.FAILING, reason, since, *self._room)
        return StorageStatus(*self._state, *self._room)
