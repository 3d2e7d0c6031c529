"""The parent: its supervision tree, in which each worker is a child."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cache_actors.runtime.lifecycle import MAX_STOP_SECONDS
from cache_actors.supervision import ChildSpec, Supervisor

from .acceptor import Acceptor
from .peers import PARENT, ProcessReport, Reporter
from .pool import Pool
from .shared_report import SharedReport
from .worker_process import COMMAND, Launcher, WorkerProcess

if TYPE_CHECKING:
    import trio
    from structlog.typing import FilteringBoundLogger

    from cache_actors.runtime.listen_socket import ListenSocket
    from cache_actors.settings import Settings
    from cache_actors.supervision import Started

SPARE_RESTARTS = 5
"""Restarts allowed in `RESTART_SECONDS` beyond one for each worker: all of them may end at once, as
when memory runs out."""

RESTART_SECONDS = 60.0
"""Window of the workers' restart intensity, in seconds. A start takes half a second or more, so
workers that cannot start exceed the intensity within it."""

ACCEPTOR_SHUTDOWN = 35.0
"""Longest stop of the acceptor, in seconds; the listeners of the workers may take 32."""


class Workers:
    """The service at one socket, as several worker processes.

    Args:
        count: the number of workers.
        settings: the service's settings.
        sock: the socket at which the parent accepts.
        log: the parent's log.
        command: the command that runs a worker.
    """

    def __init__(
        self,
        count: int,
        settings: Settings,
        sock: ListenSocket,
        log: FilteringBoundLogger,
        command: tuple[str, ...] = COMMAND,
    ) -> None:
        names = [f"worker_{number}" for number in range(1, count + 1)]
        self._shared_reports = {name: SharedReport() for name in (PARENT, *names)}
        self._reporter = Reporter(
            self._shared_reports[PARENT],
            lambda: ProcessReport(tree=self.supervisor.status(), replaced=sock.is_replaced()),
        )
        secret = settings.secret_key_base.get_secret_value()
        launcher = Launcher(self._shared_reports, time.monotonic(), secret, command)
        pool = Pool()
        self.supervisor = Supervisor(
            PARENT,
            [
                ChildSpec("reporter", self._reporter.run, shutdown=0),
                *(
                    ChildSpec(
                        name,
                        WorkerProcess(name, launcher, pool, self._reporter, log).run,
                        shutdown=MAX_STOP_SECONDS,
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
        """Run until `stop` is set and all workers have stopped in order.

        Raises:
            RestartIntensityError: the workers crashed too often.
        """

        def report_and_start() -> None:
            self._reporter.report()
            started()

        try:
            await self.supervisor.run(stop, report_and_start)
        finally:
            for shared_report in self._shared_reports.values():
                shared_report.close()
