"""The parent: its supervision tree, in which each worker is a child."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cache_actors.lifetime import LONGEST_STOP
from cache_actors.supervision import ChildSpec, Supervisor

from .acceptor import Acceptor
from .board import Board
from .pool import Pool
from .reports import PARENT, Report, Reporter
from .worker_process import COMMAND, Launcher, WorkerProcess

if TYPE_CHECKING:
    import trio
    from structlog.typing import FilteringBoundLogger

    from cache_actors.http.endpoint import BoundSocket
    from cache_actors.settings import Settings
    from cache_actors.supervision import Started

SPARE_RESTARTS = 5
RESTART_SECONDS = 60.0
"""All workers may be lost at once, as when memory runs out, and so many more in so many seconds. A
start takes half a second or more: a worker that cannot be started exceeds this."""

ACCEPTOR_SHUTDOWN = 35.0
"""Seconds: the workers' listeners have 32."""


class Workers:
    """The service at one socket, as several processes.

    Args:
        count: how many workers there are.
        settings: what it runs with.
        sock: where it listens.
        log: where it logs.
        command: what runs a worker.
    """

    def __init__(
        self,
        count: int,
        settings: Settings,
        sock: BoundSocket,
        log: FilteringBoundLogger,
        command: tuple[str, ...] = COMMAND,
    ) -> None:
        names = [f"worker_{number}" for number in range(1, count + 1)]
        self._boards = {name: Board() for name in (PARENT, *names)}
        self._reporter = Reporter(
            self._boards[PARENT],
            lambda: Report(tree=self.supervisor.status(), replaced=sock.is_replaced()),
        )
        secret = settings.secret_key_base.get_secret_value()
        launcher = Launcher(self._boards, time.monotonic(), secret, command)
        pool = Pool()
        self.supervisor = Supervisor(
            PARENT,
            [
                ChildSpec("reporter", self._reporter.run, shutdown=0),
                *(
                    ChildSpec(
                        name,
                        WorkerProcess(name, launcher, pool, self._reporter, log).run,
                        shutdown=LONGEST_STOP,
                    )
                    for name in names
                ),
                ChildSpec("acceptor", Acceptor(sock, pool).run, shutdown=ACCEPTOR_SHUTDOWN),
            ],
            max_restarts=count + SPARE_RESTARTS,
            max_seconds=RESTART_SECONDS,
            log=log.error,
        )

    async def run(self, stop: trio.Event, started: Started) -> None:
        """Run until `stop` is set and all workers have come to their end in order.

        Raises:
            RestartIntensityError: too many workers have ended by themselves.
        """

        def report_and_start() -> None:
            self._reporter.report()
            started()

        try:
            await self.supervisor.run(stop, report_and_start)
        finally:
            for board in self._boards.values():
                board.close()
