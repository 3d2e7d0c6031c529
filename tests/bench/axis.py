"""Axes: where a value lies between two ends, and which values are written there. Pure functions."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

MOST_TICKS = 5


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis from the value `low` to `high`; `logarithmic` if steps are factors."""

    low: float
    high: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Where `value` lies: 0 is the low end, 1 the high one."""
        value = min(max(value, self.low), self.high)
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def linear_axis(values: Iterable[float]) -> Axis:
    """An axis from 0 up to a round number that is not below any of the values."""
    most = max(values, default=0.0) or 1.0
    step = 10 ** math.floor(math.log10(most))
    for part in (0.1, 0.2, 0.25, 0.5, 1.0, 2.0, 2.5, 5.0):
        if most / (step * part) <= MOST_TICKS:
            step *= part
            break
    count = math.ceil(round(most / step, 9))
    return Axis(0.0, count * step, tuple(number * step for number in range(count + 1)))


def decades(values: Iterable[float]) -> Axis:
    """A logarithmic axis between powers of ten, for values over 0."""
    some = [value for value in values if value > 0] or [1.0]
    first = math.floor(math.log10(min(some)))
    last = max(math.ceil(math.log10(max(some))), first + 1)
    ticks = tuple(10.0**power for power in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], ticks, logarithmic=True)


def factors(values: Iterable[float]) -> Axis:
    """A logarithmic axis with a tick for each value."""
    ticks = tuple(sorted(set(values))) or (1.0,)
    high = ticks[-1] if len(ticks) > 1 else ticks[0] * 2
    return Axis(ticks[0], high, ticks, logarithmic=True)


def short(value: float) -> str:
    """A number in as few characters as it takes: 1.5k, 250, 0.1."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"
