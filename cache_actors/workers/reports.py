"""Reports: what each process says of itself, and what they say together."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING

import msgspec
import trio

from cache_actors.metrics.merged import merged, of_tree
from cache_actors.metrics.recent import History  # noqa: TC001 - msgspec looks it up
from cache_actors.supervision import STUCK_AFTER, State, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from cache_actors.supervision import Started

    from .board import Board

REPORT_SECONDS = 1.0
"""Between two reports of a process."""

PARENT = "workers"
"""The name of the parent's tree, and of its board."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a process says of itself.

    Attributes:
        tree: its supervision tree.
        metrics: what `/metrics` tells of it; nothing of a process that counts nothing.
        recent: what it has answered lately.
        nginx_troubles: what it knows that nginx could not do by itself lately.
        replaced: whether it knows that another instance has taken over.
        at: when that was so, in `time.monotonic()`, a clock that all processes share.
    """

    tree: Status
    metrics: bytes = b""
    recent: History | None = None
    nginx_troubles: tuple[str, ...] = ()
    replaced: bool = False
    at: float = field(default_factory=time.monotonic)

    def is_late(self) -> bool:
        """Whether there should have been another one since."""
        return time.monotonic() - self.at > STUCK_AFTER


class Reporter:
    """Puts reports on a process's board: every second, and when there is news.

    Args:
        board: the process's own.
        new: makes a report.
    """

    def __init__(self, board: Board, new: Callable[[], Report]) -> None:
        self._board = board
        self._new = new
        self._news = trio.Event()

    async def run(self, stop: trio.Event, started: Started) -> None:
        """Report until `stop` is set, which it may notice late: it has nothing to finish."""
        started()
        while not stop.is_set():
            self._news = trio.Event()
            self.report()
            with trio.move_on_after(REPORT_SECONDS):
                await self._news.wait()

    def report(self) -> None:
        """Report now."""
        self._board.write(msgspec.msgpack.encode(self._new()))

    def report_soon(self) -> None:
        """Report as soon as those who run now have come to a pause."""
        self._news.set()


class Everybody:
    """The whole service, as its processes' boards show it to one of the workers.

    Args:
        boards: by the names of the processes, the parent's among them.
        own: the name of the worker that looks.
    """

    def __init__(self, boards: Mapping[str, Board], own: str) -> None:
        self._boards = boards
        self._own = own

    def tree(self, own_tree: Status) -> Status:
        """The parent's tree, with each worker's tree below the worker.

        A process is stuck whose report is late. `own_tree` is the looking worker's, as it is now.
        The service stops as soon as one of them does: they are told one after the other.
        """
        parent = read_report(self._boards[PARENT])
        if parent is None:
            return Status(PARENT, State.STARTING)
        states = {own_tree.state, *(report.tree.state for _, report in self._reports())}
        children = tuple(self._with_tree(child, own_tree) for child in parent.tree.children)
        return replace(
            parent.tree,
            state=State.STOPPING if State.STOPPING in states else parent.tree.state,
            stuck=parent.is_late(),
            children=children,
        )

    def is_replaced(self, own: bool) -> bool:
        """Whether any process knows that another instance has taken over; `own` is what we know."""
        reports = map(read_report, self._boards.values())
        return own or any(report.replaced for report in reports if report is not None)

    def metrics(self, own: bytes) -> bytes:
        """The metrics of all processes; `own` are the looking worker's, as they are now."""
        texts = {name: report.metrics for name, report in self._reports()}
        parent = read_report(self._boards[PARENT])
        if parent is not None:
            texts[PARENT] = of_tree(parent.tree)
        return merged(texts | {self._own: own})

    def histories(self) -> list[History]:
        """What the other workers have answered lately."""
        return [
            report.recent
            for name, report in self._reports()
            if report.recent is not None and name != self._own
        ]

    def nginx_troubles(self, own: tuple[str, ...]) -> tuple[str, ...]:
        """What any process knows that nginx could not do by itself lately."""
        others = (report.nginx_troubles for _, report in self._reports())
        return tuple(sorted({*own, *chain.from_iterable(others)}))

    def _reports(self) -> Iterator[tuple[str, Report]]:
        for name, board in self._boards.items():
            report = read_report(board)
            if report is not None and name != PARENT:
                yield name, report

    def _with_tree(self, child: Status, own_tree: Status) -> Status:
        if child.name == self._own:
            return replace(child, children=own_tree.children)
        if child.name not in self._boards or child.state is not State.RUNNING:
            return child
        report = read_report(self._boards[child.name])
        if report is None:
            return replace(child, stuck=True)
        return replace(child, stuck=report.is_late(), children=report.tree.children)


def read_report(board: Board) -> Report | None:
    """The report on `board`, if there is one."""
    report = board.read()
    return None if report is None else msgspec.msgpack.decode(report, type=Report)
