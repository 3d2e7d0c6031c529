"""`cache-actors serve`: binds the socket, and runs the service until a signal stops it.

The process runs the application or, with several workers, a tree of processes that run it.
"""

from __future__ import annotations

import resource
from functools import partial
from typing import TYPE_CHECKING

import trio

from cache_actors.access.tuist import tuist_api
from cache_actors.errors import CommandError
from cache_actors.log import new_log
from cache_actors.runtime.handover import LinkKeeper
from cache_actors.runtime.lifecycle import run_until_stopped, stop_on_signal
from cache_actors.runtime.listen_socket import bind
from cache_actors.storage.errors import Unfit
from cache_actors.storage.needs import require_storage
from cache_actors.workers.cores import usable_cores
from cache_actors.workers.parent import Workers
from cache_actors.workers.worker_process import COMMAND

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import FilteringBoundLogger

    from cache_actors.runtime.lifecycle import Tree
    from cache_actors.runtime.listen_socket import ListenSocket
    from cache_actors.settings import Settings


class CannotStart(CommandError):
    """A folder or proxy of the environment cannot be used; the message says which and why."""


def run_process(
    settings: Settings,
    announce: Callable[[], None] = lambda: None,
    worker_command: tuple[str, ...] = COMMAND,
) -> int:
    """Run the service until a signal stops it, and return the process's exit status.

    SIGTERM, SIGINT and SIGHUP stop it in order; a second one cuts that short.

    Args:
        settings: the service's settings.
        announce: called once the service takes requests.
        worker_command: the command that runs a worker, if there are several.

    Raises:
        CannotListen: the address cannot be listened on.
        CannotStart: a folder, its file system, or a proxy cannot be used.
    """
    _raise_file_limit()
    _require_usable_proxies(settings)
    new_tree = _factory(settings, worker_command)
    log = new_log(settings)
    with bind(settings) as sock:
        sock.log_warning = log.warning
        return trio.run(_run, settings, sock, log, announce, new_tree)


def _factory(
    settings: Settings, worker_command: tuple[str, ...]
) -> Callable[[ListenSocket, FilteringBoundLogger], Tree]:
    """Return what makes the application or, with several workers, the tree of their processes."""
    count = usable_cores() if settings.workers == "auto" else settings.workers
    if count > 1:
        return partial(Workers, count, settings, command=worker_command)
    # A third of what there is to import: a parent of workers starts them sooner without it.
    from cache_actors.application import Application

    return partial(Application, settings)


async def _run(
    settings: Settings,
    sock: ListenSocket,
    log: FilteringBoundLogger,
    announce: Callable[[], None],
    new_tree: Callable[[ListenSocket, FilteringBoundLogger], Tree],
) -> int:
    try:
        require_storage(
            settings.cas_storage_dir, settings.tmp_dir, durable=settings.durability == "fsync"
        )
        tree = new_tree(sock, log)
    except OSError as error:
        where = error.filename or settings.cas_storage_dir
        advice = f". {error.advice}" if isinstance(error, Unfit) else ""
        raise CannotStart(f"Cannot use {where}: {error.strerror}{advice}") from error
    link_keeper = LinkKeeper(sock, log)

    def started() -> None:
        if link_keeper.announce():
            log.info("started", storage=str(settings.cas_storage_dir))
            announce()

    status = await run_until_stopped(
        tree, log, started, stop_on_signal(log, before=sock.hand_off), link_keeper.run
    )
    if link_keeper.failure is not None:
        raise link_keeper.failure
    return status


def _require_usable_proxies(settings: Settings) -> None:
    """Build a client of the Tuist server as a trial, and raise `CannotStart` if that fails."""
    try:
        tuist_api(settings)
    except Exception as error:
        text = f"The proxies, or certificates, of the environment cannot be used: {error}"
        raise CannotStart(text) from error


def _raise_file_limit() -> None:
    """Raise the limit on open files as far as the system allows: every connection takes one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
