"""The circuit breaker, with a clock of its own."""

import pytest

from cache_actors.s3.breaker import MAX_FAILURES, MAX_OPEN_SECONDS, OPEN_SECONDS, Breaker
from cache_actors.s3.errors import BreakerOpen, Unreachable

DOWN = Unreachable("no connection")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(clock)


def fail(breaker: Breaker, times: int) -> None:
    for _ in range(times):
        breaker.failed(breaker.enter(), DOWN)


def seconds_open(breaker: Breaker) -> float:
    with pytest.raises(BreakerOpen) as refused:
        breaker.enter()
    return refused.value.seconds


def test_failures_in_a_row_open_it(breaker: Breaker) -> None:
    fail(breaker, MAX_FAILURES - 1)
    breaker.succeeded()
    fail(breaker, MAX_FAILURES - 1)
    fail(breaker, 1)
    assert breaker.error is DOWN
    assert seconds_open(breaker) == OPEN_SECONDS


def test_one_request_tries_and_the_others_are_refused_meanwhile(
    breaker: Breaker, clock: Clock
) -> None:
    fail(breaker, MAX_FAILURES)
    clock.now += OPEN_SECONDS
    breaker.enter()
    seconds_open(breaker)
    breaker.succeeded()
    breaker.enter()
    breaker.enter()
    assert breaker.error is None


def test_it_stays_open_for_twice_as_long_each_time_up_to_a_limit(
    breaker: Breaker, clock: Clock
) -> None:
    fail(breaker, MAX_FAILURES)
    found = []
    for _ in range(6):
        found.append(seconds_open(breaker))
        clock.now += found[-1]
        fail(breaker, 1)
    assert found == [5, 10, 20, 40, 60, MAX_OPEN_SECONDS]
    clock.now += MAX_OPEN_SECONDS
    breaker.enter()
    breaker.succeeded()
    fail(breaker, MAX_FAILURES)
    assert seconds_open(breaker) == OPEN_SECONDS


def test_failures_of_requests_from_before_it_opened_do_not_count(
    breaker: Breaker, clock: Clock
) -> None:
    early = [breaker.enter() for _ in range(3 * MAX_FAILURES)]
    for period in early:
        breaker.failed(period, DOWN)
    assert seconds_open(breaker) == OPEN_SECONDS
    clock.now += OPEN_SECONDS
    breaker.enter()
    breaker.succeeded()
    for period in early:
        breaker.failed(period, DOWN)
    breaker.enter()


def test_try_that_never_ends_is_followed_by_another(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, MAX_FAILURES)
    clock.now += OPEN_SECONDS
    breaker.enter()
    clock.now += seconds_open(breaker)
    breaker.enter()
