"""The housekeeper: looks whether the disk can be written to, and removes what others left behind.

Writers see for themselves how writing goes. The housekeeper also looks when nobody writes, so that
trouble is known before the next build, and is known to be over without one.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from cache_actors.storage.health import StorageState
from cache_actors.transfer.disk_threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cache_actors.storage.files.store import FileStore
    from cache_actors.storage.files.temporary import TemporaryFolder
    from cache_actors.storage.files.unfinished import UnfinishedUploads
    from cache_actors.supervision import Started

PROBE_SECONDS = 5.0
"""Pause between two probes of the disk, in seconds."""

SWEEP_EVERY = 120
"""Number of probes after which leftovers of killed processes are removed from the temporary
folders."""

SWEEP_UPLOADS_EVERY = 12
"""Number of probes after which uploads that nobody continues are removed."""


class Housekeeper:
    """Looks after a store and its temporary folders.

    Args:
        store: whose health is kept up to date.
        temporaries: the folders that are swept.
        unfinished: uploads in parts, of which those that are idle are removed.
        threads: for its trips to the disk.
        log: told when the state of the storage has changed.
    """

    def __init__(
        self,
        store: FileStore,
        temporaries: Sequence[TemporaryFolder],
        unfinished: UnfinishedUploads,
        threads: trio.CapacityLimiter,
        log: Callable[..., object],
    ) -> None:
        self._store = store
        self._temporaries = temporaries
        self._unfinished = unfinished
        self._threads = threads
        self._log = log

    async def run(self, stop: trio.Event, started: Started) -> None:
        """Keep looking until `stop` is set."""
        started()
        known = StorageState.OK
        looks = 0
        while not stop.is_set():
            await in_thread(self._look, looks, threads=self._threads)
            looks += 1
            status = self._store.health.status()
            if status.state is not known:
                self._log("storage_state", state=status.state.value, reason=status.reason)
            known = status.state
            with trio.move_on_after(PROBE_SECONDS):
                await stop.wait()

    def _look(self, looks: int) -> None:
        self._store.probe()
        sweeps: list[Callable[[], None]] = []
        if looks % SWEEP_UPLOADS_EVERY == 0:
            sweeps.append(self._unfinished.sweep)
        if looks % SWEEP_EVERY == 0:
            sweeps += [folder.sweep for folder in self._temporaries]
        for sweep in sweeps:
            with suppress(OSError):  # there is nothing to do about it but to try again
                sweep()
