"""What results come to: medians and spreads, and where they were measured, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .figures import Spread, percentile, ratios, spread
from .results import Latency

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .results import Case, Comparison, Machine, Turn


def rates(case: Case) -> Spread:
    """Answers per second."""
    return spread([turn.rate for turn in case.turns])


def cpu_us(case: Case, part: str | None = None) -> Spread:
    """CPU time for one answer in microseconds, of one part or of all."""
    return spread(costs(case.turns, part))


def costs(turns: Sequence[Turn], part: str | None = None) -> list[float]:
    """The same, turn by turn."""
    return [
        turn.cpu_us.get(part, 0.0) if part is not None else sum(turn.cpu_us.values())
        for turn in turns
    ]


def of_limit(case: Case, comparison: Comparison) -> Spread | None:
    """The rate as a part of that of the first contestant at the same case, round by round."""
    first = next(each for each in comparison.cases if each.case == case.case)
    if first.contestant == case.contestant:
        return None
    return ratios([turn.rate for turn in case.turns], [turn.rate for turn in first.turns])


def latency_of(seconds: list[float]) -> Latency:
    """The latency of some operations that took so many seconds each."""
    ordered = sorted(seconds)
    p50, p95, p99, most = (percentile(ordered, percent) * 1000 for percent in (50, 95, 99, 100))
    return Latency(len(ordered), p50, p95, p99, most)


def shares(case: Case) -> list[float]:
    """Which part of the requests each worker had, on average; empty if it had none to answer."""
    counted = [turn.shares for turn in case.turns if turn.shares]
    if not counted or len({len(each) for each in counted}) > 1:
        return []
    return [sum(each) / len(counted) for each in zip(*counted, strict=True)]


def in_words(machine: Machine) -> str:
    """On what kind of machine something was measured."""
    before, after = machine.loads
    return (
        f"{machine.cores} cores ({machine.processor}), {machine.disk},"
        f" load average {before:g} before, {after:g} after"
    )
