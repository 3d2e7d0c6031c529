"""Metrics without a service, and a parser for scraped metrics."""

from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from cache_actors.access.grants import Access
from cache_actors.kinds import Kind
from cache_actors.metrics.registry import Metrics
from cache_actors.metrics.request_event import STATUSES, RequestEvent, Responder, Route
from cache_actors.s3.outcome import Outcome
from cache_actors.s3.status import SharedMonitor
from cache_actors.storage.eviction.last_pass import PassReport
from cache_actors.storage.eviction.status import EvictionMonitor
from cache_actors.storage.health import StorageHealth
from cache_actors.supervision import State, Status

OUTCOMES = ("ok", "missing", "unreachable", "slowdown", "misconfigured", "rejected")

TREE = Status(
    "root",
    State.RUNNING,
    children=(
        Status("kv_store", State.RUNNING, restarts=3, depth=2, oldest=0.5, taken=10, waited=1.5),
        Status("group", State.STARTING, children=(Status("below", State.RUNNING, restarts=1),)),
    ),
)


def new_metrics() -> Metrics:
    """The metrics of a process with an empty tree."""
    return Metrics(
        lambda: Status("root", State.RUNNING), StorageHealth().status, EvictionMonitor().status
    )


def told_metrics() -> Metrics:
    """The metrics of a process in which everything that is counted has happened."""
    health, evictions = StorageHealth(), EvictionMonitor()
    health.note_room(5000, 300)
    evictions.note(used=0.5, high_watermark=0.85)
    evictions.note_failure("the disk cannot be read")
    evictions.note_pass(PassReport(100.0, 2.0, 10, 20, 3000, 60.0, 7, 8, 9000))
    shared = SharedMonitor()
    shared.note_backlog(3, 4096, 1.5)
    metrics = Metrics(lambda: TREE, health.status, evictions.status, shared.status)
    for operation in "put", "get", "delete", "list":
        for outcome in OUTCOMES:
            metrics.shared_requested(operation, outcome, 0.01)
    metrics.replicated(0.2)
    for label in (each.label for each in Kind):
        for found in Outcome.HERE, Outcome.ABSENT, Outcome.UNKNOWN:
            metrics.pulled(label, found)
    for trouble in "dangling", "unusable":
        metrics.pull_noticed(trouble)
    for by in Responder:
        for route in Route:
            for status in 0, *STATUSES.values():
                metrics.served(RequestEvent(by, route, status, 0.002, 10, received=20))
    metrics.served(
        RequestEvent(Responder.NGINX, Route.ARTIFACT_STORE, 204, 0.001, 0, duplicate=True)
    )
    for access in Access:
        metrics.tuist_asked(access.value, 0.2)
        for source in "memory", "tuist":
            metrics.decided(access.value, source)
    metrics.tuist_asked("failed", 0.2)
    metrics.decided("granted", "stale")
    for source in "memory", "tuist":
        metrics.decided("unknown", source)
    for kind in "artifact", "entry":
        with metrics.commit({kind: 3}):
            metrics.synced(0.001)
    metrics.temporary_files.inc()
    metrics.nginx_lines_ignored.inc()
    for result in "refused", "stored":
        metrics.missing_artifacts.labels(result).inc()
    for code in "OK", "NOT_FOUND", "CANCELLED", "UNAVAILABLE":
        metrics.calls.labels("BatchReadBlobs", code).inc()
        metrics.batch_blobs.labels("BatchReadBlobs", code).inc()
    return metrics


@dataclass(frozen=True)
class Scrape:
    """One scrape of `/metrics`."""

    text: str

    @classmethod
    def of(cls, metrics: Metrics) -> "Scrape":
        return cls(metrics.render().decode())

    def value(self, name: str, /, **labels: str) -> float:
        """The sum of the samples of this name that have at least these labels."""
        return sum(
            sample.value
            for family in text_string_to_metric_families(self.text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def labels(self) -> set[str]:
        """All values of all labels, except bounds of buckets."""
        return {
            value
            for family in text_string_to_metric_families(self.text)
            for sample in family.samples
            for name, value in sample.labels.items()
            if name != "le"
        }

    def samples(self) -> dict[str, dict[str, set[str]]]:
        """The names of all samples, each with its labels and their values."""
        found: dict[str, dict[str, set[str]]] = {}
        for family in text_string_to_metric_families(self.text):
            for sample in family.samples:
                labels = found.setdefault(sample.name, {})
                for name, value in sample.labels.items():
                    labels.setdefault(name, set()).add(value)
        return found

    def families(self) -> set[str]:
        """The names of all metrics, as in HELP lines."""
        return {line.split()[2] for line in self.text.splitlines() if line.startswith("# HELP ")}
