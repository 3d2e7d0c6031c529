"""Targets are met or missed by what was measured, and by how much is said."""

import pytest
from msgspec.structs import replace

from .bucket import (
    FETCHER,
    FIRST_MISS,
    HITS,
    KNOWN_SILENT,
    PULLED,
    REPLICATOR,
    SILENT,
    UPLOADS,
)
from .cases import HIT, LARGE_NEW, NEW, NGINX, OTHER_BEHIND_NGINX, PUT, READ, ours
from .farm import LARGE_WRITE
from .figures import Spread
from .remote_execution import ACTION, BUILDGRID, OURS
from .remote_execution import READ as READ_STREAM
from .results import (
    Beside,
    Calls,
    Case,
    Comparison,
    Farm,
    Latency,
    Machine,
    Mixed,
    Outage,
    Recovery,
    Remote,
    Results,
    Scale,
    Shared,
    Size,
    Step,
    Turn,
)
from .tables import bounds_of
from .targets import (
    NOT_MEASURED,
    Goal,
    at_least,
    at_most,
    calls,
    durable_cost,
    entries,
    farms,
    growth,
    large_cost,
    large_rate,
    nginx_cost,
    reads,
    recovery,
    shared_targets,
    start,
    targets,
    uploads,
    what_is_wrong,
    worker_cost,
    worker_shares,
)

MACHINE = Machine("2026-01-31", 2, "A fast one", 1 << 34, "6.1", "ext4", {}, (0.1, 2.0))
ONE, TWO = ours(1, "fsync"), ours(2, "fsync")


def turn(rate: float = 1.0, cost: float = 1.0, shares: tuple[float, ...] = ()) -> Turn:
    return Turn(rate, 1.0, 2.0, {"nginx": 20.0, "service": cost}, 0.5, list(shares))


def comparison(*cases: Case) -> Comparison:
    return Comparison(MACHINE, 1.0, 3, list(cases), [])


def rates(case: str, contestant: str, *of_turns: float) -> Case:
    return Case(case, contestant, [turn(rate) for rate in of_turns])


def costs(contestant: str, *of_turns: float) -> Case:
    return Case(NEW, contestant, [turn(cost=cost) for cost in of_turns])


@pytest.mark.parametrize(
    ("rate", "verdict"),
    [
        (1300.0, "met"),
        (1200.0, "met"),
        (1080.0, "met, short of the aim by 10%"),
        (1199.0, "met, short of the aim by 0.1%"),
        (900.0, "met, short of the aim by 25%"),
        (450.0, "missed by 50%"),
    ],
)
def test_uploads_have_an_aim_beyond_their_target(rate: float, verdict: str) -> None:
    other = rates(NEW, OTHER_BEHIND_NGINX, 1000.0)
    found = uploads(comparison(other, rates(NEW, TWO, rate)), "fsync", Goal(0.9, 1.2))
    assert found.verdict == verdict
    assert found.is_missed() == verdict.startswith("missed")


def test_entries_are_beside_uploads_of_the_other_cache_in_the_same_round() -> None:
    other = rates(NEW, OTHER_BEHIND_NGINX, 100.0, 1000.0, 100.0)
    found = entries(comparison(other, rates(PUT, TWO, 140.0, 900.0, 110.0)))
    assert (found.measured, found.verdict) == (
        *("1.10 (0.90 to 1.40)", "met, short of the aim by 15%"),
    )


def test_cost_of_durability_is_beside_a_relaxed_upload() -> None:
    relaxed = costs(ours(2, "relaxed"), 500.0, 500.0, 500.0)
    found = durable_cost(comparison(relaxed, costs(TWO, 550.0, 575.0, 600.0)), 2)
    assert (found.measured, found.verdict) == ("1.15 (1.10 to 1.20)", "met")
    assert durable_cost(comparison(relaxed, costs(TWO, 575.0)), 1).verdict == NOT_MEASURED


def test_large_uploads_are_beside_nginx_and_cost_by_the_mebibyte() -> None:
    slow = Case(LARGE_NEW, ONE, [turn(5.0, cost=75_000.0)])
    found = comparison(rates(LARGE_NEW, NGINX, 10.0), slow)
    assert (large_rate(found).measured, large_rate(found).verdict) == ("0.50", "missed by 17%")
    assert (large_cost(found).measured, large_cost(found).verdict) == ("3.00", "missed by 20%")


def test_what_nginx_answers_is_beside_a_bare_file() -> None:
    entry = Case(HIT, ONE, [Turn(1.0, 1.0, 2.0, {"nginx": 26.4, "service": 9.0}, 0.5, [])])
    found = nginx_cost(
        comparison(rates(READ, NGINX, 1.0), entry), HIT, Goal(1.35, 1.3, lower_is_better=True)
    )
    assert (found.measured, found.verdict) == ("1.32", "met, short of the aim by 2%")


