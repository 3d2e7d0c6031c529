"""The metrics of several processes as one text, in which each sample has a label `worker`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from .collectors import tree

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from cache_actors.supervision import Status


def merged(texts: Mapping[str, bytes]) -> bytes:
    """Merge the metrics of several processes, given by name of the process.

    Samples are not added up: Prometheus does that, and for some metrics it makes no sense.
    """
    families: dict[str, Metric] = {}
    for worker, text in texts.items():
        for family in text_string_to_metric_families(text.decode()):
            whole = families.setdefault(
                family.name, Metric(family.name, family.documentation, family.type)
            )
            for sample in family.samples:
                whole.add_sample(sample.name, sample.labels | {"worker": worker}, sample.value)
    return _rendered(families.values())


def of_tree(status: Status) -> bytes:
    """The metrics of a supervision tree alone, for a process that counts nothing else."""
    return _rendered(tree(status))


def _rendered(families: Iterable[Metric]) -> bytes:
    registry = CollectorRegistry()
    registry.register(_Families(families))
    return generate_latest(registry)


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterator[Metric]:
        yield from self._families
