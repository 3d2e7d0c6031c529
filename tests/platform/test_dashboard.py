"""The dashboard: that it is what its script makes, and that its queries are of what is told."""

import json
import re
import subprocess
import sys
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest

from .promql import grouping, parse, unknown

OBSERVABILITY = Path(__file__).parents[2] / "platform" / "observability"
DASHBOARD: dict[str, Any] = json.loads((OBSERVABILITY / "dashboard.json").read_text())
ROWS = [panel for panel in DASHBOARD["panels"] if panel["type"] == "row"]
PLOTS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
TARGETS = [target for plot in PLOTS for target in plot["targets"]]
MARKS = DASHBOARD["annotations"]["list"]

CHOSEN = {"$job": "cache-actors", "$instance": ".*", "$__rate_interval": "1m"}
"""What Grafana puts in for the variables."""

each_plot = pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot["title"])


def query(target: dict[str, Any]) -> str:
    """A query as Prometheus gets it."""
    text: str = target["expr"]
    for variable, value in CHOSEN.items():
        text = text.replace(variable, value)
    return text


def test_it_is_what_its_script_makes() -> None:
    script = str(OBSERVABILITY / "dashboard.py")
    made = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=True
    ).stdout
    assert (OBSERVABILITY / "dashboard.json").read_text() == made


def test_prometheus_understands_all_queries() -> None:
    parse(query(target) for target in TARGETS + MARKS)


@pytest.mark.parametrize("target", TARGETS + MARKS, ids=query)
def test_query_knows_what_is_told(target: dict[str, Any]) -> None:
    assert list(unknown(query(target))) == []
    assert "$" not in query(target)


@pytest.mark.parametrize("target", TARGETS, ids=query)
def test_legend_has_what_the_query_groups_by(target: dict[str, Any]) -> None:
    legend = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
    assert legend == grouping(target["expr"]) - {"le"}
    assert target["legendFormat"]


@each_plot
def test_plot_says_what_it_is(plot: dict[str, Any]) -> None:
    assert plot["title"]
    assert plot["description"].endswith(".")
    assert plot["fieldConfig"]["defaults"]["unit"]
    references = [target["refId"] for target in plot["targets"]]
    assert len(set(references)) == len(references) > 0


def test_titles_and_ids_are_unique() -> None:
    for key, panels in ("title", PLOTS), ("title", ROWS), ("id", DASHBOARD["panels"]):
        values = [panel[key] for panel in panels]
        assert len(set(values)) == len(values)


def test_data_source_is_chosen_by_who_looks() -> None:
    variable = {"type": "prometheus", "uid": "${datasource}"}
    source, *others = DASHBOARD["templating"]["list"]
    assert (source["name"], source["type"]) == ("datasource", "datasource")
    assert [other["name"] for other in others] == ["job", "instance"]
    for asking in PLOTS + TARGETS + MARKS + others:
        assert asking["datasource"] == variable


def test_panels_are_beside_one_another_and_below_their_row() -> None:
    cells = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert all(0 <= cell["x"] <= 24 - cell["w"] for cell in cells)
    for one, other in combinations(cells, 2):
        assert (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
    assert DASHBOARD["panels"][0] in ROWS
    for row, following in pairwise(ROWS):
        between = [plot for plot in PLOTS if row["id"] < plot["id"] < following["id"]]
        assert {row["gridPos"]["y"] + 1} <= {plot["gridPos"]["y"] for plot in between}
        ends = {plot["gridPos"]["y"] + plot["gridPos"]["h"] for plot in between}
        assert max(ends) == following["gridPos"]["y"]
