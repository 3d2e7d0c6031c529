"""What the service is to come to, and whether it does. Pure functions of a run's results.

Ratios are medians of those of the same round, as everywhere.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from .bucket import (
    FETCHER,
    FIRST_MISS,
    HITS,
    KNOWN_SILENT,
    MISSES,
    PULLED,
    PUTS,
    REPLICATOR,
    SILENT,
    UPLOADS,
)
from .cases import HIT, NEW, OTHER_BEHIND_NGINX, PUT, READ, ours
from .figures import Spread, ratios, spread
from .remote_execution import ACTION, BUILDGRID, OURS, READ_BATCH
from .remote_execution import READ as READ_STREAM
from .results import Comparison, Farm, Mixed, Remote, Results, Scale, Shared, Size, Step
from .summary import cost_ratio, cpu_us, rate_ratio, turns_of

MIN_UPLOADS, UPLOADS_AIM = 0.6, 1.0
"""New uploads, of those of the other cache."""

MIN_READS = 15.0
"""Reads, of those of the other cache."""

MAX_WORKER_COST = 1.1
"""CPU time of a request with two workers, of that with one."""

MAX_SHARE = 0.6
"""The larger share of two workers; the other one has 40 % then."""

FARMS, FARM_P99_MS = 2.0, 50.0
"""So many farms, and the latency that an operation in a hundred may have, in milliseconds."""

START_SECONDS = 2.0
MAX_COST_GROWTH = 1.2
"""CPU time of an operation with many artifacts, of that with few."""

FEW, MANY = 1_000, 1_000_000
"""Artifacts."""

CALLS = {ACTION: 2_500.0, READ_BATCH: 15_000.0, READ_STREAM: 300.0}
TIMES_BUILDGRID = 3.0
"""Rates of calls, and how many times BuildGrid's they are to be; but for the stream, which the
network limits before."""

SHARED_RATES, SHARED_WAITS = 0.95, 1.1
"""Rates, and times until an acknowledgement, with a bucket, of those without."""

OUTAGE_SECONDS = 60.0
"""Outages of the bucket that are shorter are easier to catch up with."""

NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Target:
    """A target, and what has been measured.

    Attributes:
        what: what is looked at.
        wanted: what it is to come to.
        measured: what it came to; empty if nobody has looked.
        verdict: `met`, `missed` and by how much, or that it is not measured.
    """

    what: str
    wanted: str
    measured: str
    verdict: str


def targets(results: Results) -> list[Target]:
    """All of them, whether they have been measured or not."""
    return [
        uploads(results.comparison),
        reads(results.comparison),
        *(worker_cost(results.comparison, case) for case in (NEW, PUT)),
        *(worker_shares(results.comparison, case) for case in (NEW, PUT)),
        farms(results.mixed),
        start(results.scale),
        *(growth(results.scale, case) for case in (READ, HIT, NEW, PUT)),
        *(calls(results.remote, case) for case in CALLS),
        *shared_targets(results.shared),
    ]


# --- In turns -------------------------------------------------------------------------------------


def uploads(comparison: Comparison | None) -> Target:
    """New durable uploads with two workers, beside the other cache, which does not sync."""
    what = f"{NEW}, 2 workers, fsync: rate, of that of {OTHER_BEHIND_NGINX}"
    wanted = f"at least {MIN_UPLOADS:g}, aim {UPLOADS_AIM:g}"
    found = rate_ratio(comparison, NEW, ours(2, "fsync"), OTHER_BEHIND_NGINX)
    if found is None:
        return _not_measured(what, wanted)
    verdict = at_least(found.median, MIN_UPLOADS)
    if verdict == "met" and found.median < UPLOADS_AIM:
        verdict = f"met, {_percent(1 - found.median / UPLOADS_AIM)} short of the aim"
    return Target(what, wanted, _ratio(found), verdict)


def reads(comparison: Comparison | None) -> Target:
    """Reads, which nginx answers whatever the number of workers, beside the other cache."""
    what = f"{READ}: rate, of that of {OTHER_BEHIND_NGINX}"
    wanted = f"at least {MIN_READS:g}"
    found = rate_ratio(comparison, READ, ours(1, "fsync"), OTHER_BEHIND_NGINX)
    if found is None:
        return _not_measured(what, wanted)
    return Target(what, wanted, _ratio(found, ".1f"), at_least(found.median, MIN_READS))


def worker_cost(comparison: Comparison | None, case: str) -> Target:
    """What the service's part of a request costs with two workers, beside one."""
    what = f"{case}: service CPU time with 2 workers, of that with 1"
    wanted = f"at most {MAX_WORKER_COST:g}"
    found = cost_ratio(comparison, case, ours(2, "fsync"), ours(1, "fsync"), "service")
    if found is None:
        return _not_measured(what, wanted)
    return Target(what, wanted, _ratio(found), at_most(found.median, MAX_WORKER_COST))


