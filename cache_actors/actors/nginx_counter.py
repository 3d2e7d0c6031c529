"""The nginx counter: counts what nginx answers without asking the service.

During a rollout several instances run. The one that gets the new connections is also the one whose
metrics are looked at, so it is the one to count; the others leave nginx's log to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from cache_actors.metrics.nginx_log import NginxLog

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cache_actors.metrics.nginx_log import Taken
    from cache_actors.metrics.registry import Metrics
    from cache_actors.supervision import Started

LOOK_SECONDS = 1.0
"""Between two looks at the log, which nginx writes to once a second."""


class NginxCounter:
    """Counts what is in nginx's log.

    Args:
        path: where the log is; without one there is nothing to count.
        metrics: where it is counted.
        is_current: whether this is the instance that new connections come to.
        threads: for its trips to the disk.
        log: told when the log cannot be read, or not be emptied, with the event's name and fields.
    """

    def __init__(
        self,
        path: Path | None,
        metrics: Metrics,
        is_current: Callable[[], bool],
        threads: trio.CapacityLimiter,
        log: Callable[..., object],
    ) -> None:
        self._nginx_log = NginxLog(path) if path is not None else None
        self._metrics = metrics
        self._is_current = is_current
        self._threads = threads
        self._log = log
        self._told: str | None = None  # why it is not counted or not emptied, as was logged last

    async def run(self, stop: trio.Event, started: Started) -> None:
        """Keep counting until `stop` is set."""
        started()
        if self._nginx_log is None:
            await stop.wait()
            return
        try:
            while not stop.is_set():
                await self._look(self._nginx_log)
                with trio.move_on_after(LOOK_SECONDS):
                    await stop.wait()
        finally:
            self._nginx_log.close()

    async def _look(self, nginx_log: NginxLog) -> None:
        if not self._is_current():
            nginx_log.close()
            return
        try:
            taken: Taken = await trio.to_thread.run_sync(nginx_log.take, limiter=self._threads)
        except OSError as error:
            self._trouble("log_not_counted", str(error))
            return
        if nginx_log.is_emptied:
            self._told = None
        else:
            self._trouble("log_not_emptied", "It is not ours to write to, so it grows")
        for served in taken.served:
            self._metrics.served(served)
        self._metrics.nginx_lines_ignored.inc(taken.ignored)

    def _trouble(self, trouble: str, reason: str) -> None:
        """Count a trouble each time, and log it when it is another one than last time."""
        self._metrics.nginx_trouble(trouble)
        if self._told != reason:
            self._told = reason
            self._log("nginx_log_failed", trouble=trouble, reason=reason)
