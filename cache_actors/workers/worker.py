"""A worker: the application, with what its parent hands to it."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
from typing import TYPE_CHECKING

import trio

from cache_actors.application import Application
from cache_actors.lifetime import EXIT_CUT_SHORT, live
from cache_actors.log import new_log
from cache_actors.settings import load_settings

from .board import Board
from .handed_connections import HandedConnections
from .reports import Everybody, Report, Reporter

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from cache_actors.settings import Settings

    from .messages import Terms


def run_worker(terms: Terms) -> int:
    """Run until the parent says stop, and return the process's exit status.

    The settings are those of the environment, which is the parent's. SIGTERM, SIGINT and
    SIGHUP are for the parent to deal with: terminals and systemd send them to all processes of a
    group.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    settings = load_settings()
    log = new_log(settings).bind(worker=terms.name)
    with socket.socket(fileno=terms.channel) as channel:
        _end_with(channel)
        return trio.run(_run, terms, settings, channel, log)


async def _run(
    terms: Terms, settings: Settings, channel: socket.socket, log: FilteringBoundLogger
) -> int:
    connections = HandedConnections(channel, log.warning)
    boards = {name: Board(fd) for name, fd in terms.boards.items()}
    everybody = Everybody(boards, terms.name)
    application = Application(settings, connections, log, everybody, since=terms.since)

    def new_report() -> Report:
        metrics = application.metrics
        return Report(
            application.supervisor.status(),
            metrics.render(),
            metrics.recent.history(),
            metrics.nginx_troubles(),
            connections.is_replaced(),
        )

    reporter = Reporter(boards[terms.name], new_report)

    def started() -> None:
        reporter.report()
        connections.announce()

    async def report(_stop: trio.Event, _everything: trio.CancelScope) -> None:
        await reporter.run(stop=trio.Event(), started=lambda: None)

    return await live(
        application, log, started, connections.follow_parent, connections.tell_parent, report
    )


def _end_with(channel: socket.socket) -> None:
    """End this process when the other end of `channel` is gone, even if trio's loop hangs."""

    def watch() -> None:
        poll = select.poll()
        poll.register(channel, 0)  # a closed other end is always told
        poll.poll()
        os._exit(EXIT_CUT_SHORT)

    threading.Thread(target=watch, name="end_with_parent", daemon=True).start()
