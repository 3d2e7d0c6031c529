"""The requests of the last five minutes, in steps of five seconds, for `/up`."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict

from .request_event import Responder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .request_event import RequestEvent

STEP_SECONDS = 5
STEPS = 60

_FASTEST = 0.0001
_GROWTH = math.log(1.2)
"""Logarithm of the ratio between one class of durations and the next, which is a fifth longer."""


class Figures(TypedDict, total=False):
    """The figures for `/up`: lists of one value per step, the oldest first.

    A value is None if the step has no such requests. Latencies named `nginx_...` are those of
    answers that nginx gave alone, the others those of the service's.
    """

    step_seconds: int
    requests_per_second: list[float]
    hit_rate: list[float | None]
    latency_ms_p50: list[float | None]
    latency_ms_p95: list[float | None]
    nginx_latency_ms_p50: list[float | None]
    nginx_latency_ms_p95: list[float | None]
    errors_per_second: list[float]


@dataclass(slots=True)
class Step:
    """The requests of one step; `durations` counts answers by responder and class of duration."""

    number: int
    requests: int = 0
    errors: int = 0
    hits: int = 0
    misses: int = 0
    durations: dict[Responder, dict[int, int]] = field(
        default_factory=lambda: {by: {} for by in Responder}
    )

    def add(self, served: RequestEvent) -> None:
        """Count answered requests."""
        self.requests += served.times
        self.errors += served.times * served.is_error
        if (hit := served.hit) is not None:
            self.hits += served.times * hit
            self.misses += served.times * (not hit)
        durations, duration = self.durations[served.by], _duration_class(served.seconds)
        durations[duration] = durations.get(duration, 0) + served.times

    def merge(self, other: Step) -> None:
        """Add the requests that another process answered in the same step."""
        self.requests += other.requests
        self.errors += other.errors
        self.hits += other.hits
        self.misses += other.misses
        for by, durations in self.durations.items():
            for duration, times in other.durations[by].items():
                durations[duration] = durations.get(duration, 0) + times

    def hit_rate(self) -> float | None:
        """The share of hits among reads, from 0 to 1; None without reads."""
        reads = self.hits + self.misses
        return round(self.hits / reads, 4) if reads else None

    def milliseconds(self, by: Responder, part: float) -> float | None:
        """The quantile `part` (0 to 1) of the durations of answers, in milliseconds, to 10 %."""
        durations = self.durations[by]
        missing = part * sum(durations.values())
        for number, times in sorted(durations.items()):
            missing -= times
            if missing <= 0:
                return round(1000 * _FASTEST * math.exp(_GROWTH * (number - 0.5)), 2)
        return None


@dataclass(frozen=True, slots=True)
class History:
    """The steps that one process has recorded, and the number of the step in which it started."""

    first: int
    steps: tuple[Step, ...]


class Recent:
    """The recent requests of clients. `clock` is in seconds, and shared by all processes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first = self._number()
        self._steps: deque[Step] = deque(maxlen=STEPS + 1)

    def add(self, served: RequestEvent) -> None:
        """Count requests answered just now, if they came from clients."""
        if not served.is_from_client:
            return
        number = self._number()
        if not self._steps or self._steps[-1].number != number:
            self._steps.append(Step(number))
        self._steps[-1].add(served)

    def history(self) -> History:
        """The recorded steps of this process."""
        return History(self._first, tuple(self._steps))

    def figures(self, others: Iterable[History] = ()) -> Figures:
        """The figures of the steps that have ended, for at most five minutes.

        Args:
            others: the histories of other processes of the service.
        """
        histories = [self.history(), *others]
        now = self._number()
        first = min(history.first for history in histories)
        steps = {number: Step(number) for number in range(max(first, now - STEPS), now)}
        for history in histories:
            for step in history.steps:
                if step.number in steps:
                    steps[step.number].merge(step)
        return _figures(list(steps.values()))

    def _number(self) -> int:
        return int(self._clock() // STEP_SECONDS)


def _figures(steps: list[Step]) -> Figures:
    return Figures(
        step_seconds=STEP_SECONDS,
        requests_per_second=[step.requests / STEP_SECONDS for step in steps],
        hit_rate=[step.hit_rate() for step in steps],
        latency_ms_p50=[step.milliseconds(Responder.SERVICE, 0.5) for step in steps],
        latency_ms_p95=[step.milliseconds(Responder.SERVICE, 0.95) for step in steps],
        nginx_latency_ms_p50=[step.milliseconds(Responder.NGINX, 0.5) for step in steps],
        nginx_latency_ms_p95=[step.milliseconds(Responder.NGINX, 0.95) for step in steps],
        errors_per_second=[step.errors / STEP_SECONDS for step in steps],
    )


def _duration_class(seconds: float) -> int:
    """The number of the class of a duration; 0 is the fastest."""
    return max(0, math.ceil(math.log(max(seconds, _FASTEST) / _FASTEST) / _GROWTH))
