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
from .cases import (
    HIT,
    LARGE_NEW,
    NEW,
    NGINX,
    OTHER_BEHIND_NGINX,
    PUT,
    READ,
    ours,
)
from .farm import LARGE_READ, LARGE_WRITE
from .figures import Spread, ratios, spread
from .large import MEBIBYTES
from .remote_execution import ACTION, BUILDGRID, OURS, READ_BATCH
from .remote_execution import READ as READ_STREAM
from .results import (
    Comparison,
    Farm,
    Mixed,
    Recovery,
    Remote,
    Results,
    Scale,
    Shared,
    Size,
    Step,
    Turn,
)
from .summary import cost_ratio, costs, cpu_us, rate_ratio, turns_of

MAX_SHARE = 0.6
"""The larger share of two workers; the other one has 40 % then."""

FARM_P99_MS, LARGE_P99_MS = 50.0, 100.0
"""The latency that one in a hundred may exceed, in milliseconds: of small operations, and of
artifacts of 2 MiB."""

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

_SHARED_CORES = (
    "the sender, nginx, event loops and writer processes share two cores, which are full: more"
    " cores, with `WORKERS`, or less Python for each request would change it"
)
_INTERRUPTED = (
    "with two workers both cores are full, and nginx and the sender interrupt each event loop 1.04"
    " times for an upload, instead of 0.46 times with one worker: more cores would change it"
)
_WITH_S3 = (
    "the S3 server, three nodes, nginx and the sender share two cores: a bucket on another machine"
    " would change it"
)
_DECISION = (
    "the subrequest for the decision (3 µs), the log line, and expressions: a decision made inside"
    " nginx, by a module of its own, would change it"
)


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure is to come to.

    Attributes:
        least: what it is to be at least.
        aim: what it should be; the same as `least` if nothing more is asked for.
        lower_is_better: whether it is to be so much at most.
    """

    least: float
    aim: float | None = None
    lower_is_better: bool = False

    def __str__(self) -> str:
        words = f"at {'most' if self.lower_is_better else 'least'} {self.least:g}"
        return words if self.aim is None else f"{words}, aim {self.aim:g}"

    def verdict(self, value: float) -> str:
        """Whether a value is what was wanted, and by how much it is not."""
        judge = at_most if self.lower_is_better else at_least
        verdict = judge(value, self.least)
        if verdict == "met" and self.aim is not None:
            return judge(value, self.aim).replace("missed by", "met, short of the aim by")
        return verdict


@dataclass(frozen=True, slots=True)
class Target:
    """A target, and what has been measured.

    Attributes:
        what: what is looked at.
        wanted: what it is to come to.
        measured: what it came to; empty if nobody has looked.
        verdict: `met`, `missed` and by how much, or that it is not measured.
        bound: what bounds it, and what would change that; told of targets that are missed.
    """

    what: str
    wanted: str
    measured: str
    verdict: str
    bound: str

    def is_missed(self) -> bool:
        """Whether it was measured, and less than wanted."""
        return self.verdict.startswith("missed")


def targets(results: Results) -> list[Target]:
    """All of them, whether they have been measured or not."""
    return [
        uploads(results.comparison, "fsync", Goal(0.9, 1.2)),
        uploads(results.comparison, "relaxed", Goal(1.1, 1.4)),
        entries(results.comparison),
        reads(results.comparison),
        *(worker_cost(results.comparison, case) for case in (NEW, PUT)),
        *(worker_shares(results.comparison, case) for case in (NEW, PUT)),
        *(durable_cost(results.comparison, workers) for workers in (1, 2)),
        large_rate(results.comparison),
        large_cost(results.comparison),
        nginx_cost(results.comparison, READ, Goal(1.2, 1.15, lower_is_better=True)),
        nginx_cost(results.comparison, HIT, Goal(1.35, 1.3, lower_is_better=True)),
        farms(results.mixed),
        start(results.scale),
        recovery(results.recovery),
        *(growth(results.scale, case) for case in (READ, HIT, NEW, PUT)),
        *(calls(results.remote, case) for case in CALLS),
        *shared_targets(results.shared),
    ]


# --- In turns -------------------------------------------------------------------------------------


def uploads(comparison: Comparison | None, durability: str, goal: Goal) -> Target:
    """New uploads with two workers, beside the other cache, which does not sync."""
    what = f"{NEW}, 2 workers, {durability}: rate, of that of {OTHER_BEHIND_NGINX}"
    found = rate_ratio(comparison, NEW, ours(2, durability), OTHER_BEHIND_NGINX)
    return _judged(what, goal, found, _SHARED_CORES)


def entries(comparison: Comparison | None) -> Target:
    """Entries stored with two workers, beside uploads of the other cache, which has no entries."""
    what = f"{PUT}, 2 workers, fsync: rate, of new uploads of {OTHER_BEHIND_NGINX}"
    found = _ratios_of_rates(
        turns_of(comparison, PUT, ours(2, "fsync")), turns_of(comparison, NEW, OTHER_BEHIND_NGINX)
    )
    return _judged(what, Goal(1.0, 1.3), found, _SHARED_CORES)


def reads(comparison: Comparison | None) -> Target:
    """Reads, which nginx answers whatever the number of workers, beside the other cache."""
    what = f"{READ}: rate, of that of {OTHER_BEHIND_NGINX}"
    found = rate_ratio(comparison, READ, ours(1, "fsync"), OTHER_BEHIND_NGINX)
    bound = (
        "wrk takes 13 µs of the same two cores for each, and a read 21: even a bare nginx is hardly"
        " faster, and a sender on another machine would change it"
    )
    return _judged(what, Goal(15.0), found, bound, ".1f")


def worker_cost(comparison: Comparison | None, case: str) -> Target:
    """What the service's part of a request costs with two workers, beside one."""
    what = f"{case}: service CPU time with 2 workers, of that with 1"
    found = cost_ratio(comparison, case, ours(2, "fsync"), ours(1, "fsync"), "service")
    return _judged(what, Goal(1.1, 1.0, lower_is_better=True), found, _INTERRUPTED)


