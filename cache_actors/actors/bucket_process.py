"""The keeper of a process that asks the bucket for an actor: the replicator's, and the fetcher's.

A process that dies is replaced after a pause. So is one that says nothing for long, since each
reports every second, and one in which a request to the bucket does not end. One that has said
nothing for some seconds is not waited for, and the bucket counts as unreachable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

import trio

from cache_actors.actor_process.client import ActorProcess, ProcessDied

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from cache_actors.metrics.registry import Metrics
    from cache_actors.s3.report import BucketReport
    from cache_actors.s3.status import Asker, SharedMonitor

QUIET_SECONDS = 5.0
"""Time in seconds without a report after which nobody waits for a process; as a rule it hangs."""

SILENCE_SECONDS = 60.0
"""Time in seconds without a report after which a process counts as dead; it reports each second."""

RESTART_SECONDS = 1.0
"""Pause in seconds before a process that has died is replaced; it doubles each time."""

MAX_RESTART_SECONDS = 60.0
"""Longest such pause, and the life after which a process counts as sound."""

Report = TypeVar("Report")


class BucketProcess(Generic[Report]):
    """Keeps a process running, and the books of how the bucket is for it.

    Args:
        asker: whose process it is.
        command: what runs it.
        config: makes its configuration of the descriptor of its socket.
        decode: decodes its reports.
        monitor: the status of the bucket to update.
        metrics: where requests are counted.
        log: logs changes of the state, and deaths, with the event's name and fields.
    """

    def __init__(
        self,
        asker: Asker,
        command: Sequence[str],
        config: Callable[[int], Any],
        decode: Callable[[bytes], Report],
        monitor: SharedMonitor,
        metrics: Metrics,
        log: Callable[..., object],
    ) -> None:
        self._asker = asker
        self._command = command
        self._config = config
        self._decode = decode
        self._monitor = monitor
        self._metrics = metrics
        self._log = log
        self._heard = 0.0  # when the process has reported last, or started

    def is_quiet(self) -> bool:
        """Whether the process has not reported for longer than it should take."""
        return trio.current_time() - self._heard > QUIET_SECONDS

    async def keep(
        self, use: Callable[[ActorProcess], Awaitable[None]], ended: Callable[[], None]
    ) -> None:
        """Run one process after the other; never returns.

        Args:
            use: talks to a process until that raises `ProcessDied`.
            ended: called when a process has ended, before there is another one.
        """
        pause = RESTART_SECONDS
        while True:
            began = trio.current_time()
            reason = await self._run(use)
            self._note("unreachable", f"the {self._asker}'s process has ended: {reason}")
            self._log(f"{self._asker}_process_died", reason=reason)
            ended()
            if trio.current_time() - began > MAX_RESTART_SECONDS:
                pause = RESTART_SECONDS
            await trio.sleep(pause)
            pause = min(2 * pause, MAX_RESTART_SECONDS)

    async def _run(self, use: Callable[[ActorProcess], Awaitable[None]]) -> str:
        """Run a process until it dies, and return the reason."""
        process = ActorProcess()
        try:
            await process.start(self._command, self._config)
        except OSError as error:
            return str(error.strerror)
        reason = ""
        self._heard = trio.current_time()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._note_quiet)
                await use(process)
        except* ProcessDied as errors:
            first: BaseException = errors
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            reason = str(first)
        finally:
            await process.end(kill=bool(reason))
        return reason

    async def _note_quiet(self) -> None:
        """Note of a process that says nothing that nobody can ask the bucket, until cancelled."""
        while True:
            await trio.sleep(1.0)
            if self.is_quiet():
                self._note("unreachable", f"the {self._asker}'s process says nothing")

    async def next_report(self, process: ActorProcess) -> Report:
        """The next report of `process`.

        Raises:
            ProcessDied: it is gone, talks nonsense, or says nothing.
        """
        with trio.move_on_after(SILENCE_SECONDS):
            report = await process.receive(self._decode)
            self._heard = trio.current_time()
            return report
        raise ProcessDied("it says nothing")

    def note(self, report: BucketReport) -> None:
        """Take in what a process reports of the bucket.

        Raises:
            ProcessDied: it has to be replaced.
        """
        for request in report.requests:
            self._metrics.shared_requested(request.operation, request.outcome, request.seconds)
        if report.is_stuck:
            raise ProcessDied("a request to the bucket does not end")
        self._note(report.state, report.reason)

    def _note(self, state: str, reason: str | None) -> None:
        if self._monitor.note(self._asker, state, reason):
            status = self._monitor.status()
            self._log("shared_state", state=status.state, reason=status.reason)
