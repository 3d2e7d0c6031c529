"""The report of each process about itself, and the view of the whole service that they give."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING

import msgspec
import trio

from cache_actors.metrics.merge import merged, of_tree
from cache_actors.metrics.recent import History  # noqa: TC001 - msgspec looks it up
from cache_actors.s3.status import SharedStatus, worst
from cache_actors.supervision import STUCK_AFTER, State, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from cache_actors.supervision import Started

    from .shared_report import SharedReport

REPORT_SECONDS = 1.0
"""Pause between two reports of a process, in seconds."""

PARENT = "workers"
"""The name of the parent's tree, and of its shared report."""


@dataclass(frozen=True, slots=True)
class ProcessReport:
    """The report of one process about itself.

    Attributes:
        tree: the process's supervision tree.
        metrics: the process's metrics in Prometheus's text format; empty for the parent.
        recent: the process's recent requests; None for the parent.
        nginx_troubles: names of recent troubles with nginx that the process has seen.
        replaced: whether the process has learnt that another instance has taken over.
        shared: the status of the bucket for the process; None for the parent, and without one.
        at: the time of the report, in `time.monotonic()`, a clock that all processes share.
    """

    tree: Status
    metrics: bytes = b""
    recent: History | None = None
    nginx_troubles: tuple[str, ...] = ()
    replaced: bool = False
    shared: SharedStatus | None = None
    at: float = field(default_factory=time.monotonic)

    def is_late(self) -> bool:
        """Whether the report is older than `STUCK_AFTER`, so that the process counts as stuck."""
        return time.monotonic() - self.at > STUCK_AFTER


class Reporter:
    """Writes a process's report every second, and when asked to.

    Args:
        shared_report: the shared report of this process.
        new: makes a report.
    """

    def __init__(self, shared_report: SharedReport, new: Callable[[], ProcessReport]) -> None:
        self._shared_report = shared_report
        self._new = new
        self._news = trio.Event()

    async def run(self, stop: trio.Event, started: Started) -> None:
        """Report until `stop` is set, which is checked only after each report."""
        started()
        while not stop.is_set():
            self._news = trio.Event()
            self.report()
            with trio.move_on_after(REPORT_SECONDS):
                await self._news.wait()

    def report(self) -> None:
        """Write a report now."""
        self._shared_report.write(msgspec.msgpack.encode(self._new()))

    def report_soon(self) -> None:
        """Let `run` write a report as soon as it is scheduled."""
        self._news.set()


class WorkerPeers:
    """The whole service, seen from one worker through the shared reports of all processes.

    Args:
        shared_reports: the shared reports by name of the process, the parent's included.
        own: the name of this worker.

    Attributes:
        workers: the number of workers.
    """

    def __init__(self, shared_reports: Mapping[str, SharedReport], own: str) -> None:
        self._shared_reports = shared_reports
        self._own = own
        self.workers = len(shared_reports) - 1

    def tree(self, own_tree: Status) -> Status:
        """The parent's tree, with each worker's own tree below it.

        A process whose report is late counts as stuck. Once one worker is stopping, so is the
        service, as workers are stopped one after another.

        Args:
            own_tree: the current tree of this worker.
        """
        parent = read_report(self._shared_reports[PARENT])
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
        """Whether any process, or this one by `own`, knows that another instance has taken over."""
        reports = map(read_report, self._shared_reports.values())
        return own or any(report.replaced for report in reports if report is not None)

    def metrics(self, own: bytes) -> bytes:
        """The metrics of all processes; `own` are the current ones of this worker."""
        texts = {name: report.metrics for name, report in self._reports()}
        parent = read_report(self._shared_reports[PARENT])
        if parent is not None:
            texts[PARENT] = of_tree(parent.tree)
        return merged(texts | {self._own: own})

    def histories(self) -> list[History]:
        """The recent requests of the other workers."""
        return [
            report.recent
            for name, report in self._reports()
            if report.recent is not None and name != self._own
        ]

    def nginx_troubles(self, own: tuple[str, ...]) -> tuple[str, ...]:
        """Names of recent troubles with nginx that any process has seen; `own` are this one's."""
        others = (report.nginx_troubles for _, report in self._reports())
        return tuple(sorted({*own, *chain.from_iterable(others)}))

    def shared(self, own: SharedStatus) -> SharedStatus:
        """The status of the bucket for all workers; `own` is that of this one."""
        others = (report.shared for name, report in self._reports() if name != self._own)
        return worst([own, *(each for each in others if each is not None)])

    def _reports(self) -> Iterator[tuple[str, ProcessReport]]:
        for name, shared_report in self._shared_reports.items():
            report = read_report(shared_report)
            if report is not None and name != PARENT:
                yield name, report

    def _with_tree(self, child: Status, own_tree: Status) -> Status:
        if child.name == self._own:
            return replace(child, children=own_tree.children)
        if child.name not in self._shared_reports or child.state is not State.RUNNING:
            return child
        report = read_report(self._shared_reports[child.name])
        if report is None:
            return replace(child, stuck=True)
        return replace(child, stuck=report.is_late(), children=report.tree.children)


def read_report(shared_report: SharedReport) -> ProcessReport | None:
    """The latest report in `shared_report`, or None if there is none."""
    report = shared_report.read()
    return None if report is None else msgspec.msgpack.decode(report, type=ProcessReport)
