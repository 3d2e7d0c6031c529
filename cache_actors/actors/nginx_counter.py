"""The nginx counter: counts, from nginx's log, the requests that nginx answers alone.

Of the several instances during a rollout only the current one, which gets new connections, reads
the log: it is also the one that Prometheus scrapes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from cache_actors.metrics.nginx_log import NginxLog

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cache_actors.metrics.nginx_log import ParsedLog
    from cache_actors.metrics.registry import Metrics
    from cache_actors.supervision import Started

READ_LOG_SECONDS = 1.0
"""Pause between two reads of the log, in seconds; nginx writes to it once a second."""


class NginxCounter:
    """Counts the requests in nginx's log, and empties it.

    Args:
        path: path of nginx's log; None to count nothing.
        metrics: metrics to count in.
        is_current: function that returns whether this instance gets new connections.
        threads: limit on threads for disk access.
        log: logs a log file that cannot be read or emptied, with the event's name and fields.
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
        self._logged: str | None = None  # the reason logged last, unless that trouble is over

    async def run(self, stop: trio.Event, started: Started) -> None:
        """Count every `READ_LOG_SECONDS` until `stop` is set."""
        started()
        if self._nginx_log is None:
            await stop.wait()
            return
        try:
            while not stop.is_set():
                await self._look(self._nginx_log)
                with trio.move_on_after(READ_LOG_SECONDS):
                    await stop.wait()
        finally:
            self._nginx_log.close()

    async def _look(self, nginx_log: NginxLog) -> None:
        if not self._is_current():
            nginx_log.close()
            return
        try:
            taken: ParsedLog = await trio.to_thread.run_sync(nginx_log.take, limiter=self._threads)
        except OSError as error:
            self._trouble("log_not_counted", str(error))
            return
        if nginx_log.is_emptied:
            self._logged = None
        else:
            self._trouble("log_not_emptied", "It is not ours to write to, so it grows")
        for served in taken.served:
            self._metrics.served(served)
        self._metrics.nginx_lines_ignored.inc(taken.ignored)

    def _trouble(self, trouble: str, reason: str) -> None:
        """Count a trouble, and log it unless its reason is the one logged last."""
        self._metrics.nginx_trouble(trouble)
        if self._logged != reason:
            self._logged = reason
            self._log("nginx_log_failed", trouble=trouble, reason=reason)
