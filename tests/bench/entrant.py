"""A contestant at a case, and its turns."""

from dataclasses import dataclass, replace

from .contestants import Contestant
from .results import Turn
from .tags import new_tag
from .wrk import Ask, run_wrk


@dataclass(frozen=True)
class Entrant:
    """A contestant at a case: what it is asked."""

    case: str
    contestant: Contestant
    ask: Ask

    def turn(self, seconds: float) -> Turn:
        """Ask for a while, with new ids if it is something new that is stored."""
        ask = self.ask if self.ask.count else replace(self.ask, tag=new_tag())
        log_end, before = self.contestant.log_end(), self.contestant.cpu_seconds()
        said, wrk_busy = run_wrk(self.contestant.url, ask, seconds)
        after = self.contestant.cpu_seconds()
        answered = self.contestant.answered_since(log_end)
        self.contestant.tidy()
        return Turn(
            rate=said.requests / said.seconds,
            p50_ms=said.p50_ms,
            p99_ms=said.p99_ms,
            cpu_us={part: (after[part] - before[part]) / said.requests * 1e6 for part in after},
            wrk_busy=wrk_busy,
            shares=_shares(answered, said.requests),
        )


def _shares(answered: dict[str, int], requests: int) -> list[float]:
    """Each worker's part of what the service answered; none if that was a decision or two only."""
    total = sum(answered.values())
    return [count / total for count in answered.values()] if total > requests / 2 else []
