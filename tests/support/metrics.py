"""Metrics without a service, and what they, or those of a service, say."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from cache_actors.metrics.registry import Metrics
from cache_actors.storage.eviction_record import EvictionRecord
from cache_actors.storage.health import StorageHealth
from cache_actors.supervision import State, Status


def new_metrics() -> Metrics:
    """The metrics of a process with an empty tree."""
    return Metrics(
        lambda: Status("root", State.RUNNING), StorageHealth().status, EvictionRecord().status
    )


@dataclass(frozen=True)
class Scrape:
    """What `/metrics` said at one moment."""

    text: str

    @classmethod
    def of(cls, metrics: Metrics) -> Scrape:
        return cls(metrics.render().decode())

    def value(self, name: str, /, **labels: str) -> float:
        """The sum of the samples of this name with these labels, whatever others they have."""
        return sum(
            sample.value
            for family in text_string_to_metric_families(self.text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def labels(self) -> set[str]:
        """All values of all labels but bounds of buckets."""
        return {
            value
            for family in text_string_to_metric_families(self.text)
            for sample in family.samples
            for name, value in sample.labels.items()
            if name != "le"
        }

    def families(self) -> set[str]:
        """The names of all metrics, as they stand in HELP lines."""
        return {line.split()[2] for line in self.text.splitlines() if line.startswith("# HELP ")}
