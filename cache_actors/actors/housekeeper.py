"""The housekeeper: probes whether the disk can be written to, and removes leftovers.

Each write updates the storage's health; the probes do so while no client writes, so that a failure,
and its end, are noticed without one.
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
"""Number of probes between two removals of killed processes' temporary files."""

SWEEP_UPLOADS_EVERY = 12
"""Number of probes between two removals of idle uploads."""


class Housekeeper:
    """Looks after a store and its temporary folders.

    Args:
        store: the file store to probe.
        temporaries: folders of temporary files to sweep.
        unfinished: unfinished uploads, of which idle ones are removed.
        threads: limit on threads for disk access.
        log: logs changes of the storage's state, with the event's name and fields.
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
        """Probe every `PROBE_SECONDS` until `stop` is set."""
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
            with suppress(OSError):  # the next sweep tries again
                sweep()