def worker_shares(comparison: Comparison | None, case: str) -> Target:
    """The larger share of two workers, turn by turn: on average over turns all would be even."""
    what = f"{case}: the larger share of 2 workers in a turn"
    wanted = f"at most {MAX_SHARE:.0%}"
    turns = turns_of(comparison, case, ours(2, "fsync"))
    larger = [max(turn.shares) for turn in turns if turn.shares]
    if not larger:
        return _not_measured(what, wanted)
    found = spread(larger)
    measured = f"{found.median:.0%} ({found.least:.0%} to {found.most:.0%})"
    return Target(what, wanted, measured, at_most(found.median, MAX_SHARE))


# --- Build farms ----------------------------------------------------------------------------------


def farms(mixed: Mixed | None) -> Target:
    """Two farms on two workers: no error, and no operation that is slow."""
    what = f"{FARMS:g} build farms on 2 workers, fsync"
    wanted = f"no error, p99 of every operation under {FARM_P99_MS:g} ms"
    farm = _farm_of(mixed, ours(2, "fsync"))
    if farm is None:
        return _not_measured(what, wanted)
    step = next((step for step in farm.steps if step.factor == FARMS), None)
    if step is None:
        gave = [step for step in farm.steps if step.factor < FARMS]
        verdict = "missed before that" if gave else NOT_MEASURED
        return Target(what, wanted, farm.gave if gave else "", verdict)
    errors = sum(step.errors.values())
    if not step.operations:
        return Target(what, wanted, _count(errors), "missed, nothing ended well")
    kind, p99 = _slowest(step)
    measured = f"{_count(errors)}, p99 up to {p99:,.0f} ms ({kind})"
    reasons = [_count(errors)] if errors else []
    if p99 >= FARM_P99_MS:
        reasons.append(f"{_percent(p99 / FARM_P99_MS - 1)} over")
    return Target(what, wanted, measured, f"missed, {', '.join(reasons)}" if reasons else "met")


def _farm_of(mixed: Mixed | None, contestant: str) -> Farm | None:
    found = mixed.farms if mixed is not None else []
    return next((farm for farm in found if farm.contestant == contestant), None)


def _slowest(step: Step) -> tuple[str, float]:
    """The kind of operation with the highest p99, and that in milliseconds."""
    kinds = {kind: latency.p99_ms for kind, latency in step.operations.items() if kind != "all"}
    kind = max(kinds, key=lambda each: kinds[each])
    return kind, kinds[kind]


def _count(errors: int) -> str:
    return f"{errors:,} errors" if errors != 1 else "1 error"


# --- With more and more stored --------------------------------------------------------------------


def start(scale: Scale | None) -> Target:
    """From the start of the process to the first 200, with many artifacts."""
    what = f"start with {MANY:,} artifacts"
    wanted = f"under {START_SECONDS:g} s"
    size = _size_of(scale, MANY)
    if size is None:
        return _not_measured(what, wanted)
    found = size.start_seconds
    measured = f"{found.median:.2f} s ({found.least:.2f} to {found.most:.2f})"
    return Target(what, wanted, measured, at_most(found.median, START_SECONDS))


