"""The process of a worker, as a child in the parent's tree."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import trio

from .channel import WorkerChannel
from .protocol import Drain, WorkerConfig

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from structlog.typing import FilteringBoundLogger

    from cache_actors.supervision import Started

    from .peers import Reporter
    from .pool import Pool
    from .shared_report import SharedReport

COMMAND = (sys.executable, "-P", "-m", "cache_actors.workers")
"""Command that runs a worker; the configuration is appended as one argument. `-P` has it import
nothing from the working directory."""


class WorkerEnded(Exception):
    """A worker's process ended without being asked to, or with an exit status other than 0."""


@dataclass(frozen=True, slots=True)
class Launcher:
    """Starts the processes of workers.

    Attributes:
        shared_reports: the shared reports of all processes, by name.
        since: start of the service, in `time.monotonic()`.
        secret: `SECRET_KEY_BASE`, the key for hashes of tokens, which all workers share.
        command: the command that runs a worker.
    """

    shared_reports: Mapping[str, SharedReport]
    since: float
    secret: str = field(repr=False)
    command: tuple[str, ...] = COMMAND

    async def launch(self, name: str, channel: socket.socket) -> trio.Process:
        """Start a process for the worker `name`; `channel` is the worker's end of the channel."""
        shared_reports = {
            process: shared_report.fd for process, shared_report in self.shared_reports.items()
        }
        config = WorkerConfig(name, self.since, channel.fileno(), shared_reports)
        return await trio.lowlevel.open_process(
            [*self.command, msgspec.json.encode(config).decode()],
            pass_fds=(channel.fileno(), *shared_reports.values()),
            env=os.environ | {"SECRET_KEY_BASE": self.secret},
        )


class WorkerProcess:
    """A child of the parent's tree that runs a worker's process.

    Args:
        name: the worker's name.
        launcher: starts the process.
        pool: the pool from which the worker gets its connections.
        reporter: the parent's reporter, asked for a report when the worker starts or ends.
        log: the log for starts of the worker.
    """

    def __init__(
        self,
        name: str,
        launcher: Launcher,
        pool: Pool,
        reporter: Reporter,
        log: FilteringBoundLogger,
    ) -> None:
        self._name = name
        self._launcher = launcher
        self._pool = pool
        self._reporter = reporter
        self._log = log

    async def run(self, stop: trio.Event, started: Started) -> None:
        """Run one process, until `stop` is set and the process has ended.

        If the pool has drained the worker before that, the process is not started again.

        Raises:
            WorkerEnded: the process ended by itself, or with an exit status other than 0.
        """
        if not self._pool.is_draining():
            try:
                status = await self._live(stop, started)
            finally:
                self._launcher.shared_reports[self._name].clear()
                self._reporter.report_soon()
            if status != 0 or not (self._pool.is_draining() or stop.is_set()):
                raise WorkerEnded(f"exit status {status}")
        await stop.wait()

    async def _live(self, stop: trio.Event, started: Started) -> int:
        with _channel() as (ours, theirs):
            channel = WorkerChannel(ours)
            with self._pool.register(channel):
                process = await self._launcher.launch(self._name, theirs)
                theirs.close()
                self._log.info("worker_started", worker=self._name, pid=process.pid)
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._follow, channel, started)
                        nursery.start_soon(_drain, channel, stop)
                        status = await process.wait()
                        nursery.cancel_scope.cancel()
                finally:
                    with trio.CancelScope(shield=True):
                        process.kill()
                        await process.wait()
        return status

    async def _follow(self, channel: WorkerChannel, started: Started) -> None:
        """Follow the worker's progress until the worker has ended."""
        ready = False
        while (progress := await channel.receive()) is not None:
            if progress.ready and not ready:
                ready = True
                started()
                self._reporter.report_soon()
            self._pool.dispatch()


async def _drain(channel: WorkerChannel, stop: trio.Event) -> None:
    """Drain the worker when `stop` is set; in an orderly stop the pool has done so before."""
    await stop.wait()
    channel.drain(Drain(replaced=False))


@contextmanager
def _channel() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs
