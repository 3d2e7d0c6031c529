"""Metrics that are not counted, but read from the records of other parts at each scrape."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import TYPE_CHECKING

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from cache_actors.log_writer import STANDARD_OUTPUT
from cache_actors.s3.status import STATES
from cache_actors.storage.health import StorageState
from cache_actors.supervision import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prometheus_client import Metric

    from cache_actors.s3.status import SharedStatus
    from cache_actors.storage.eviction.status import EvictionStatus
    from cache_actors.storage.health import StorageStatus
    from cache_actors.supervision import Status


class StatusCollector(Collector):
    """Collects metrics of tree, storage and eviction, without asking an actor or the disk."""

    def __init__(
        self,
        status: Callable[[], Status],
        storage: Callable[[], StorageStatus],
        eviction: Callable[[], EvictionStatus],
        shared: Callable[[], SharedStatus] | None,
    ) -> None:
        self._status = status
        self._storage = storage
        self._eviction = eviction
        self._shared = shared

    def collect(self) -> Iterator[Metric]:
        """The current metrics."""
        yield InfoMetricFamily(
            "cache_actors_build",
            "What runs.",
            {"version": version("cache-actors"), "python": platform.python_version()},
        )
        yield CounterMetricFamily(
            "cache_actors_log_lines_dropped",
            "Lines of the log that were lost, as nobody took them.",
            STANDARD_OUTPUT.dropped,
        )
        yield from tree(self._status())
        yield from _disk(self._storage())
        yield from _evicted(self._eviction())
        if self._shared is not None:
            yield from _replicated(self._shared())


def _children(status: Status) -> Iterator[Status]:
    for child in status.children:
        yield child
        yield from _children(child)


def tree(status: Status) -> Iterable[Metric]:
    """The metrics of a supervision tree."""
    running = GaugeMetricFamily(
        "cache_actors_child_running", "Whether a child of the tree runs.", labels=["child"]
    )
    stuck = GaugeMetricFamily(
        "cache_actors_child_stuck", "Whether a child of the tree is stuck.", labels=["child"]
    )
    restarts = CounterMetricFamily(
        "cache_actors_restarts", "Restarts of a child of the tree.", labels=["child"]
    )
    depth = GaugeMetricFamily(
        "cache_actors_mailbox_messages", "Messages that wait in a mailbox.", labels=["child"]
    )
    oldest = GaugeMetricFamily(
        "cache_actors_mailbox_oldest_seconds",
        "How long the oldest message in a mailbox has waited.",
        labels=["child"],
    )
    waited = SummaryMetricFamily(
        "cache_actors_mailbox_wait_seconds",
        "How long messages have waited before an actor took them.",
        labels=["child"],
    )
    for child in _children(status):
        running.add_metric([child.name], child.state is State.RUNNING)
        stuck.add_metric([child.name], child.stuck)
        restarts.add_metric([child.name], child.restarts)
        if child.depth is not None:
            depth.add_metric([child.name], child.depth)
            oldest.add_metric([child.name], child.oldest or 0.0)
            waited.add_metric([child.name], count_value=child.taken, sum_value=child.waited)
    return running, stuck, restarts, depth, oldest, waited


def _disk(status: StorageStatus) -> Iterator[Metric]:
    state = GaugeMetricFamily(
        "cache_actors_storage_state", "Whether the storage is in this state.", labels=["state"]
    )
    for each in StorageState:
        state.add_metric([each.value], status.state is each)
    yield state
    if status.free_bytes is not None:
        yield GaugeMetricFamily(
            "cache_actors_storage_free_bytes", "Room in the storage.", status.free_bytes
        )
    if status.free_inodes is not None:
        yield GaugeMetricFamily(
            "cache_actors_storage_free_inodes", "Files for which there is room.", status.free_inodes
        )


def _replicated(status: SharedStatus) -> Iterator[Metric]:
    state = GaugeMetricFamily(
        "cache_actors_shared_state", "Whether the bucket is in this state.", labels=["state"]
    )
    for each in STATES:
        state.add_metric([each], status.state == each)
    yield state
    yield GaugeMetricFamily(
        "cache_actors_shared_breaker_open",
        "Whether the bucket is asked only now and then, as it fails.",
        status.fails,
    )
    yield GaugeMetricFamily(
        "cache_actors_replication_backlog_files", "Files not in the bucket yet.", status.files
    )
    yield GaugeMetricFamily(
        "cache_actors_replication_backlog_bytes", "Their bytes on disk.", status.bytes
    )
    yield GaugeMetricFamily(
        "cache_actors_replication_oldest_seconds",
        "How long the oldest of them has waited.",
        status.oldest,
    )
    yield CounterMetricFamily(
        "cache_actors_replication_dropped",
        "Files that were evicted before they were in the bucket.",
        status.dropped,
    )


def _evicted(status: EvictionStatus) -> Iterator[Metric]:
    files = CounterMetricFamily(
        "cache_actors_evicted", "Artifacts and entries that were evicted.", labels=["kind"]
    )
    files.add_metric(["artifact"], status.artifacts)
    files.add_metric(["entry"], status.entries)
    yield files
    yield CounterMetricFamily(
        "cache_actors_evicted_bytes", "Bytes on disk of what was evicted.", status.bytes
    )
    passes = SummaryMetricFamily(
        "cache_actors_eviction_pass_seconds", "How long passes of eviction took."
    )
    passes.add_metric([], count_value=status.passes, sum_value=status.seconds)
    yield passes
    yield CounterMetricFamily(
        "cache_actors_eviction_failures", "Attempts to evict that have failed.", status.failures
    )
    if status.used is not None:
        yield GaugeMetricFamily(
            "cache_actors_storage_used_ratio",
            "How full the disk is, or what the service may take of it, from 0 to 1.",
            status.used,
        )
    if status.high_watermark is not None:
        yield GaugeMetricFamily(
            "cache_actors_storage_high_watermark_ratio",
            "How full it may get before eviction starts.",
            status.high_watermark,
        )
    last = status.last
    if last is None:
        return
    stored = GaugeMetricFamily(
        "cache_actors_stored_files",
        "Artifacts and entries that there were after the last pass.",
        labels=["kind"],
    )
    stored.add_metric(["artifact"], last.stored_artifacts)
    stored.add_metric(["entry"], last.stored_entries)
    yield stored
    yield GaugeMetricFamily("cache_actors_stored_bytes", "Their bytes on disk.", last.stored_bytes)
    if last.youngest_evicted_seconds is not None:
        yield GaugeMetricFamily(
            "cache_actors_youngest_evicted_seconds",
            "How long the youngest artifact that the last pass evicted had not been used.",
            last.youngest_evicted_seconds,
        )
