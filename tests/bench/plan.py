"""How long a run takes, and how it spends its time. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

ROUND_TURNS = 22
"""Turns in a round of the comparison, with everybody there."""

BETWEEN_TURNS = 0.5
"""Seconds that go by between two turns."""

LONGEST, SHORTEST = 120.0, 4.0
"""Minutes."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, and for how long.

    Attributes:
        rounds: of the comparison.
        turn_seconds: for one contestant at one case; whole seconds.
        step_seconds: for each size of the build farm.
        sizes: how many artifacts are stored when it is looked how that scales.
        size_turns: turns at each case for each of these sizes.
    """

    rounds: int
    turn_seconds: float
    step_seconds: float
    sizes: tuple[int, ...]
    size_turns: int


QUICK = Plan(rounds=1, turn_seconds=1, step_seconds=3, sizes=(1_000, 10_000), size_turns=1)
"""About two minutes, to see whether everything works. Its figures are not worth much."""


def plan_for(minutes: float) -> Plan:
    """A plan for a run of so many minutes, most of which the comparison gets.

    A million artifacts take five minutes to make and to remove, so short runs do with fewer.
    """
    sizes = (1_000, 100_000, 1_000_000) if minutes >= 12 else (1_000, 100_000)
    for_sizes = 6.0 if minutes >= 12 else 1.5
    step = min(20.0, max(5.0, minutes * 60 * 0.15 / 8))
    for_farms = step * 8 / 60 + 1.0
    turn = 2.0 if minutes >= 10 else 1.0
    seconds = max(0.0, minutes - for_sizes - for_farms) * 60
    rounds = max(2, int(seconds / ROUND_TURNS / (turn + BETWEEN_TURNS)) - 1)  # one to warm up
    return Plan(rounds, turn, step, sizes, size_turns=3)