def worker_shares(comparison: Comparison | None, case: str) -> Target:
    """The larger share of two workers, turn by turn: on average over turns all would be even."""
    what = f"{case}: the larger share of 2 workers in a turn"
    wanted = f"at most {MAX_SHARE:.0%}"
    bound = "connections are handed out evenly, and not requests: more connections would change it"
    turns = turns_of(comparison, case, ours(2, "fsync"))
    larger = [max(turn.shares) for turn in turns if turn.shares]
    if not larger:
        return Target(what, wanted, "", NOT_MEASURED, bound)
    found = spread(larger)
    measured = f"{found.median:.0%} ({found.least:.0%} to {found.most:.0%})"
    return Target(what, wanted, measured, at_most(found.median, MAX_SHARE), bound)


def durable_cost(comparison: Comparison | None, workers: int) -> Target:
    """What it costs the service that a new upload survives a power cut."""
    what = f"{NEW}, {workers} worker{'s' if workers > 1 else ''}: service CPU time with fsync,"
    found = cost_ratio(comparison, NEW, ours(workers, "fsync"), ours(workers, "relaxed"), "service")
    bound = (
        "bytes are written to a log too, which is synced once for each batch: larger batches would"
        " change it, for which more has to be asked at once"
    )
    return _judged(f"{what} of that with relaxed", Goal(1.15, lower_is_better=True), found, bound)


def large_rate(comparison: Comparison | None) -> Target:
    """Large uploads, beside nginx, which neither hashes nor syncs what it stores."""
    what = f"{LARGE_NEW}, fsync: rate, of that of {NGINX} (WebDAV)"
    found = rate_ratio(comparison, LARGE_NEW, ours(1, "fsync"), NGINX)
    bound = (
        "SHA-256 (0.75 ms/MiB) and the copies (0.35) follow each other in one thread, and then the"
        " sync: to hash in another thread would change it where a core is idle"
    )
    return _judged(what, Goal(0.6), found, bound)


