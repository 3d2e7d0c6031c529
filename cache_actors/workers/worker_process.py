"""A worker's process, as a child in the parent's tree."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec
import trio

from .link import Link
from .messages import Drain, Terms

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from structlog.typing import FilteringBoundLogger

    from cache_actors.supervision import Started

    from .board import Board
    from .pool import Pool
    from .reports import Reporter

COMMAND = (sys.executable, "-m", "cache_actors.workers")
"""Runs a worker; its terms are one more argument."""


class WorkerEnded(Exception):
    """A worker's process has ended without being asked to, or otherwise than it should."""


class WorkerProcess:
    """Runs a worker's process, incarnation after incarnation.

    Args:
        name: the worker's.
        boards: those of all processes, by name, its own among them.
        since: when the service was started, in `time.monotonic()`.
        secret: the key of the hashes that tokens are kept as, the same for all workers.
        pool: which it takes connections from.
        reporter: reports the parent's tree.
        log: where starts are logged.
        command: what runs it.
    """

    def __init__(
        self,
        name: str,
        boards: Mapping[str, Board],
        since: float,
        secret: str,
        pool: Pool,
        reporter: Reporter,
        log: FilteringBoundLogger,
        command: tuple[str, ...] = COMMAND,
    ) -> None:
        self.name = name
        self._boards = boards
        self._since = since
        self._secret = secret
        self._pool = pool
        self._reporter = reporter
        self._log = log
        self._command = command

    async def run(self, stop: trio.Event, started: Started) -> None:
        """Run one process, until `stop` is set and it has ended.

        It may be told to end before that, by the pool. Then it is not missed, nor started again.

        Raises:
            WorkerEnded: it has ended by itself, or not with exit status 0.
        """
        if not self._pool.is_draining():
            try:
                status = await self._live(stop, started)
            finally:
                self._boards[self.name].clear()
                self._reporter.report_soon()
            if status != 0 or not (self._pool.is_draining() or stop.is_set()):
                raise WorkerEnded(f"exit status {status}")
        await stop.wait()

    async def _live(self, stop: trio.Event, started: Started) -> int:
        with _channel() as (ours, theirs):
            link = Link(ours)
            with self._pool.member(link):
                process = await self._start(theirs)
                theirs.close()
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._follow, link, started)
                        nursery.start_soon(_drain, link, stop)
                        status = await process.wait()
                        nursery.cancel_scope.cancel()
                finally:
                    with trio.CancelScope(shield=True):
                        process.kill()
                        await process.wait()
        return status

    async def _start(self, channel: socket.socket) -> trio.Process:
        boards = {name: board.fd for name, board in self._boards.items()}
        terms = Terms(self.name, self._since, channel.fileno(), boards)
        process = await trio.lowlevel.open_process(
            [*self._command, msgspec.json.encode(terms).decode()],
            pass_fds=(channel.fileno(), *boards.values()),
            env=os.environ | {"SECRET_KEY_BASE": self._secret},
        )
        self._log.info("worker_started", worker=self.name, pid=process.pid)
        return process

    async def _follow(self, link: Link, started: Started) -> None:
        """Take in how far the worker is, until it is gone."""
        ready = False
        while (progress := await link.receive()) is not None:
            if progress.ready and not ready:
                ready = True
                started()
                self._reporter.report_soon()
            self._pool.spread()


async def _drain(link: Link, stop: trio.Event) -> None:
    """Tell the worker to end when the supervisor says so, if the pool has not told it before."""
    await stop.wait()
    link.drain(Drain(replaced=False))


@contextmanager
def _channel() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs
