"""PromQL, as far as tests have to understand it, and the program that understands it whole."""

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from tests.support.metrics import Scrape, told_metrics
from tests.support.programs import find_program

OF_PROMETHEUS: dict[str, dict[str, set[str]]] = {
    "up": {},
    "ALERTS": {"alertname": set(), "alertstate": {"firing", "pending"}},
}
"""What Prometheus tells of itself, with labels and, where they are known, their values."""

OF_A_TARGET = {"job", "instance"}
"""Labels that Prometheus adds to all that a target tells."""

_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\b(?:\s*\(([^)]*)\))?")
_NAME = re.compile(r"(?<![\w:$])[a-zA-Z_:][\w:]*\b(?!\s*\()")
_SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\s*\{([^}]*)\}")
_MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"')
_WORDS = {"and", "or", "unless", "offset", "bool"}


class PromtoolRefuses(Exception):
    """Something that promtool does not accept; the message is what it said."""


def promtool(*arguments: str | Path) -> None:
    """Run promtool.

    Raises:
        PromtoolRefuses: it did not succeed.
    """
    run = subprocess.run(
        [find_program("promtool"), *arguments],
        env=os.environ | {"GOGC": "400"},  # looking for garbage is a third of what it does
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode != 0:
        raise PromtoolRefuses(run.stdout + run.stderr)


def parse(queries: Iterable[str]) -> None:
    """Have promtool parse queries, as the rules that it takes them for.

    Raises:
        PromtoolRefuses: one of them is none.
    """
    rules = [{"record": f"query_{number}", "expr": query} for number, query in enumerate(queries)]
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        json.dump({"groups": [{"name": "queries", "rules": rules}]}, file)  # JSON is YAML
        file.flush()
        promtool("check", "rules", file.name)


@cache
def told() -> dict[str, dict[str, set[str]]]:
    """What the service tells: the names of samples, with their labels and the values of these."""
    return Scrape.of(told_metrics()).samples()


def unknown(query: str) -> Iterator[str]:
    """What a query names that nobody tells: metrics, labels, and values of labels."""
    known = told() | OF_PROMETHEUS
    names = metrics(query)
    yield from names - known.keys()
    for metric, matchers in _SELECTOR.findall(query):
        for label, wanted in _MATCHER.findall(matchers):
            if label in OF_A_TARGET:
                continue
            values = known.get(metric, {}).get(label)
            if values is None:
                yield f"{metric}: {label}"
                continue
            for value in wanted.split("|") if values else []:
                if not any(re.fullmatch(value, each) for each in values):
                    yield f"{metric}: {label} {value}"
    labels = OF_A_TARGET.union(*(known.get(name, {}) for name in names))
    yield from grouping(query) - labels


def metrics(query: str) -> set[str]:
    """The names of all metrics in a query."""
    text = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", query)
    return set(_NAME.findall(_GROUPING.sub(" ", text))) - _WORDS


def grouping(query: str) -> set[str]:
    """The labels that a query groups by, or that it compares."""
    labels = ",".join(_GROUPING.findall(query)).split(",")
    return {label.strip() for label in labels if label.strip()}
