"""The lifecycle of a process: run a supervision tree, stop it in order, and exit in any case."""

from __future__ import annotations

import gc
import os
import signal
import threading
from typing import TYPE_CHECKING, Protocol

import trio

from cache_actors.supervision import RestartIntensityError

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import FilteringBoundLogger

    from cache_actors.supervision import Started, Supervisor

EXIT_GAVE_UP = 1
"""Exit status: the supervision tree gave up."""

EXIT_CUT_SHORT = 3
"""Exit status: the stop was cut short, by a second signal or because it took too long."""

MAX_STOP_SECONDS = 45.0
"""Longest stop, in seconds; after it the process exits regardless. Requests in flight have 30 of
them. Without it, a shielded wait or a thread on a dead disk would keep the process for ever."""


class Tree(Protocol):
    """A supervision tree that a process runs: the application, or the parent of the workers."""

    supervisor: Supervisor

    async def run(self, stop: trio.Event, started: Started) -> None:
        """Run until `stop` is set, or raise `RestartIntensityError`."""


class SideTask(Protocol):
    """A task beside the tree, which may set `stop`, or cancel `cancel_scope` to end at once."""

    async def __call__(self, stop: trio.Event, cancel_scope: trio.CancelScope, /) -> None: ...


async def run_until_stopped(
    tree: Tree, log: FilteringBoundLogger, started: Started, *side_tasks: SideTask
) -> int:
    """Run `tree` until a side task stops it, and return the process's exit status.

    Args:
        tree: the supervision tree.
        log: the log for the end of the tree.
        started: called once the tree runs.
        side_tasks: tasks that run for as long as the tree does.
    """
    stop = trio.Event()
    status = EXIT_CUT_SHORT

    def running() -> None:
        gc.freeze()  # else each full collection looks through all modules, which takes 60 ms
        started()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_limit_the_end, tree.supervisor, log)
        for side_task in side_tasks:
            nursery.start_soon(side_task, stop, nursery.cancel_scope)
        try:
            await tree.run(stop, running)
            status = 0
        except RestartIntensityError as error:
            log.critical("gave_up", reason=str(error))
            status = EXIT_GAVE_UP
        nursery.cancel_scope.cancel()
    log.info("stopped", exit_status=status)
    return status


def stop_on_signal(log: FilteringBoundLogger, before: Callable[[], None]) -> SideTask:
    """A side task that stops the tree on SIGTERM, SIGINT or SIGHUP; a second signal cancels it.

    SIGHUP, sent when a terminal closes, is not handled if it was ignored from the start, as with
    `nohup`.

    Args:
        log: the log for signals.
        before: called at each signal, before the tree stops.
    """

    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)

    async def wait_for_signals(stop: trio.Event, cancel_scope: trio.CancelScope) -> None:
        with trio.open_signal_receiver(*numbers) as signals:
            async for number in signals:
                again = stop.is_set()
                before()
                stop.set()
                log.info("stopping", signal=signal.Signals(number).name, again=again)
                if again:
                    cancel_scope.cancel()

    return wait_for_signals


async def _limit_the_end(supervisor: Supervisor, log: FilteringBoundLogger) -> None:
    await supervisor.wait_over()

    def exit_hard() -> None:
        log.critical("stop_took_too_long", seconds=MAX_STOP_SECONDS)
        os._exit(EXIT_CUT_SHORT)

    timer = threading.Timer(MAX_STOP_SECONDS, exit_hard)
    timer.daemon = True
    timer.start()
