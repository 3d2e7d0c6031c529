"""The service's process: it binds its socket, and runs until a signal stops it.

What it runs is the application or, with several workers, a tree of processes that do.
"""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

import trio

from .actors.tuist_api import TuistApi
from .application import Application
from .http.endpoint import bind
from .lifetime import live, stop_on_signal
from .log import new_log
from .reachability import Reachability
from .storage.errors import Unfit
from .storage.needs import require_storage
from .workers.cores import usable_cores
from .workers.parent import Workers
from .workers.worker_process import COMMAND

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import FilteringBoundLogger

    from .http.endpoint import BoundSocket
    from .lifetime import Tree
    from .settings import Settings


class CannotStart(Exception):
    """The service cannot use what its settings name; the message says what and why."""


def run_process(
    settings: Settings,
    announce: Callable[[], None] = lambda: None,
    worker_command: tuple[str, ...] = COMMAND,
) -> int:
    """Run the service until a signal stops it, and return the process's exit status.

    SIGTERM, SIGINT and SIGHUP stop it in order; a second one cuts that short.

    Args:
        settings: what it runs with.
        announce: called once it takes requests.
        worker_command: what runs a worker, if there are several.

    Raises:
        CannotListen: the address to listen on is not to be had.
        CannotStart: a folder is not to be had, or cannot do what is needed.
    """
    _raise_file_limit()
    _require_usable_proxies(settings)
    log = new_log(settings)
    with bind(settings) as sock:
        sock.say = log.warning
        return trio.run(_run, settings, sock, log, announce, worker_command)


async def _run(
    settings: Settings,
    sock: BoundSocket,
    log: FilteringBoundLogger,
    announce: Callable[[], None],
    worker_command: tuple[str, ...],
) -> int:
    count = usable_cores() if settings.workers == "auto" else settings.workers
    tree: Tree
    try:
        require_storage(
            settings.cas_storage_dir, settings.tmp_dir, durable=settings.durability == "fsync"
        )
        if count == 1:
            tree = Application(settings, sock, log)
        else:
            tree = Workers(count, settings, sock, log, worker_command)
    except OSError as error:
        where = error.filename or settings.cas_storage_dir
        advice = f". {error.advice}" if isinstance(error, Unfit) else ""
        raise CannotStart(f"Cannot use {where}: {error.strerror}{advice}") from error
    reachability = Reachability(sock, log)

    def started() -> None:
        if reachability.announce():
            log.info("started", storage=str(settings.cas_storage_dir))
            announce()

    status = await live(
        tree, log, started, stop_on_signal(log, before=sock.give_way), reachability.keep
    )
    if reachability.failure is not None:
        raise reachability.failure
    return status


def _require_usable_proxies(settings: Settings) -> None:
    """Make what asks the Tuist server once, before something has to crash for want of it."""
    try:
        TuistApi(str(settings.server_url))
    except Exception as error:
        text = f"The proxies, or certificates, of the environment cannot be used: {error}"
        raise CannotStart(text) from error


def _raise_file_limit() -> None:
    """Allow as many open files as the system lets us: every connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