def test_ratios_are_of_the_same_round() -> None:
    other = rates(READ, OTHER_BEHIND_NGINX, 100.0, 1000.0, 100.0)
    found = reads(comparison(other, rates(READ, ONE, 1600.0, 15_000.0, 1000.0)))
    assert found.measured == "15.0 (10.0 to 16.0)"
    assert found.verdict == "met"


def test_two_workers_cost_as_much_as_one() -> None:
    one = costs(ONE, 500.0, 500.0, 500.0)
    found = worker_cost(comparison(one, costs(TWO, 540.0, 550.0, 700.0)), NEW)
    assert found.measured == "1.10 (1.08 to 1.40)"
    assert found.verdict == "met, short of the aim by 10%"
    found = worker_cost(comparison(one, costs(TWO, 605.0, 605.0, 605.0)), NEW)
    assert found.verdict == "missed by 10%"


def test_shares_are_looked_at_turn_by_turn() -> None:
    uneven = [turn(shares=(0.75, 0.25)), turn(shares=(0.25, 0.75)), turn(shares=(0.5, 0.5))]
    found = worker_shares(comparison(Case(PUT, TWO, uneven)), PUT)
    assert (found.measured, found.verdict) == ("75% (50% to 75%)", "missed by 25%")
    even = [turn(shares=(0.42, 0.58)), turn()]
    assert worker_shares(comparison(Case(PUT, TWO, even)), PUT).verdict == "met"


def step(factor: float, p99_ms: float = 20.0, large_ms: float = 60.0, errors: int = 0) -> Step:
    latency = {
        "all": Latency(9000, 1.0, 2.0, 3.0, 900.0),
        "entry read": Latency(5000, 1.0, 2.0, 3.0, 90.0),
        "artifact stored": Latency(500, 1.0, 2.0, p99_ms, 900.0),
        LARGE_WRITE: Latency(50, 1.0, 2.0, large_ms, 900.0),
    }
    wrong = {"entry stored: 409": errors} if errors else {}
    return Step(factor, 1000.0, 1000.0, wrong, latency, {}, {}, 0.1)


def mixed(*steps: Step, contestant: str = TWO, gave: str = "nothing up to 8x") -> Mixed:
    latency = Latency(1, 0.2, 0.3, 0.4, 0.5)
    return Mixed(MACHINE, 5.0, 20_000.0, latency, [Farm(contestant, list(steps), gave)], [])


def test_farms_count_up_to_the_first_that_is_slow() -> None:
    four = (step(1.0), step(2.0), step(4.0))
    found = farms(mixed(*four, step(6.0, p99_ms=60.0)))
    assert found.measured == "4; with 6: artifact stored, p99 60 ms"
    assert found.verdict == "met, short of the aim by 33%"
    assert farms(mixed(*four, step(6.0))).verdict == "met"
    found = farms(mixed(step(1.0), step(2.0, p99_ms=50.0), step(4.0)))
    assert (found.measured, found.verdict) == (
        *("1; with 2: artifact stored, p99 50 ms", "missed by 75%"),
    )


def test_large_artifacts_may_take_longer() -> None:
    assert what_is_wrong(step(1.0, large_ms=99.0)) == ""
    assert what_is_wrong(step(1.0, large_ms=100.0)) == f"{LARGE_WRITE}, p99 100 ms"


def test_an_error_is_too_much() -> None:
    assert what_is_wrong(step(1.0, errors=1)) == "1 error"
    assert what_is_wrong(step(1.0, 80.0, errors=2)) == "2 errors, artifact stored, p99 80 ms"
    nothing = replace(step(1.0, errors=5), operations={})
    assert what_is_wrong(nothing) == "5 errors, nothing ended well"


def test_what_gave_before_it_was_slow_is_told() -> None:
    found = farms(mixed(step(1.0), step(2.0), gave="at 2x: 900 operations/s of 1,000"))
    assert found.measured == "2; at 2x: 900 operations/s of 1,000"
    assert found.verdict == "missed by 50%"


def scale(*sizes: tuple[int, float, float]) -> Scale:
    return Scale(
        MACHINE,
        1.0,
        [
            Size(stored, Spread(began, began, began), (0, 0), [costs(ONE, cost, cost, 9 * cost)])
            for stored, began, cost in sizes
        ],
    )


def test_start_and_cost_with_many_artifacts() -> None:
    found = scale((1_000, 0.5, 980.0), (100_000, 9.0, 5000.0), (1_000_000, 1.5, 1180.0))
    assert start(found).verdict == "met"
    assert growth(found, NEW).measured == "1.20"
    assert growth(found, NEW).verdict == "met"
    assert growth(found, HIT).verdict == NOT_MEASURED
    slow = scale((1_000, 0.5, 980.0), (1_000_000, 3.0, 2380.0))
    assert start(slow).verdict == "missed by 50%"
    assert growth(slow, NEW).verdict == "missed by 100%"