def growth(scale: Scale | None, case: str) -> Target:
    """What an operation costs with many artifacts, beside what it costs with few."""
    what = f"{case}: CPU time with {MANY:,} artifacts, of that with {FEW:,}"
    wanted = f"at most {MAX_COST_GROWTH:g}"
    costs = [_cost_at(scale, size, case) for size in (MANY, FEW)]
    if costs[0] is None or not costs[1]:
        return _not_measured(what, wanted)
    found = costs[0] / costs[1]
    return Target(what, wanted, f"{found:.2f}", at_most(found, MAX_COST_GROWTH))


def _size_of(scale: Scale | None, stored: int) -> Size | None:
    sizes = scale.sizes if scale is not None else []
    return next((size for size in sizes if size.stored == stored), None)


def _cost_at(scale: Scale | None, stored: int, case: str) -> float | None:
    """CPU time of all for one operation in microseconds; there are no rounds to compare."""
    size = _size_of(scale, stored)
    for each in size.cases if size is not None else ():
        if each.case == case:
            return cpu_us(each).median
    return None


# --- The Remote Execution API ---------------------------------------------------------------------


def calls(remote: Remote | None, case: str) -> Target:
    """The rate of calls with two workers, by itself and beside another server."""
    least = CALLS[case]
    what, wanted = f"{case}, 2 workers", f"at least {least:,.0f}"
    found = _rates_of(remote, case, OURS)
    other = _rates_of(remote, case, BUILDGRID) if case != READ_STREAM else None
    if case != READ_STREAM:
        wanted += f", and {TIMES_BUILDGRID:g} times BuildGrid's"
    if found is None:
        return _not_measured(what, wanted)
    measured = f"{found.median:,.0f} ({found.least:,.0f} to {found.most:,.0f})"
    if other is not None:
        least = max(least, TIMES_BUILDGRID * other.median)
        measured += f"; {found.median / other.median:.1f} times"
    return Target(what, wanted, measured, at_least(found.median, least))


def _rates_of(remote: Remote | None, case: str, contestant: str) -> Spread | None:
    for each in remote.calls if remote is not None else []:
        if (each.case, each.contestant) == (case, contestant):
            return spread(each.rates)
    return None


# --- With a bucket --------------------------------------------------------------------------------


def _mebibytes(shared: Shared, name: str) -> float:
    return shared.memory_bytes[name] / 2**20


@dataclass(frozen=True, slots=True)
class Limit:
    """A figure of the part with a bucket, and what it is to come to.

    Attributes:
        what: what is looked at.
        value: the figure, or None if this run has none that counts.
        wanted: what it is to be at most, or at least.
        unit: of both.
        is_most: whether it is to be that at most.
    """

    what: str
    value: Callable[[Shared], float | None]
    wanted: float
    unit: str = ""
    is_most: bool = True

    def target(self, shared: Shared | None) -> Target:
        """The target, and what came of it."""
        word, verdict = ("at most", at_most) if self.is_most else ("at least", at_least)
        wanted = f"{word} {self._figure(self.wanted)}"
        value = None if shared is None else self.value(shared)
        if value is None:
            return _not_measured(self.what, wanted)
        return Target(self.what, wanted, self._figure(value), verdict(value, self.wanted))

    def _figure(self, value: float) -> str:
        """A figure with its unit; a small one with places, unless it is a number of things."""
        places = 0 if not self.unit or value >= 100 else 1 if value >= 10 else 2
        return f"{value:,.{places}f} {self.unit}".rstrip()


