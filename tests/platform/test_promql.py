"""What is found in a query."""

import pytest

from .promql import grouping, metrics, unknown


def test_names_are_told_from_words_functions_and_labels() -> None:
    query = """sum by (job, kind) (rate(a_total{kind="b", c=~"d|e"}[5m] offset 1h)) / on (job)
      group_left max without (f) (g) > 0.5 * 3 and -h unless predict_linear(i:j[1d], 4 * 3600)"""
    assert metrics(query) == {"a_total", "g", "h", "i:j"}
    assert grouping(query) == {"job", "kind", "f"}


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ('sum by (job, kind) (cache_actors_reads_total{by=~"nginx|service"})', []),
        ('cache_actors_requests_total{status=~"5..", route!~"up|ready", job="a"}', []),
        ("cache_actors_read_total", ["cache_actors_read_total"]),
        ('cache_actors_reads_total{kid="artifact"}', ["cache_actors_reads_total: kid"]),
        ('cache_actors_reads_total{result="hit|mis"}', ["cache_actors_reads_total: result mis"]),
        ('cache_actors_requests_total{status=~"9.."}', ["cache_actors_requests_total: status 9.."]),
        ("sum by (route) (cache_actors_reads_total)", ["route"]),
        ("cache_actors_reads", ["cache_actors_reads"]),
    ],
)
def test_what_nobody_tells_is_found(query: str, found: list[str]) -> None:
    assert list(unknown(query)) == found
