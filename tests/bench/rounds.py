"""Entrants that take turns, round after round."""

from collections.abc import Callable, Sequence
from typing import Protocol

from .plan import Plan, rounds_until
from .results import Turn

WARM_UP_SECONDS = 1.0


class Entrant(Protocol):
    """Somebody who takes turns."""

    def turn(self, seconds: float) -> Turn:
        """One of them, of about so many seconds."""


def take_turns(
    entrants: Sequence[Entrant], plan: Plan, end: float, say: Callable[[str], None]
) -> list[list[Turn]]:
    """The turns of each entrant, one in each round.

    Every other round goes backwards, so that nobody always comes after the same one, who may have
    left the disk something to do.

    Args:
        entrants: who takes turns.
        plan: how long a turn takes, and how many rounds there are at least.
        end: when time is over, in `time.monotonic()`.
        say: told how it goes.
    """
    if plan.least_rounds > 1:
        say(f"warming up, {len(entrants)} turns a round")
        for entrant in entrants:
            entrant.turn(WARM_UP_SECONDS)
    turns: list[list[Turn]] = [[] for _ in entrants]
    for number in rounds_until(end, plan.least_rounds):
        say(f"round {number}")
        pairs = list(zip(entrants, turns, strict=True))
        for entrant, of_entrant in pairs if number % 2 else reversed(pairs):
            of_entrant.append(entrant.turn(plan.turn_seconds))
    return turns
