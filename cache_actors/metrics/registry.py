"""The metrics: every name that `/metrics` tells, what it means, and who counts it.

Those that something has to count as it happens are attributes of `Metrics`; those that can be read
from records when somebody asks are in `collectors.py`. To add one, add it to one of the two, and to
docs/reference/metrics.md. Wherever it makes sense they are totals, so that those of several
processes can be added up.
"""

from __future__ import annotations

from bisect import bisect_left
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from cache_actors.kinds import Kind
from cache_actors.s3.outcome import Outcome
from cache_actors.storage.errors import Shortage

from .collectors import StatusCollector
from .recent import Recent
from .request_event import READS, STORES, UPLOADS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from cache_actors.s3.status import SharedStatus
    from cache_actors.storage.eviction.status import EvictionStatus
    from cache_actors.storage.health import StorageStatus
    from cache_actors.supervision import Status

    from .request_event import RequestEvent, Responder, Route

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

_REQUEST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SYNC_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10)
_LAG_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 600, 3600)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

# `process_start_time_seconds` tells it for all; a time of creation beside each counter would only
# make the answer twice as long.
disable_created_metrics()  # type: ignore[no-untyped-call]


NGINX_TROUBLES = (
    "decisions_not_remembered",
    "files_not_opened",
    "log_not_counted",
    "log_not_emptied",
)
"""Troubles of what stands beside the service, which it does without."""

TROUBLE_SECONDS = 60.0
"""Time for which a trouble is told after its last sign, in seconds."""


class _Durations(Histogram):
    """A histogram that can take in many equal observations at once."""

    def observe_times(self, amount: float, times: int) -> None:
        """Take in `amount`, `times` times."""
        self._sum.inc(amount * times)
        self._buckets[bisect_left(self._upper_bounds, amount)].inc(times)


@dataclass(slots=True)
class _Totals:
    """The counters of requests that are answered in one way.

    They are looked up once, as that takes longer than to count.
    """

    requests: Counter
    seconds: _Durations
    results: Counter | None = None
    sent: Counter | None = None
    received: Counter | None = None


