"""The scrubber: a background task that reads all stored files, slowly and periodically."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

import trio

from cache_actors.storage.errors import StorageError
from cache_actors.storage.integrity.scrub import Scrub, ScrubLock, ScrubRunning, last_scrub
from cache_actors.transfer.disk_threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cache_actors.supervision import Started

MAX_STEPS = 64
"""Largest number of steps of a scrub in one call of a thread; each reads at most 1 MiB."""

RETRY_SCRUB_SECONDS = 60.0
"""Pause in seconds after a scrub that failed, or that found another process scrubbing."""


class Scrubber:
    """Scrubs a storage folder periodically.

    Args:
        root: the storage folder.
        interval: seconds from the end of a scrub, by any process, to the next; 0 to never scrub.
        rate: largest number of bytes to read per second.
        threads: limit on the threads that run at once, shared with other tasks.
        log_warning: logs broken files, failures and ends of scrubs, by the event's name and fields.
    """

    def __init__(
        self,
        root: Path,
        interval: float,
        rate: float,
        threads: trio.CapacityLimiter,
        log_warning: Callable[..., object],
    ) -> None:
        self._root = root
        self._interval = interval
        self._rate = rate
        self._threads = threads
        self._log_warning = log_warning

    async def run(self, stop: trio.Event, started: Started) -> None:
        """Scrub `interval` seconds after the end of each scrub, until `stop` is set."""
        started()
        if self._interval == 0:
            await stop.wait()
        while not stop.is_set():
            try:
                pause = await self._seconds_left()
                if pause == 0:
                    await self._scrub(stop)
            except ScrubRunning:
                pause = RETRY_SCRUB_SECONDS
            except StorageError as error:
                self._log_warning("scrub_failed", reason=str(error))
                pause = RETRY_SCRUB_SECONDS
            with trio.move_on_after(pause):
                await stop.wait()

    async def _seconds_left(self) -> float:
        last = await in_thread(last_scrub, self._root, threads=self._threads)
        if last is None:
            return 0.0
        return min(max(0.0, last + self._interval - time.time()), self._interval)

    async def _scrub(self, stop: trio.Event) -> None:
        scrub = Scrub(self._root)
        report, steps = scrub.report, scrub.run()
        reported = 0
        with await in_thread(ScrubLock, self._root, threads=self._threads) as lock:
            while not report.complete and not stop.is_set():
                begun = trio.current_time()
                cost = await in_thread(_advance, steps, self._rate, threads=self._threads)
                for finding in report.findings[reported:]:
                    self._log_warning(
                        "scrub_found",
                        path=finding.path,
                        fault=finding.fault.value,
                        quarantined=finding.quarantined,
                    )
                reported = len(report.findings)
                with trio.move_on_at(begun + cost / self._rate):
                    await stop.wait()
            if report.complete:
                await in_thread(lock.record_completed, threads=self._threads)
                self._log_warning(
                    "scrub_finished",
                    files=report.files,
                    bytes=report.bytes,
                    found=len(report.findings),
                )


def _advance(steps: Iterator[int], max_bytes: float) -> int:
    """Take steps until they have read `max_bytes`, at most `MAX_STEPS`; return the bytes read."""
    cost = 0
    for step in itertools.islice(steps, MAX_STEPS):
        cost += step
        if cost >= max_bytes:
            break
    return cost
