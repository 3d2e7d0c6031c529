"""A run takes as long as it was told to."""

import pytest

from .plan import LARGE, LONGEST, SHORTEST, plan_for, rounds_until
from .rounds import WARM_UP_SECONDS

RUNS = (SHORTEST, 18, LARGE - 0.1, LARGE, 26, 29, 30, 60, LONGEST)
"""Minutes."""


def test_a_longer_run_does_not_measure_less() -> None:
    plans = [plan_for(minutes) for minutes in RUNS]
    assert [plan.step_seconds for plan in plans] == sorted(plan.step_seconds for plan in plans)
    assert [plan.turn_seconds for plan in plans] == sorted(plan.turn_seconds for plan in plans)
    assert [plan.sizes[-1] for plan in plans] == sorted(plan.sizes[-1] for plan in plans)


@pytest.mark.parametrize("minutes", RUNS)
def test_all_parts_together_take_the_time_that_was_given(minutes: float) -> None:
    plan = plan_for(minutes)
    assert plan.seconds() == pytest.approx(minutes * 60)
    assert plan.turn_seconds == int(plan.turn_seconds), "wrk knows whole seconds only"


@pytest.mark.parametrize("minutes", RUNS)
def test_there_is_time_for_some_rounds(minutes: float) -> None:
    plan = plan_for(minutes)
    setup, turns = 30.0, 30  # of the comparison; the versions have fewer
    each = turns * (plan.turn_seconds + 0.5)
    warm_up = turns * (WARM_UP_SECONDS + 0.5)
    assert plan.comparison_seconds >= setup + warm_up + plan.least_rounds * each


def test_rounds_go_on_as_long_as_another_one_ends_in_time() -> None:
    clock = [100.0]
    took = iter([10.0, 20.0, 5.0, 5.0, 5.0])
    seen = []
    for number in rounds_until(155.0, least=1, clock=lambda: clock[0]):
        seen.append(number)
        clock[0] += next(took)
    assert seen == [1, 2, 3, 4], "after 140 s a round as long as the longest would end too late"


def test_so_many_rounds_there_are_in_any_case() -> None:
    assert list(rounds_until(0.0, least=2)) == [1, 2]
