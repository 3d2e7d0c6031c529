"""What results come to: medians and spreads, and where they were measured, in words."""

from collections.abc import Sequence

from .figures import Spread, percentile, ratios, spread
from .results import Case, Comparison, Latency, Machine, Turn


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
    first = next(each.contestant for each in comparison.cases if each.case == case.case)
    if first == case.contestant:
        return None
    return rate_ratio(comparison, case.case, case.contestant, first)


def turns_of(comparison: Comparison | None, case: str, contestant: str) -> list[Turn]:
    """The turns of a contestant at a case, round by round; none if that has not been measured."""
    for each in comparison.cases if comparison is not None else ():
        if (each.case, each.contestant) == (case, contestant):
            return each.turns
    return []


def rate_ratio(comparison: Comparison | None, case: str, one: str, other: str) -> Spread | None:
    """How many times the other contestant's rate that of the one is, round by round."""
    one_s, other_s = (turns_of(comparison, case, name) for name in (one, other))
    if not one_s or not other_s:
        return None
    return ratios([turn.rate for turn in one_s], [turn.rate for turn in other_s])


def cost_ratio(
    comparison: Comparison | None, case: str, one: str, other: str, part: str
) -> Spread | None:
    """The same of the CPU time that a part takes for an answer."""
    one_s, other_s = (turns_of(comparison, case, name) for name in (one, other))
    if not one_s or not other_s:
        return None
    return ratios(costs(one_s, part), costs(other_s, part))


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
