"""The process around the application: signals, limits, and an end that is certain."""

from __future__ import annotations

import os
import resource
import signal
import threading
from typing import TYPE_CHECKING

import trio

from .application import Application
from .http.endpoint import CannotListen, bind
from .log import new_log
from .supervision import RestartIntensityError

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import FilteringBoundLogger

    from .http.endpoint import Endpoint
    from .settings import Settings

EXIT_GAVE_UP = 1
"""Exit status: the supervision tree gave up."""

EXIT_CUT_SHORT = 3
"""Exit status: a stop was cut short, by a second signal or because it took too long."""

LONGEST_STOP = 45.0
"""Seconds an end may take before the process is gone whatever it does. Requests in flight have 30
of them; a shielded wait, or a thread on a dead disk, would otherwise have no limit at all."""

LOOK_SECONDS = 1.0
"""Between two looks at where new connections go; with several instances, one of them may die."""


class CannotStart(Exception):
    """The service cannot use what its settings name; the message says what and why."""


def run_process(settings: Settings, announce: Callable[[], None] = lambda: None) -> int:
    """Run the service until a signal stops it, and return the process's exit status.

    SIGTERM and SIGINT stop it in order; a second one cuts that short.

    Args:
        settings: what it runs with.
        announce: called once it takes requests.

    Raises:
        CannotListen: the address to listen on is not to be had.
        CannotStart: a folder is not to be had.
    """
    _raise_file_limit()
    log = new_log(settings)
    with bind(settings) as endpoint:
        return trio.run(_run, settings, endpoint, log, announce)


async def _run(
    settings: Settings,
    endpoint: Endpoint,
    log: FilteringBoundLogger,
    announce: Callable[[], None],
) -> int:
    try:
        application = Application(settings, endpoint, log)
    except OSError as error:
        where = error.filename or settings.cas_storage_dir
        raise CannotStart(f"Cannot use {where}: {error.strerror}") from error
    stop = trio.Event()
    failures: list[CannotListen] = []
    status = EXIT_CUT_SHORT
    async with trio.open_nursery() as nursery:

        def started() -> None:
            try:
                endpoint.announce()
            except CannotListen as error:
                failures.append(error)
                stop.set()
                return
            nursery.start_soon(_keep_reachable, endpoint, stop, log)
            log.info("started", storage=str(settings.cas_storage_dir))
            announce()

        nursery.start_soon(_stop_on_signal, stop, endpoint, nursery.cancel_scope, log)
        nursery.start_soon(_limit_the_end, application, log)
        try:
            await application.run(stop, started)
            status = 0
        except RestartIntensityError as error:
            log.critical("gave_up", reason=str(error))
            status = EXIT_GAVE_UP
        nursery.cancel_scope.cancel()
    if failures:
        raise failures[0]
    log.info("stopped", exit_status=status)
    return status


async def _keep_reachable(endpoint: Endpoint, stop: trio.Event, log: FilteringBoundLogger) -> None:
    """See to it, until the service stops, that new connections go to an instance that lives."""
    known = None
    while not stop.is_set():
        trouble = None
        try:
            if (mended := endpoint.mend()) is not None:
                log.warning("link_mended", socket=mended)
        except OSError as error:
            trouble = str(error)
        if trouble not in (None, known):
            log.error("link_not_mended", reason=trouble)
        known = trouble
        with trio.move_on_after(LOOK_SECONDS):
            await stop.wait()


async def _stop_on_signal(
    stop: trio.Event,
    endpoint: Endpoint,
    everything: trio.CancelScope,
    log: FilteringBoundLogger,
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            again = stop.is_set()
            endpoint.give_way()
            stop.set()
            log.info("stopping", signal=signal.Signals(number).name, again=again)
            if again:
                everything.cancel()


async def _limit_the_end(application: Application, log: FilteringBoundLogger) -> None:
    await application.supervisor.wait_over()

    def exit_hard() -> None:
        log.critical("stop_took_too_long", seconds=LONGEST_STOP)
        os._exit(EXIT_CUT_SHORT)

    timer = threading.Timer(LONGEST_STOP, exit_hard)
    timer.daemon = True
    timer.start()


def _raise_file_limit() -> None:
    """Allow as many open files as the system lets us: every connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