def large_cost(comparison: Comparison | None) -> Target:
    """CPU time of the service for a large upload, in milliseconds for each MiB."""
    what = f"{LARGE_NEW}, fsync: service CPU time, ms/MiB"
    turns = turns_of(comparison, LARGE_NEW, ours(1, "fsync"))
    found = spread([us / 1000 / MEBIBYTES for us in costs(turns, "service")]) if turns else None
    bound = "SHA-256 takes 0.75 ms/MiB and the copies 0.35: a processor with SHA instructions helps"
    return _judged(what, Goal(2.5, lower_is_better=True), found, bound)


def nginx_cost(comparison: Comparison | None, case: str, goal: Goal) -> Target:
    """CPU time of nginx for what it answers alone, beside a file that nobody guards or logs."""
    what = f"{case}: nginx CPU time, of that of a file of {NGINX}"
    one = turns_of(comparison, case, ours(1, "fsync"))
    bare = turns_of(comparison, READ, NGINX)
    found = ratios(costs(one, "nginx"), costs(bare, "nginx")) if one and bare else None
    return _judged(what, goal, found, _DECISION)


def _ratios_of_rates(one: list[Turn], other: list[Turn]) -> Spread | None:
    if not one or not other:
        return None
    return ratios([turn.rate for turn in one], [turn.rate for turn in other])


# --- Build farms ----------------------------------------------------------------------------------


def farms(mixed: Mixed | None) -> Target:
    """How many farms two workers take without an error, and without an operation that is slow."""
    what = "build farms on 2 workers, fsync"
    goal = Goal(4, 6)
    wanted = (
        f"{goal}, without an error, p99 of artifacts of 2 MiB under {LARGE_P99_MS:g} ms, of all"
        f" else under {FARM_P99_MS:g} ms"
    )
    bound = (
        "the farms' sender, nginx and the service share two cores. An artifact of 2 MiB takes 7 ms"
        " of CPU time, and waits for a sync of its own: more cores, with `WORKERS`, would change it"
    )
    farm = _farm_of(mixed, ours(2, "fsync"))
    if farm is None or not farm.steps:
        return Target(what, wanted, "", NOT_MEASURED, bound)
    taken = 0.0
    for step in farm.steps:
        wrong = what_is_wrong(step)
        if wrong:
            measured = f"{taken:g}; with {step.factor:g}: {wrong}"
            return Target(what, wanted, measured, goal.verdict(taken), bound)
        taken = step.factor
    if taken < goal.least:
        return Target(what, wanted, f"{taken:g}; {farm.gave}", goal.verdict(taken), bound)
    return Target(what, wanted, f"{taken:g}", goal.verdict(taken), bound)


def what_is_wrong(step: Step) -> str:
    """Why so many farms are too many, in words; empty if they are not."""
    reasons = []
    errors = sum(step.errors.values())
    if errors:
        reasons.append(f"{errors:,} error{'s' if errors > 1 else ''}")
    if not step.operations:
        reasons.append("nothing ended well")
    for kind, latency in step.operations.items():
        most = LARGE_P99_MS if kind in (LARGE_READ, LARGE_WRITE) else FARM_P99_MS
        if kind != "all" and latency.p99_ms >= most:
            reasons.append(f"{kind}, p99 {latency.p99_ms:,.0f} ms")
    return ", ".join(reasons)


def _farm_of(mixed: Mixed | None, contestant: str) -> Farm | None:
    found = mixed.farms if mixed is not None else []
    return next((farm for farm in found if farm.contestant == contestant), None)


# --- With more and more stored --------------------------------------------------------------------