class Metrics:
    """All metrics of one process, in a registry of their own.

    Args:
        status: the supervision tree's own records.
        storage: how writing to the disk has gone lately.
        eviction: what has been evicted.
        shared: how the bucket is; None without one, and then there are no metrics of it.

    Attributes:
        recent: the last five minutes of what is counted here.
        calls: calls by gRPC.
        batch_blobs: blobs in the batches of calls.
        temporary_files: uploads that wait in a temporary file for their end.
        nginx_lines_ignored: lines of nginx's that cannot be read.
        storage_full: requests that were refused for lack of room.
        missing_artifacts: entries that refer to an artifact which does not exist.
    """

    def __init__(
        self,
        status: Callable[[], Status],
        storage: Callable[[], StorageStatus],
        eviction: Callable[[], EvictionStatus],
        shared: Callable[[], SharedStatus] | None = None,
    ) -> None:
        self.recent = Recent()
        self._totals: dict[tuple[Responder, Route, int, bool], _Totals] = {}
        self._decided: dict[tuple[str, str], Counter] = {}
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(StatusCollector(status, storage, eviction, shared))

        self._requests = Counter(
            "cache_actors_requests_total",
            "Requests that have been answered.",
            ("by", "route", "status"),
            registry=registry,
        )
        self._request_seconds = _Durations(
            "cache_actors_request_duration_seconds",
            "From a request to the end of its answer.",
            ("by", "route"),
            buckets=_REQUEST_SECONDS,
            registry=registry,
        )
        self._reads = Counter(
            "cache_actors_reads_total",
            "Artifacts and key-value entries that were asked for, by whether there was one.",
            ("by", "kind", "result"),
            registry=registry,
        )
        self._sent = Counter(
            "cache_actors_downloaded_bytes_total",
            "Bytes of artifacts and entries that were sent.",
            ("by", "kind"),
            registry=registry,
        )
        self._received = Counter(
            "cache_actors_uploaded_bytes_total",
            "Bytes of artifacts and entries that the service has received, stored or not.",
            ("kind",),
            registry=registry,
        )
        self._writes = Counter(
            "cache_actors_writes_total",
            "Artifacts and entries that were sent to be stored, by what has become of them.",
            ("by", "kind", "result"),
            registry=registry,
        )
        self._decisions = Counter(
            "cache_actors_decisions_total",
            "Decisions on access that the service has made, by what they rest on.",
            ("outcome", "source"),
            registry=registry,
        )
        self._tuist_seconds = Histogram(
            "cache_actors_tuist_request_duration_seconds",
            "Questions to the Tuist server, by its answer.",
            ("outcome",),
            buckets=_REQUEST_SECONDS,
            registry=registry,
        )
        commit_files = Histogram(
            "cache_actors_commit_files",
            "Files that were written and synced together.",
            ("kind",),
            buckets=_BATCHES,
            registry=registry,
        )
        commit_seconds = Histogram(
            "cache_actors_commit_duration_seconds",
            "Writing and syncing files together, the way to the process that does it included.",
            ("kind",),
            buckets=_REQUEST_SECONDS,
            registry=registry,
        )
        self._commits = {
            kind: (commit_files.labels(kind), commit_seconds.labels(kind))
            for kind in (each.label for each in Kind)
        }
        self._sync_seconds = Histogram(
            "cache_actors_sync_duration_seconds",
            "Single syncs of a file or folder.",
            buckets=_SYNC_SECONDS,
            registry=registry,
        )
        self.temporary_files = Gauge(
            "cache_actors_temporary_files",
            "Uploads that wait in a temporary file for their end.",
            registry=registry,
        )
        self.missing_artifacts = Counter(
            "cache_actors_missing_artifacts_total",
            "Entries sent that refer to an artifact which does not exist, by what became of them.",
            ("result",),
            registry=registry,
        )
        for result in "refused", "stored":  # rare ones are 0 before: a first one is an increase
            self.missing_artifacts.labels(result)
        self.calls = Counter(
            "cache_actors_grpc_calls_total",
            "Calls by gRPC that have been answered.",
            ("method", "status"),
            registry=registry,
        )
        self.batch_blobs = Counter(
            "cache_actors_grpc_batch_blobs_total",
            "Blobs of batches that were asked for or sent, by what was answered of each.",
            ("method", "status"),
            registry=registry,
        )
        self.storage_full = Counter(
            "cache_actors_storage_full_total",
            "Requests that were refused as there is no room (507), by what there is too little of.",
            ("shortage",),
            registry=registry,
        )
        for shortage in Shortage:
            self.storage_full.labels(shortage)
        self.cleaned_projects = Counter(
            "cache_actors_cleaned_projects_total",
            "Projects of which all that was stored has been taken away.",
            registry=registry,
        )
        self._cleaned_files = Counter(
            "cache_actors_cleaned_files_total",
            "Files of theirs that have been removed since.",
            registry=registry,
        )
        self._cleaned_bytes = Counter(
            "cache_actors_cleaned_bytes_total",
            "Bytes on disk of those files.",
            registry=registry,
        )
        self._shared_requests: Counter | None = None
        if shared is not None:
            self._count_shared(registry)
        self.nginx_lines_ignored = Counter(
            "cache_actors_nginx_lines_ignored_total",
            "Lines in nginx's log of its own answers that cannot be read.",
            registry=registry,
        )

        self._nginx_troubles = Counter(
            "cache_actors_nginx_troubles_total",
            "What nginx could not do by itself, or what it left that could not be counted.",
            ("trouble",),
            registry=registry,
        )
        for trouble in NGINX_TROUBLES:
            self._nginx_troubles.labels(trouble)
        self._troubled: dict[str, float] = {}

    def _count_shared(self, registry: CollectorRegistry) -> None:
        """Add what is counted if there is a bucket."""
        self._shared_requests = Counter(
            "cache_actors_shared_requests_total",
            "Requests to the bucket, by what has become of them.",
            ("op", "outcome"),
            registry=registry,
        )
        self._shared_seconds = Histogram(
            "cache_actors_shared_seconds",
            "From a request to the bucket to its answer.",
            ("op",),
            buckets=_REQUEST_SECONDS,
            registry=registry,
        )
        self._lag_seconds = Histogram(
            "cache_actors_replication_lag_seconds",
            "From the storing of a file to its being in the bucket.",
            buckets=_LAG_SECONDS,
            registry=registry,
        )
        pulls = {
            "hits": "Files that were not on this disk, and were pulled from the bucket.",
            "misses": "Files that were neither on this disk nor in the bucket.",
            "shed": "Files that the bucket could not be asked for in time, or had no room.",
        }
        self._pulls = {
            each: Counter(f"cache_actors_shared_{each}_total", text, ("kind",), registry=registry)
            for each, text in pulls.items()
        }
        for counter in self._pulls.values():
            for kind in Kind:
                counter.labels(kind.label)
        troubles = {
            "dangling": "Entries found in the bucket that were no use, as an artifact is gone.",
            "unusable": "Objects in the bucket that are not what was put, or have other bytes.",
        }
        self._pull_troubles = {
            each: Counter(f"cache_actors_shared_{each}_total", text, registry=registry)
            for each, text in troubles.items()
        }

    def pulled(self, kind: str, outcome: Outcome) -> None:
        """Count a file of a kind (`Kind.label`) that was looked for in the bucket."""
        if self._shared_requests is not None:
            self._pulls[_PULLS[outcome]].labels(kind).inc()

    def pull_noticed(self, trouble: str) -> None:
        """Count an object in the bucket that is `dangling` or `unusable`; others are no trouble."""
        if self._shared_requests is not None and trouble in self._pull_troubles:
            self._pull_troubles[trouble].inc()

    def shared_requested(self, operation: str, outcome: str, seconds: float) -> None:
        """Count a request to the bucket."""
        if self._shared_requests is not None:
            self._shared_requests.labels(operation, outcome).inc()
            self._shared_seconds.labels(operation).observe(seconds)

    def replicated(self, lag: float) -> None:
        """Count a file that got to the bucket `lag` seconds after it was stored."""
        if self._shared_requests is not None:
            self._lag_seconds.observe(lag)

    def cleaned(self, files: int, size: int) -> None:
        """Count files of cleaned projects that have been removed, which took `size` bytes."""
        self._cleaned_files.inc(files)
        self._cleaned_bytes.inc(size)

    def nginx_trouble(self, trouble: str) -> None:
        """Count one of `NGINX_TROUBLES`."""
        self._nginx_troubles.labels(trouble).inc()
        self._troubled[trouble] = monotonic()

    def nginx_troubles(self) -> tuple[str, ...]:
        """Those that there have been lately."""
        since = monotonic() - TROUBLE_SECONDS
        return tuple(name for name in NGINX_TROUBLES if self._troubled.get(name, since) > since)

    def served(self, served: RequestEvent) -> None:
        """Count requests that have been answered."""
        how = (served.by, served.route, served.status, served.duplicate)
        totals = self._totals.get(how)
        if totals is None:
            totals = self._totals[how] = self._totals_of(served)
        totals.requests.inc(served.times)
        totals.seconds.observe_times(served.seconds, served.times)
        if totals.results is not None:
            totals.results.inc(served.times)
        if totals.sent is not None:
            totals.sent.inc(served.sent)
        if totals.received is not None:
            totals.received.inc(served.received)
        self.recent.add(served)

    def _totals_of(self, served: RequestEvent) -> _Totals:
        """The counters of requests that were answered like `served`."""
        by, kind, outcome = served.by, _KINDS.get(served.route), served.outcome
        totals = _Totals(
            self._requests.labels(by, served.route, served.status or "other"),
            self._request_seconds.labels(by, served.route),
        )
        if served.hit is not None:
            totals.results = self._reads.labels(by, kind, "hit" if served.hit else "miss")
            totals.sent = self._sent.labels(by, kind) if served.hit else None
        elif outcome is not None:
            totals.results = self._writes.labels(by, kind, outcome)
        if (sent := UPLOADS.get(served.route)) is not None:
            totals.received = self._received.labels(sent.label)
        return totals

    def decided(self, outcome: str, source: str) -> None:
        """Count a decision on access: what it was, and what it rested on."""
        how = (outcome, source)
        counter = self._decided.get(how)
        if counter is None:
            counter = self._decided[how] = self._decisions.labels(outcome, source)
        counter.inc()

    def tuist_asked(self, outcome: str, seconds: float) -> None:
        """Count a question to the Tuist server."""
        self._tuist_seconds.labels(outcome).observe(seconds)

    @contextmanager
    def commit(self, files: Mapping[str, int]) -> Iterator[None]:
        """Count a commit, which lasts as long as the context, once for each kind in it.

        Args:
            files: the number of files of each kind, by `Kind.label`.
        """
        began = monotonic()
        try:
            yield
        finally:
            seconds = monotonic() - began
            for kind, number in files.items():
                commit_files, commit_seconds = self._commits[kind]
                commit_files.observe(number)
                commit_seconds.observe(seconds)

    def synced(self, seconds: float) -> None:
        """Count a sync. May be called from any thread."""
        self._sync_seconds.observe(seconds)

    def render(self) -> bytes:
        """All metrics in Prometheus's text format, to be sent as `CONTENT_TYPE`."""
        return generate_latest(self._registry)


_PULLS = {
    Outcome.HERE: "hits",
    Outcome.ABSENT: "misses",
    Outcome.CLEANED: "misses",
    Outcome.UNUSABLE: "misses",
    Outcome.UNKNOWN: "shed",
}

_KINDS = {route: kind.label for route, kind in (READS | STORES).items()}
