"""Plots, tables and the block in the documentation."""

from pathlib import Path
from xml.etree import ElementTree

import pytest
from msgspec.structs import replace

from .document import BEGIN, BUSY, END, block, rewrite
from .failure import BenchmarkFailed
from .figures import Spread
from .mixed import what_gave
from .plots import write_plots
from .results import (
    Beside,
    Builds,
    Calls,
    Case,
    Comparison,
    Farm,
    Latency,
    Machine,
    Mixed,
    Outage,
    Pair,
    Recovery,
    Remote,
    Results,
    Scale,
    Shared,
    Size,
    Step,
    Turn,
    Versions,
    load,
    save,
)
from .summary import of_limit, shares
from .tables import (
    Table,
    asked_table,
    beside_table,
    builds_table,
    calls_table,
    tables_of,
    versions_table,
)

MACHINE = Machine("2026-01-31", 2, "A <fast> one", 1 << 34, "6.1", "ext4", {"wrk": "4"}, (0.1, 2.0))


def turns(*rates: float, shares: list[float]) -> list[Turn]:
    return [Turn(rate, 1.0, 2.0, {"nginx": 20.0}, 0.5, shares) for rate in rates]


def step(achieved: float = 1000.0, p99_ms: float = 20.0, errors: int = 0) -> Step:
    latency = Latency(5000, 1.0, 2.0, p99_ms, p99_ms)
    wrong = {"entry stored: 409": errors} if errors else {}
    return Step(1.0, 1000.0, achieved, wrong, {"all": latency}, {"nginx": 0.1}, {"nginx": 9}, 0.1)


COMPARISON = Comparison(
    MACHINE,
    2.0,
    3,
    [
        Case("new upload", "nginx alone", turns(100.0, 200.0, 400.0, shares=[])),
        Case("new upload", "ours", turns(50.0, 50.0, 100.0, shares=[0.4, 0.6])),
    ],
    ["No <node> here"],
)
FARM = Farm("ours", [step()], "nothing")
SIZE = Size(1000, Spread(0.5, 0.4, 0.6), (1 << 26, 1 << 27), COMPARISON.cases[1:])
PAIR = Pair(
    "new upload",
    "1 worker, fsync",
    [Turn(100.0, 1.0, 2.0, {"service": cost}, 0.1, []) for cost in (1000.0, 1000.0, 1000.0)],
    [Turn(150.0, 1.0, 2.0, {"service": cost}, 0.1, []) for cost in (500.0, 600.0, 900.0)],
)
VERSIONS = Versions(MACHINE, 1.0, 3, "c4fe580", "0123456 with changes", [PAIR], [])
REMOTE = Remote(
    MACHINE,
    1.0,
    [
        Calls("GetActionResult, calls/s", "nginx alone", [100.0, 400.0], [20.0, 20.0]),
        Calls("GetActionResult, calls/s", "ours", [50.0, 100.0], [900.0, 1000.0]),
    ],
    2000,
    [Builds("without a cache", [20.0, 10.0]), Builds("ours", [10.0, 4.0])],
    [],
)
SHARED = Shared(
    MACHINE,
    5.0,
    [Beside("hits in a second", [90.0, 120.0], [100.0, 100.0])],
    0.1,
    0.9,
    {"first-time miss": Latency(1000, 5.0, 8.0, 9.0, 200.0)},
    2000.0,
    3,
    Outage(60.0, 9600, 0, 30.0, 600.0, 400.0),
    20_000,
    [50_000.0],
    {},
)
RESULTS = Results(
    COMPARISON,
    VERSIONS,
    Mixed(MACHINE, 5.0, 20_000.0, Latency(1, 0.2, 0.3, 0.4, 0.5), [FARM], []),
    Scale(MACHINE, 2.0, [SIZE]),
    REMOTE,
    Recovery(MACHINE, 100, 200, 9 << 20, Spread(4.0, 3.0, 5.0), Spread(1.0, 1.0, 1.0)),
)


def test_ratios_are_of_the_same_round() -> None:
    assert of_limit(COMPARISON.cases[1], COMPARISON) == Spread(0.25, 0.25, 0.5)
    assert of_limit(COMPARISON.cases[0], COMPARISON) is None