def test_start_after_a_power_cut() -> None:
    cut = Recovery(MACHINE, 1, 1, 1, Spread(6.0, 5.0, 8.0), Spread(1.0, 1.0, 1.0))
    assert recovery(cut).measured == "6.00 (5.00 to 8.00)"
    assert recovery(cut).verdict == "missed by 20%"


def test_what_bounds_a_target_is_told_once_and_only_if_it_is_missed() -> None:
    other = rates(NEW, OTHER_BEHIND_NGINX, 1000.0)
    ours_all = (rates(NEW, TWO, 1000.0), rates(NEW, ours(2, "relaxed"), 900.0))
    found = Results(comparison(other, *ours_all, rates(PUT, TWO, 500.0)))
    (bound,) = bounds_of(targets(found))
    assert bound.startswith(f"*{NEW}, 2 workers, relaxed")
    assert f"*; *{PUT}, 2 workers, fsync" in bound


def test_fewer_artifacts_do_not_stand_for_a_million() -> None:
    found = scale((1_000, 0.5, 980.0), (100_000, 0.5, 980.0))
    assert start(found).verdict == growth(found, NEW).verdict == NOT_MEASURED


@pytest.mark.parametrize(
    "results",
    [
        Results(),
        Results(
            comparison(rates(NEW, ONE, 1.0), rates(READ, OTHER_BEHIND_NGINX, 1.0)),
            mixed=mixed(step(1.0), contestant=ONE),
            scale=scale((1_000, 0.5, 100.0)),
        ),
    ],
)
def test_what_is_not_measured_is_neither_met_nor_missed(results: Results) -> None:
    assert {(each.measured, each.verdict) for each in targets(results)} == {("", NOT_MEASURED)}


def test_by_how_much() -> None:
    assert [at_least(value, 10.0) for value in (10.0, 9.0, 9.99)] == [
        *("met", "missed by 10%", "missed by 0.1%")
    ]
    assert [at_most(value, 10.0) for value in (10.0, 11.0)] == ["met", "missed by 10%"]


def remote(case: str, ours: float, buildgrid: float | None = None) -> Remote:
    found = [Calls(case, OURS, [ours], [1.0])]
    if buildgrid is not None:
        found.append(Calls(case, BUILDGRID, [buildgrid], [1.0]))
    return Remote(MACHINE, 1.0, found, 0, [], [])


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (remote(ACTION, 2500.0), "met"),
        (remote(ACTION, 2000.0), "missed by 20%"),
        (remote(ACTION, 2700.0, 1000.0), "missed by 10%"),
        (remote(ACTION, 3000.0, 1000.0), "met"),
        (remote(READ_STREAM, 300.0, 1000.0), "met"),
    ],
)
def test_calls_have_to_be_fast_by_themselves_and_beside_another_server(
    found: Remote, verdict: str
) -> None:
    assert calls(found, found.calls[0].case).verdict == verdict
    assert calls(None, ACTION).verdict == NOT_MEASURED


def shared(refused: int = 0, outage_seconds: float = 60.0, longest_ms: float = 270.0) -> Shared:
    took = Latency(100, 5.0, 5.0, 5.0, longest_ms)
    return Shared(
        MACHINE,
        5.0,
        [Beside(HITS, [96.0, 900.0, 90.0], [100.0, 1000.0, 90.0]), Beside(UPLOADS, [24.0], [20.0])],
        0.1,
        1.0,
        dict.fromkeys((FIRST_MISS, PULLED, SILENT, KNOWN_SILENT), took),
        1500.0,
        0,
        Outage(outage_seconds, 9600, refused, 20.0, 600.0, 495.0),
        20_000,
        [40_000.0, 50_000.0],
        {REPLICATOR: 30 << 20, FETCHER: 90 << 20},
    )


def test_bucket_may_cost_little_and_lag_little() -> None:
    found = {each.what: each for each in shared_targets(shared())}
    missed = {what: each.verdict for what, each in found.items() if each.verdict != "met"}
    assert missed == {
        "p99 of an upload's 204, with a bucket, of that without": "missed by 9%",
        "p99 of an entry's 204, with a bucket, of that without": NOT_MEASURED,
        "repeated misses, with a bucket, of that without": NOT_MEASURED,
        "CPU time for each of them": "missed by 10%",
        f"memory of the {FETCHER}": "missed by 50%",
    }
    assert found["hits, with a bucket, of that without"].measured == "0.96 (0.90 to 1.00)"


def test_short_outage_does_not_stand_for_a_minute_and_nothing_may_be_refused() -> None:
    found = shared_targets(shared(refused=2, outage_seconds=5.0))
    [catch_up] = [each for each in found if each.what.startswith("catch-up")]
    assert catch_up.verdict == NOT_MEASURED
    assert found[-1].verdict == "missed, 2 of them"
