"""Figures out of many measurements. Pure functions."""

import math
from collections.abc import Sequence
from statistics import median

import msgspec


class Spread(msgspec.Struct, frozen=True):
    """The middle of several measurements, and how far they lie apart."""

    median: float
    least: float
    most: float


def spread(values: Sequence[float]) -> Spread:
    """The spread of at least one value."""
    return Spread(median(values), min(values), max(values))


def ratios(values: Sequence[float], others: Sequence[float]) -> Spread | None:
    """How many times the other value of the same round each value is; None if that cannot be said.

    Args:
        values: one of each round.
        others: the same.
    """
    found = [value / other for value, other in zip(values, others, strict=True) if other]
    return spread(found) if found else None


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest of some values that so many percent of them do not exceed; NaN of none.

    Args:
        ordered: the values, smallest first.
        percent: more than 0, up to 100.
    """
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
