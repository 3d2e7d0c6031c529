"""What a run has found out, as it is kept in JSON."""

from pathlib import Path

import msgspec

from .figures import Spread


class Machine(msgspec.Struct, frozen=True):
    """Where, and in what company, a part was measured.

    Attributes:
        loads: the load average over a minute, before and after.
    """

    date: str
    cores: int
    processor: str
    memory_bytes: int
    kernel: str
    disk: str
    versions: dict[str, str]
    loads: tuple[float, float]


class Turn(msgspec.Struct, frozen=True):
    """One contestant's turn at one case.

    Attributes:
        rate: answers per second.
        p50_ms, p99_ms: percentiles of the latency.
        cpu_us: CPU time of each part for one answer, in microseconds.
        wrk_busy: which part of a core wrk used, or what else sent the requests.
        shares: which part of the requests that it answered each worker of the service had.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: dict[str, float]
    wrk_busy: float
    shares: list[float]


class Case(msgspec.Struct, frozen=True):
    """All turns of one contestant at one case."""

    case: str
    contestant: str
    turns: list[Turn]


class Comparison(msgspec.Struct, frozen=True):
    """The service and others, asked in turns."""

    machine: Machine
    seconds: float
    rounds: int
    cases: list[Case]
    skipped: list[str]


class Pair(msgspec.Struct, frozen=True):
    """Two versions at the same case, in turns.

    Attributes:
        case: what was asked for.
        service: how the service ran.
        before, after: the turns of each, round by round.
    """

    case: str
    service: str
    before: list[Turn]
    after: list[Turn]


class Versions(msgspec.Struct, frozen=True):
    """An earlier version of the service beside this one, asked without nginx.

    Attributes:
        before, after: which versions these are.
    """

    machine: Machine
    seconds: float
    rounds: int
    before: str
    after: str
    pairs: list[Pair]
    skipped: list[str]


class Latency(msgspec.Struct, frozen=True):
    """How long operations took from when they were due, in milliseconds."""

    count: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    most_ms: float


class Step(msgspec.Struct, frozen=True):
    """A build farm of one size, for a while.

    Attributes:
        factor: how many farms' load it was.
        offered: operations that were due, in a second.
        achieved: operations that were complete, in a second.
        errors: how many did not end as they should, by what they ended with.
        operations: latencies of each kind, and of all.
        busy: which part of a core nginx, the service and the generator used.
        memory_bytes: what each part took at the end.
        late_ms: how late the generator sent at worst.
    """

    factor: float
    offered: float
    achieved: float
    errors: dict[str, int]
    operations: dict[str, Latency]
    busy: dict[str, float]
    memory_bytes: dict[str, int]
    late_ms: float


class Farm(msgspec.Struct, frozen=True):
    """One contestant under a growing load."""

    contestant: str
    steps: list[Step]
    gave: str


class Mixed(msgspec.Struct, frozen=True):
    """The load of a build farm.

    Attributes:
        generator_limit: requests per second that the generator can make of a bare nginx at most.
        generator_floor: the latency of a bare nginx, as the generator sees it at a farm's rate.
    """

    machine: Machine
    seconds: float
    generator_limit: float
    generator_floor: Latency
    farms: list[Farm]
    skipped: list[str]


class Size(msgspec.Struct, frozen=True):
    """The service with so many artifacts, and as many entries.

    Attributes:
        start_seconds: from its start to the first 200 of `/up`.
        resident_bytes: memory after its start, and in the end.
        cases: cost of each operation: CPU time of all in microseconds, and rate.
    """

    stored: int
    start_seconds: Spread
    resident_bytes: tuple[int, int]
    cases: list[Case]


class Scale(msgspec.Struct, frozen=True):
    """The service with more and more that is stored."""

    machine: Machine
    seconds: float
    sizes: list[Size]


class Recovery(msgspec.Struct, frozen=True):
    """Starts after a power cut, and without one.

    Attributes:
        artifacts, entries: how many are stored again.
        log_bytes: what the logs take.
        start_seconds: until the first 200 of `/up`.
        usual_seconds: the same of the next start.
    """

    machine: Machine
    artifacts: int
    entries: int
    log_bytes: int
    start_seconds: Spread
    usual_seconds: Spread


class Calls(msgspec.Struct, frozen=True):
    """All turns of one contestant at one method of the Remote Execution API.

    Attributes:
        rates: in the unit of the case, in a second.
        cpu_us: CPU time of all its processes for one call, in microseconds.
    """

    case: str
    contestant: str
    rates: list[float]
    cpu_us: list[float]


class Builds(msgspec.Struct, frozen=True):
    """Builds with one cache, or none, in seconds."""

    way: str
    seconds: list[float]


class Remote(msgspec.Struct, frozen=True):
    """The Remote Execution API, in turns, and builds of many small actions that are all hits."""

    machine: Machine
    seconds: float
    calls: list[Calls]
    actions: int
    builds: list[Builds]
    skipped: list[str]


class Beside(msgspec.Struct, frozen=True):
    """A case at a node with a bucket and at one without, round by round.

    Attributes:
        case: what was measured, and its unit.
    """

    case: str
    shared: list[float]
    alone: list[float]


class Outage(msgspec.Struct, frozen=True):
    """An outage of the bucket, in which half a build farm stored, and what came after it.

    Attributes:
        seconds: how long it lasted.
        objects: artifacts and entries that were stored meanwhile.
        refused: those that were not acknowledged, then or until the end.
        catch_up_seconds: from its end until all but the latest was in the bucket.
        rate: objects put in a second, from the first on.
        cpu_us: CPU time of the process that puts, for one object, in microseconds.
    """

    seconds: float
    objects: int
    refused: int
    catch_up_seconds: float
    rate: float
    cpu_us: float


class Shared(msgspec.Struct, frozen=True):
    """Nodes with a bucket.

    Attributes:
        seconds: for each turn of a build farm's stores.
        beside: what nodes without a bucket do too.
        lag_p50_seconds, lag_p99_seconds: from the storing of a file to its being in the bucket, at
            a farm's rate, by the histogram.
        reads: how long reads took that had to ask the bucket, or could not.
        misses_rate: first-time misses in a second.
        missed: entries that did not come from the bucket in time.
        outage: the outage.
        walked: number of files that a walk looked at.
        walk_rates: files in a second of CPU time, walk by walk.
        memory_bytes: of each process that asks the bucket, in the end.
    """

    machine: Machine
    seconds: float
    beside: list[Beside]
    lag_p50_seconds: float
    lag_p99_seconds: float
    reads: dict[str, Latency]
    misses_rate: float
    missed: int
    outage: Outage
    walked: int
    walk_rates: list[float]
    memory_bytes: dict[str, int]


class Results(msgspec.Struct):
    """All parts that have been measured, each when it was measured last."""

    comparison: Comparison | None = None
    versions: Versions | None = None
    mixed: Mixed | None = None
    scale: Scale | None = None
    remote: Remote | None = None
    recovery: Recovery | None = None
    shared: Shared | None = None


def load(path: Path) -> Results:
    """What is in the file, if there is one."""
    return msgspec.json.decode(path.read_bytes(), type=Results) if path.exists() else Results()


def save(results: Results, path: Path) -> None:
    """Write it, to be read by people too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