def start(scale: Scale | None) -> Target:
    """From the start of the process to the first 200, with many artifacts."""
    size = _size_of(scale, MANY)
    return _judged(
        f"start with {MANY:,} artifacts, seconds",
        Goal(2.0, lower_is_better=True),
        size.start_seconds if size is not None else None,
        "Python, its libraries and the processes that are started, not what is stored",
    )


def recovery(found: Recovery | None) -> Target:
    """The same after a power cut, with full logs of two workers."""
    bound = (
        "one process stores one file after the other again, at some 0.1 ms each: shorter logs would"
        " change it, checkpointed more often"
    )
    return _judged(
        "start after a power cut with full logs of 2 workers, seconds",
        Goal(5.0, lower_is_better=True),
        found.start_seconds if found is not None else None,
        bound,
    )


def growth(scale: Scale | None, case: str) -> Target:
    """What an operation costs with many artifacts, beside what it costs with few."""
    many, few = (_cost_at(scale, size, case) for size in (MANY, FEW))
    ratio = many / few if many is not None and few else None
    return _judged(
        f"{case}: CPU time with {MANY:,} artifacts, of that with {FEW:,}",
        Goal(1.2, lower_is_better=True),
        None if ratio is None else Spread(ratio, ratio, ratio),
        "folders and inodes that the kernel no longer has in memory: more memory would change it",
    )


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
    bound = (
        "of a call, two actors that are asked and a thread that looks for blobs; of a batch, five"
        " system calls for each blob: more cores, with `WORKERS`, would change it"
    )
    if found is None:
        return Target(what, wanted, "", NOT_MEASURED, bound)
    measured = f"{found.median:,.0f} ({found.least:,.0f} to {found.most:,.0f})"
    if other is not None:
        least = max(least, TIMES_BUILDGRID * other.median)
        measured += f"; {found.median / other.median:.1f} times"
    return Target(what, wanted, measured, at_least(found.median, least), bound)


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
            return Target(self.what, wanted, "", NOT_MEASURED, _WITH_S3)
        measured = self._figure(value)
        return Target(self.what, wanted, measured, verdict(value, self.wanted), _WITH_S3)

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
    goal = Goal(SHARED_RATES if is_rate else SHARED_WAITS, lower_is_better=not is_rate)
    turns = shared.beside if shared is not None else []
    found = next((ratios(turn.shared, turn.alone) for turn in turns if turn.case == case), None)
    return _judged(what, goal, found, _WITH_S3)


def refused(shared: Shared | None) -> Target:
    """What was not acknowledged in an outage of the bucket, and until the node had caught up."""
    what, wanted = "refused while S3 is stopped, and after that", "nothing"
    if shared is None:
        return Target(what, wanted, "", NOT_MEASURED, _WITH_S3)
    number = shared.outage.refused
    verdict = f"missed, {number:,} of them" if number else "met"
    return Target(what, wanted, f"{number:,}", verdict, _WITH_S3)


# --- Verdicts -------------------------------------------------------------------------------------


def at_least(value: float, wanted: float) -> str:
    """The verdict on a value that is to be so much or more."""
    return "met" if value >= wanted else f"missed by {_percent(1 - value / wanted)}"


def at_most(value: float, wanted: float) -> str:
    """The verdict on a value that is to be so much or less."""
    return "met" if value <= wanted else f"missed by {_percent(value / wanted - 1)}"


def _judged(what: str, goal: Goal, found: Spread | None, bound: str, form: str = ".2f") -> Target:
    """A target that is judged by the median."""
    if found is None:
        return Target(what, str(goal), "", NOT_MEASURED, bound)
    measured = f"{found.median:{form}}"
    if found.least < found.most:
        measured += f" ({found.least:{form}} to {found.most:{form}})"
    return Target(what, str(goal), measured, goal.verdict(found.median), bound)


def _percent(part: float) -> str:
    """In whole percent, unless that would be nothing."""
    return f"{part:.0%}" if part >= 0.01 else f"{part:.1%}"