LIMITS = (
    Limit("lag at a farm's rate, p50", lambda found: found.lag_p50_seconds, 0.3, "s"),
    Limit("lag at a farm's rate, p99", lambda found: found.lag_p99_seconds, 2.0, "s"),
    Limit(
        f"catch-up after {OUTAGE_SECONDS:g} s without S3, half a farm storing",
        lambda found: (
            found.outage.catch_up_seconds if found.outage.seconds >= OUTAGE_SECONDS else None
        ),
        40.0,
        "s",
    ),
    Limit(
        "objects put in a second, after that", lambda found: found.outage.rate, 550, is_most=False
    ),
    Limit("CPU time for each of them", lambda found: found.outage.cpu_us, 450, "µs"),
    Limit("first-time misses in a second", lambda found: found.misses_rate, 1_500, is_most=False),
    Limit(f"{FIRST_MISS}, p50", lambda found: found.reads[FIRST_MISS].p50_ms, 10, "ms"),
    Limit(f"{FIRST_MISS}, longest", lambda found: found.reads[FIRST_MISS].most_ms, 275, "ms"),
    Limit(f"{PULLED}, p50", lambda found: found.reads[PULLED].p50_ms, 25, "ms"),
    Limit(f"{PULLED}, p99", lambda found: found.reads[PULLED].p99_ms, 150, "ms"),
    Limit(f"{SILENT}, longest", lambda found: found.reads[SILENT].most_ms, 275, "ms"),
    Limit(f"{KNOWN_SILENT}, p99", lambda found: found.reads[KNOWN_SILENT].p99_ms, 5, "ms"),
    Limit(
        "files in a second of a walk's CPU time",
        lambda found: min(found.walk_rates),
        MANY / 30,
        is_most=False,
    ),
    *(
        Limit(f"memory of the {name}", partial(_mebibytes, name=name), 60, "MiB")
        for name in (REPLICATOR, FETCHER)
    ),
)
"""What is wanted of nodes with a bucket, on two cores that share them with the S3 server."""


def shared_targets(shared: Shared | None) -> list[Target]:
    """What a bucket may cost, and how far it may lag."""
    return [
        *(beside(shared, case) for case in (HITS, MISSES, UPLOADS, PUTS)),
        *(limit.target(shared) for limit in LIMITS),
        refused(shared),
    ]


def beside(shared: Shared | None, case: str) -> Target:
    """A case with a bucket, of that without one in the same round."""
    is_rate = case in (HITS, MISSES)
    what = f"{case.partition(' in')[0]}, with a bucket, of that without"
    wanted = f"at least {SHARED_RATES:g}" if is_rate else f"at most {SHARED_WAITS:g}"
    turns = shared.beside if shared is not None else []
    found = next((ratios(turn.shared, turn.alone) for turn in turns if turn.case == case), None)
    if found is None:
        return _not_measured(what, wanted)
    value = found.median
    verdict = at_least(value, SHARED_RATES) if is_rate else at_most(value, SHARED_WAITS)
    return Target(what, wanted, _ratio(found), verdict)


def refused(shared: Shared | None) -> Target:
    """What was not acknowledged in an outage of the bucket, and until the node had caught up."""
    what, wanted = "refused while S3 is stopped, and after that", "nothing"
    if shared is None:
        return _not_measured(what, wanted)
    number = shared.outage.refused
    return Target(what, wanted, f"{number:,}", f"missed, {_count(number)}" if number else "met")


# --- Verdicts -------------------------------------------------------------------------------------


def at_least(value: float, wanted: float) -> str:
    """The verdict on a value that is to be so much or more."""
    return "met" if value >= wanted else f"missed by {_percent(1 - value / wanted)}"


def at_most(value: float, wanted: float) -> str:
    """The verdict on a value that is to be so much or less."""
    return "met" if value <= wanted else f"missed by {_percent(value / wanted - 1)}"


def _not_measured(what: str, wanted: str) -> Target:
    return Target(what, wanted, "", NOT_MEASURED)


def _ratio(found: Spread, form: str = ".2f") -> str:
    return f"{found.median:{form}} ({found.least:{form}} to {found.most:{form}})"


def _percent(part: float) -> str:
    """In whole percent, unless that would be nothing."""
    return f"{part:.0%}" if part >= 0.01 else f"{part:.1%}"
