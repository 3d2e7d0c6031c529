"""A process's life with a supervision tree: it runs, is told to stop, and its end is certain."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Protocol

import trio

from .supervision import RestartIntensityError

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import FilteringBoundLogger

    from .supervision import Started, Supervisor

EXIT_GAVE_UP = 1
"""Exit status: the supervision tree gave up."""

EXIT_CUT_SHORT = 3
"""Exit status: a stop was cut short, by a second signal or because it took too long."""

LONGEST_STOP = 45.0
"""Seconds an end may take before the process is gone whatever it does. Requests in flight have 30
of them; a shielded wait, or a thread on a dead disk, would otherwise have no limit at all."""


class Tree(Protocol):
    """What a process lives for."""

    supervisor: Supervisor

    async def run(self, stop: trio.Event, started: Started) -> None:
        """Run until `stop` is set, or raise `RestartIntensityError`."""


class Companion(Protocol):
    """A task beside the tree: it may set `stop`, or cancel `everything`."""

    async def __call__(self, stop: trio.Event, everything: trio.CancelScope, /) -> None: ...


async def live(
    tree: Tree, log: FilteringBoundLogger, started: Started, *companions: Companion
) -> int:
    """Run `tree` until a companion stops it, and return the process's exit status.

    Args:
        tree: what is run.
        log: where its end is logged.
        started: called once it runs.
        companions: run for as long as the tree does.
    """
    stop = trio.Event()
    status = EXIT_CUT_SHORT
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_limit_the_end, tree.supervisor, log)
        for companion in companions:
            nursery.start_soon(companion, stop, nursery.cancel_scope)
        try:
            await tree.run(stop, started)
            status = 0
        except RestartIntensityError as error:
            log.critical("gave_up", reason=str(error))
            status = EXIT_GAVE_UP
        nursery.cancel_scope.cancel()
    log.info("stopped", exit_status=status)
    return status


def stop_on_signal(log: FilteringBoundLogger, before: Callable[[], None]) -> Companion:
    """A companion that stops the tree on SIGTERM, SIGINT or SIGHUP; a second one cuts that short.

    SIGHUP comes when a terminal is closed. Who started the process with `nohup` wants it ignored.

    Args:
        log: where signals are logged.
        before: called before it stops.
    """

    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)

    async def wait_for_signals(stop: trio.Event, everything: trio.CancelScope) -> None:
        with trio.open_signal_receiver(*numbers) as signals:
            async for number in signals:
                again = stop.is_set()
                before()
                stop.set()
                log.info("stopping", signal=signal.Signals(number).name, again=again)
                if again:
                    everything.cancel()

    return wait_for_signals


async def _limit_the_end(supervisor: Supervisor, log: FilteringBoundLogger) -> None:
    await supervisor.wait_over()

    def exit_hard() -> None:
        log.critical("stop_took_too_long", seconds=LONGEST_STOP)
        os._exit(EXIT_CUT_SHORT)

    timer = threading.Timer(LONGEST_STOP, exit_hard)
    timer.daemon = True
    timer.start()
