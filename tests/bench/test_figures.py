"""The arithmetic of the benchmarks."""

import math
import random
from itertools import pairwise

import pytest

from .axis import decades, factors, linear_axis, short
from .figures import Spread, percentile, ratios, spread


def test_percentile_is_a_value_that_was_measured() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, p) for p in (1, 50, 95, 99, 100)] == [1, 50, 95, 99, 100]
    assert percentile([3.0], 50) == percentile([3.0], 99) == 3.0
    assert percentile([1.0, 2.0, 3.0], 50) == 2.0
    assert math.isnan(percentile([], 50))


def test_so_many_percent_do_not_exceed_a_percentile() -> None:
    chance = random.Random(1)
    for size in range(1, 200):
        values = sorted(chance.random() for _ in range(size))
        for percent in (0.1, 25, 50, 99.9):
            found = percentile(values, percent)
            assert sum(value <= found for value in values) >= size * percent / 100
            assert sum(value < found for value in values) < size * percent / 100


def test_spread() -> None:
    assert spread([3.0, 1.0, 8.0]) == Spread(3.0, 1.0, 8.0)


def test_ratios_are_of_values_of_the_same_round() -> None:
    assert ratios([2.0, 9.0, 4.0], [1.0, 3.0, 4.0]) == Spread(2.0, 1.0, 3.0)
    assert ratios([2.0, 9.0], [0.0, 3.0]) == Spread(3.0, 3.0, 3.0)
    assert ratios([2.0], [0.0]) is None


@pytest.mark.parametrize("most", [0.03, 0.7, 1, 4.2, 9, 10, 11, 640, 7855, 97_123, 1e6])
def test_linear_axis_has_a_few_round_ticks_up_to_the_largest_value(most: float) -> None:
    axis = linear_axis([most / 3, most])
    assert axis.ticks[-1] == axis.high >= most > axis.ticks[-2]
    assert 2 <= len(axis.ticks) <= 6
    assert len({round(after - before, 9) for before, after in pairwise(axis.ticks)}) == 1
    assert axis.place(0) == 0
    assert axis.place(axis.high) == 1


def test_logarithmic_axes() -> None:
    axis = decades([0.2, 30.0])
    assert axis.ticks == (0.1, 1.0, 10.0, 100.0)
    assert axis.place(1.0) == pytest.approx(1 / 3)
    assert axis.place(0.0) == 0, "what is too small to be on it lies at its end"
    assert factors([8, 1, 2, 1]).ticks == (1, 2, 8)
    assert factors([4]).place(4) == 0


def test_numbers_in_few_characters() -> None:
    assert [short(value) for value in (0, 0.25, 7, 1500, 60_000, 2e6)] == [
        *("0", "0.25", "7", "1.5k", "60k", "2M")
    ]
