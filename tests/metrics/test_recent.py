"""The last five minutes."""

import pytest

from cache_actors.metrics.recent import STEP_SECONDS, STEPS, Recent
from cache_actors.metrics.served import By, Route, Served


class Clock:
    """Stands still unless it is told otherwise."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def step(self, steps: int = 1) -> None:
        self.now += steps * STEP_SECONDS


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def recent(clock: Clock) -> Recent:
    return Recent(clock)


def read(status: int, times: int = 1, by: By = By.SERVICE, seconds: float = 0.001) -> Served:
    return Served(by, Route.ARTIFACT_READ, status, seconds, 10, times=times)


def test_nothing_is_told_of_a_step_that_has_not_ended(recent: Recent, clock: Clock) -> None:
    recent.add(read(200))
    assert recent.figures()["requests_per_second"] == []
    clock.step()
    assert recent.figures()["requests_per_second"] == [0.2]


def test_all_lists_are_equally_long_and_hold_five_minutes(recent: Recent, clock: Clock) -> None:
    for number in range(STEPS + 10):
        recent.add(read(200, times=STEP_SECONDS * (number + 1)))
        clock.step()
    figures = recent.figures()
    lists = [value for value in figures.values() if isinstance(value, list)]
    assert {len(each) for each in lists} == {STEPS}
    assert figures["requests_per_second"] == list(range(11, STEPS + 11))
    assert figures["step_seconds"] == STEP_SECONDS


def test_pauses_are_told_too(recent: Recent, clock: Clock) -> None:
    recent.add(read(200, times=5))
    clock.step(3)
    recent.add(read(404, times=5))
    clock.step()
    figures = recent.figures()
    assert figures["requests_per_second"] == [1, 0, 0, 1]
    assert figures["hit_rate"] == [1, None, None, 0]
    assert figures["latency_ms_p50"][1:3] == [None, None]


def test_hits_and_errors_of_both_are_added_up_for_what_builds_ask(
    recent: Recent, clock: Clock
) -> None:
    recent.add(read(200, times=6, by=By.NGINX))
    recent.add(read(404))
    recent.add(read(503, by=By.NGINX))
    recent.add(read(200))
    recent.add(Served(By.SERVICE, Route.UP, 200, 1.0, 10))
    recent.add(Served(By.SERVICE, Route.DECISION, 503, 1.0, 10))
    clock.step()
    figures = recent.figures()
    assert figures["hit_rate"] == [0.875]
    assert figures["errors_per_second"] == [0.2]
    assert figures["requests_per_second"] == [1.8]


@pytest.mark.parametrize("seconds", [0.0002, 0.001, 0.02, 0.3, 7, 4000])
def test_latency_is_told_within_a_tenth(recent: Recent, clock: Clock, seconds: float) -> None:
    recent.add(read(200, times=90, seconds=seconds))
    recent.add(read(200, times=10, seconds=seconds * 10))
    clock.step()
    figures = recent.figures()
    assert figures["latency_ms_p50"] == [pytest.approx(seconds * 1000, rel=0.1)]
    assert figures["latency_ms_p95"] == [pytest.approx(seconds * 10_000, rel=0.1)]


def test_latencies_of_nginx_are_apart(recent: Recent, clock: Clock) -> None:
    recent.add(read(200, seconds=0.0, by=By.NGINX, times=100))
    recent.add(read(200, seconds=1))
    clock.step()
    figures = recent.figures()
    assert figures["latency_ms_p50"] == [pytest.approx(1000, rel=0.1)]
    [nginx] = figures["nginx_latency_ms_p50"]
    assert nginx is not None
    assert nginx <= 0.1


def test_what_another_process_has_answered_is_taken_in(recent: Recent, clock: Clock) -> None:
    other = Recent(clock)
    recent.add(read(200, times=10, seconds=0.001))
    other.add(read(404, times=30, seconds=0.1))
    other.add(read(503, times=10))
    clock.step()
    figures = recent.figures([other.history()])
    assert figures["requests_per_second"] == [10.0]
    assert figures["errors_per_second"] == [2.0]
    assert figures["hit_rate"] == [0.25]
    [slowest] = figures["latency_ms_p95"]
    assert slowest == pytest.approx(100, rel=0.2)


def test_process_that_began_later_does_not_hide_what_was_before(clock: Clock) -> None:
    early = Recent(clock)
    early.add(read(200, times=5))
    clock.step(3)
    assert Recent(clock).figures([early.history()])["requests_per_second"] == [1.0, 0.0, 0.0]
