"""The alerts: that they fire when they should, know what they speak of, and say what to do."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cache_actors.__main__ import main
from tests.support.programs import find_program

from .promql import grouping, promtool, told, unknown

PROJECT = Path(__file__).parents[2]
OBSERVABILITY = PROJECT / "platform" / "observability"
OPERATIONS = "docs/operations.md"

GROUPS: list[dict[str, Any]] = yaml.safe_load((OBSERVABILITY / "alerts.yml").read_text())["groups"]
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule for group in GROUPS for rule in group["rules"]
}
TESTS: list[dict[str, Any]] = yaml.safe_load((OBSERVABILITY / "alerts_test.yml").read_text())[
    "tests"
]

each_alert = pytest.mark.parametrize("name", ALERTS)


# --- Rules ----------------------------------------------------------------------------------------


def test_prometheus_takes_rules_and_configuration() -> None:
    promtool("check", "rules", OBSERVABILITY / "alerts.yml")
    promtool("check", "config", OBSERVABILITY / "prometheus.yml")


def test_alerts_fire_when_they_should_and_only_then() -> None:
    promtool("test", "rules", OBSERVABILITY / "alerts_test.yml")


@each_alert
def test_alert_is_tried_silent_firing_and_over(name: str) -> None:
    lines = [[name in firing(moment) for moment in moments(test)] for test in cases_of(name)]
    assert any(not line[0] and any(line) and not line[-1] for line in lines)


def cases_of(alert: str) -> list[dict[str, Any]]:
    """The tests in which an alert fires."""
    return [test for test in TESTS if any(alert in firing(moment) for moment in moments(test))]


def moments(test: dict[str, Any]) -> list[dict[str, Any]]:
    """When a test looks, and what it expects; all of them look at all alerts."""
    found: list[dict[str, Any]] = test["promql_expr_test"]
    assert {moment["expr"] for moment in found} == {
        'count by (alertname) (ALERTS{alertstate="firing"})'
    }
    return found


def firing(moment: dict[str, Any]) -> list[str]:
    """The alerts that should fire."""
    labels = " ".join(sample["labels"] for sample in moment["exp_samples"])
    return re.findall(r'alertname="(\w+)"', labels)


@each_alert
def test_alert_knows_what_is_told(name: str) -> None:
    assert list(unknown(ALERTS[name]["expr"])) == []


@each_alert
def test_totals_are_added_up_only_as_rates(name: str) -> None:
    """The sum of totals hides that one of them has started anew, with a process."""
    counted = re.findall(r"(\w+)\(\s*\w+_(?:total|sum|count|bucket)\b", ALERTS[name]["expr"])
    assert set(counted) <= {"rate", "increase"}


@each_alert
def test_series_of_several_processes_are_one_alert(name: str) -> None:
    expression = ALERTS[name]["expr"]
    if "cache_actors_" in expression:
        assert re.search(r"\b(sum|min|max) by \(job, instance\b", expression)


# --- What they say --------------------------------------------------------------------------------


@each_alert
def test_alert_says_how_urgent_it_is_and_what_it_means(name: str) -> None:
    alert = ALERTS[name]
    assert alert["labels"] == {"severity": alert["labels"]["severity"]}
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert alert["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert len(alert["annotations"]["summary"]) < 90
    named = set(re.findall(r"\$labels\.(\w+)", str(alert["annotations"])))
    assert named <= grouping(alert["expr"]) | {"instance"}
    assert "instance" in named


@each_alert
def test_alert_has_a_paragraph_of_the_runbook(name: str) -> None:
    page, _, anchor = ALERTS[name]["annotations"]["runbook_url"].partition("#")
    assert page == OPERATIONS
    assert anchor == anchor_of(name)
    parts = re.findall(r"^\*\*(\w+):\*\*", runbook()[name], re.MULTILINE)
    assert parts == ["Means", "Look", "Do", "Over"]
    assert "```bash\n" in runbook()[name]


def test_runbook_is_of_the_alerts_in_their_order() -> None:
    assert [*runbook()] == [*ALERTS]


def test_runbook_leads_nowhere_that_is_not_there() -> None:
    anchors = {anchor_of(each) for each in re.findall(r"^#+ (.+)$", operations(), re.MULTILINE)}
    assert set(re.findall(r"\]\(#([^)]+)\)", operations())) <= anchors


def test_runbook_uses_commands_and_metrics_that_there_are() -> None:
    text = "\n".join(runbook().values())
    commands = set(re.findall(r"\bcache(?:-actors)? (\w+)", " ".join(code_of(text))))
    assert {"status", "check", "usage", "evict"} <= commands <= main.commands.keys()
    for name in re.findall(r"\bmetrics (\w+)", text):
        assert any(each.startswith(name) for each in told()), name


def test_runbook_can_be_pasted_into_a_shell() -> None:
    blocks = re.findall(r"^```bash\n(.*?)^```", operations(), re.DOTALL | re.MULTILINE)
    assert len(blocks) > len(ALERTS)
    for block in blocks:
        run = subprocess.run(
            [find_program("bash"), "-n"], input=block, text=True, capture_output=True, check=False
        )
        assert (run.returncode, run.stderr) == (0, ""), block


def test_runbook_looks_for_events_that_are_logged() -> None:
    logged = re.findall(r"^\| (`.*?) \| [a-z, ]+ \|", operations(), re.MULTILINE)
    events = set(re.findall(r"`(\w+)`", " ".join(logged)))
    for wanted in re.findall(r"\blogs '?([a-z_|]+)", "\n".join(runbook().values())):
        for event in wanted.split("|"):
            assert any(each.startswith(event) for each in events), event


def operations() -> str:
    return (PROJECT / OPERATIONS).read_text()


def runbook() -> dict[str, str]:
    """The paragraphs of the runbook, by heading."""
    _, _, text = operations().partition("\n## At three in the morning\n")
    _, *sections = re.split(r"^### (.+)$", text, flags=re.MULTILINE)
    return dict(zip(sections[::2], sections[1::2], strict=True))


def anchor_of(heading: str) -> str:
    """What a heading's link ends with, as GitHub makes it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def code_of(text: str) -> list[str]:
    """What is code in Markdown: blocks, and words between backticks."""
    return [a or b for a, b in re.findall(r"```bash\n(.*?)```|`([^`]+)`", text, re.DOTALL)]


# --- What is scraped ------------------------------------------------------------------------------


def test_prometheus_asks_where_nginx_listens() -> None:
    config = yaml.safe_load((OBSERVABILITY / "prometheus.yml").read_text())
    [job] = config["scrape_configs"]
    [[target]] = [each["targets"] for each in job["static_configs"]]
    address, _, port = target.partition(":")
    assert address == "127.0.0.1"
    assert f"default = {port};" in (PROJECT / "platform/nginx.nix").read_text()
    assert f"METRICS_PORT:-{port}" in (PROJECT / "platform/compose.yml").read_text()
    assert target in operations()
    jobs = set(re.findall(r'job="([^"]+)"', " ".join(each["expr"] for each in ALERTS.values())))
    assert jobs == {job["job_name"]}
