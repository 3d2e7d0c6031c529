"""A worker: the process that runs the application for its parent."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
from typing import TYPE_CHECKING

import trio

from cache_actors.application import Application
from cache_actors.log import new_log
from cache_actors.runtime.lifecycle import EXIT_CUT_SHORT, run_until_stopped
from cache_actors.settings import load_settings

from .connection_receiver import ConnectionReceiver
from .peers import ProcessReport, Reporter, WorkerPeers
from .shared_report import SharedReport

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from cache_actors.settings import Settings

    from .protocol import WorkerConfig


def run_worker(config: WorkerConfig) -> int:
    """Run until the parent asks to stop, and return the process's exit status.

    The settings are read from the environment, which is the parent's. SIGTERM, SIGINT and SIGHUP
    are ignored: terminals and systemd send them to all processes, and the parent acts on them.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    settings = load_settings()
    log = new_log(settings).bind(worker=config.name)
    with socket.socket(fileno=config.channel) as channel:
        _end_with(channel)
        return trio.run(_run, config, settings, channel, log)


async def _run(
    config: WorkerConfig, settings: Settings, channel: socket.socket, log: FilteringBoundLogger
) -> int:
    connections = ConnectionReceiver(channel, log.warning)
    shared_reports = {name: SharedReport(fd) for name, fd in config.shared_reports.items()}
    peers = WorkerPeers(shared_reports, config.name)
    application = Application(settings, connections, log, peers, since=config.since)

    def new_report() -> ProcessReport:
        metrics = application.metrics
        return ProcessReport(
            application.supervisor.status(),
            metrics.render(),
            metrics.recent.history(),
            metrics.nginx_troubles(),
            connections.is_replaced(),
            application.shared_status(),
        )

    reporter = Reporter(shared_reports[config.name], new_report)

    def started() -> None:
        reporter.report()
        connections.announce()

    async def report(_stop: trio.Event, _cancel_scope: trio.CancelScope) -> None:
        await reporter.run(stop=trio.Event(), started=lambda: None)

    return await run_until_stopped(
        application, log, started, connections.follow_parent, connections.report_progress, report
    )


def _end_with(channel: socket.socket) -> None:
    """End this process when the other end of `channel` is closed, even if trio's loop hangs."""

    def watch() -> None:
        poll = select.poll()
        poll.register(channel, 0)  # POLLHUP is always reported
        poll.poll()
        os._exit(EXIT_CUT_SHORT)

    threading.Thread(target=watch, name="end_with_parent", daemon=True).start()