def test_before_and_after_are_ratios_of_the_same_round() -> None:
    (row,) = versions_table(VERSIONS).rows
    assert row[:4] == ["new upload", "1 worker, fsync", "100", "150"]
    assert row[4:6] == ["1.50", "1.50 to 1.50"]
    assert row[6:] == ["1,000", "600", "0.60", "0.50 to 0.90"]
    assert "Before is commit c4fe580, after is 0123456 with changes." in block(RESULTS)


def test_calls_and_builds_are_beside_the_first_of_the_same_round() -> None:
    first, ours = calls_table(REMOTE).rows
    assert first == ["GetActionResult, calls/s", "nginx alone", "250", "100 to 400", "", "20"]
    assert ours == ["", "ours", "75", "50 to 100", "0.38", "950"]
    assert builds_table(REMOTE).rows[1] == ["ours", "7.0", "0.45"]


def test_turns_with_a_bucket_are_beside_those_without_of_the_same_round() -> None:
    (row,) = beside_table(SHARED).rows
    assert row == ["hits in a second", "105", "100", "1.05", "0.90 to 1.20"]
    (row,) = asked_table(SHARED).rows
    assert row == ["first-time miss", "1,000", "5.0", "8.0", "9.0", "200"]


def test_shares_of_workers() -> None:
    assert shares(COMPARISON.cases[1]) == pytest.approx([0.4, 0.6])
    assert shares(COMPARISON.cases[0]) == []


def test_what_gave_first() -> None:
    assert what_gave(step()) == ""
    assert "900 operations/s of 1,000" in what_gave(step(achieved=900.0))
    assert "p99" in what_gave(step(p99_ms=1500.0))
    assert "20 errors" in what_gave(step(errors=20))


def test_results_come_back_as_they_were_written(tmp_path: Path) -> None:
    save(RESULTS, tmp_path / "new" / "results.json")
    assert load(tmp_path / "new" / "results.json") == RESULTS
    assert load(tmp_path / "other.json") == Results()


def test_plots_are_drawings_within_their_edges(tmp_path: Path) -> None:
    plots = write_plots(RESULTS, tmp_path)
    assert [plot.name for plot in plots] == ["comparison.svg", "mixed.svg", "scale.svg"]
    for plot in plots:
        root = ElementTree.fromstring(plot.read_text())  # noqa: S314
        width, height = float(root.attrib["width"]), float(root.attrib["height"])
        words = [element for element in root if element.tag.endswith("text")]
        assert any("A <fast> one" in (word.text or "") for word in words)
        for word in words:
            assert 0 <= float(word.attrib["x"]) <= width
            assert 0 <= float(word.attrib["y"]) <= height


def test_tables() -> None:
    table = Table("t", ["who", "much"], [["a", "1"], ["b", "2"]])
    assert table.markdown() == "| who | much |\n| --- | ---: |\n| a | 1 |\n| b | 2 |"
    for each in tables_of(RESULTS):
        assert all(len(row) == len(each.columns) for row in each.rows)
        assert each.rich().row_count == len(each.rows)


def test_only_the_block_of_the_document_is_rewritten(tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text(f"before\n{BEGIN}\nold figures\n{END}\nafter\n")
    rewrite(document, RESULTS)
    once = document.read_text()
    assert once.startswith(f"before\n{BEGIN}\n")
    assert once.endswith(f"{END}\nafter\n")
    assert "old figures" not in once
    assert "**Skipped**: No <node> here." in once
    rewrite(document, RESULTS)
    assert document.read_text() == once


def test_targets_come_first() -> None:
    assert block(RESULTS).startswith("### Targets\n")


def test_a_busy_machine_is_told() -> None:
    busy = replace(COMPARISON, machine=replace(MACHINE, loads=(3.0, 3.0)))
    assert BUSY in block(Results(busy))
    assert BUSY not in block(RESULTS)


def test_a_document_without_a_block_is_left_alone(tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text("nothing here")
    with pytest.raises(BenchmarkFailed, match="no block"):
        rewrite(document, RESULTS)
    assert document.read_text() == "nothing here"
