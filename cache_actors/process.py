"""The service's process: it binds its socket, and runs the application until a signal stops it."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

import trio

from .application import Application
from .http.endpoint import bind
from .lifetime import live, stop_on_signal
from .log import new_log

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import FilteringBoundLogger

    from .http.endpoint import BoundSocket
    from .settings import Settings


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
    with bind(settings) as sock:
        return trio.run(_run, settings, sock, log, announce)


async def _run(
    settings: Settings,
    sock: BoundSocket,
    log: FilteringBoundLogger,
    announce: Callable[[], None],
) -> int:
    try:
        application = Application(settings, sock, log)
    except OSError as error:
        where = error.filename or settings.cas_storage_dir
        raise CannotStart(f"Cannot use {where}: {error.strerror}") from error

    def started() -> None:
        sock.announce()
        log.info("started", storage=str(settings.cas_storage_dir))
        announce()

    return await live(application, log, started, stop_on_signal(log))


def _raise_file_limit() -> None:
    """Allow as many open files as the system lets us: every connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
