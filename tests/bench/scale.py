"""Whether the service is slower, or larger, the more is stored."""

import time
from collections.abc import Callable
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path

from cache_actors.cli.dev.tuist import StandInTuist
from tests.support.service import Service

from .cases import HIT, NEW, PUT, READ
from .contestants import (
    CACHE_ACTORS,
    KEYVALUE,
    STORE_KEYVALUE,
    Contestant,
    cache_actors,
    scratch_folder,
    storage_in,
)
from .entrant import Entrant
from .failure import BenchmarkFailed
from .figures import spread
from .fill import fill
from .machine import describe
from .names import PROJECT, SMALL, STORED, TOKEN, artifact_id, new_entry, payload
from .plan import Plan
from .processes import allow_open_files
from .results import Case, Scale, Size, Turn
from .wrk import Ask

STARTS = 3
START_SECONDS = 30.0

OPEN_FILES = 131_072
"""As many as nginx may have open in production. It keeps 20,000 open in each of three caches."""

LOOK_SECONDS = 0.005


def measure_scale(plan: Plan, say: Callable[[str], None]) -> Scale:
    """Measure with more and more artifacts, and as many entries."""
    sizes = []
    spread_over = plan.sizes[-1]
    allowed = allow_open_files(OPEN_FILES)
    if allowed < OPEN_FILES:
        spread_over = allowed // 4
        say(f"only {allowed:,} open files are allowed: reads are of {spread_over:,} artifacts")
    with scratch_folder() as scratch:
        storage, stored = storage_in(scratch, "cas"), 0
        for size in plan.sizes:
            say(f"making {size:,} artifacts and entries")
            fill(storage, stored, size)
            stored = size
            say(f"asking for some of {size:,}")
            sizes.append(_measure(plan, scratch, storage, size, min(size, spread_over)))
    return Scale(machine=describe(), seconds=plan.turn_seconds, sizes=sizes)


def _measure(plan: Plan, scratch: Path, storage: Path, stored: int, asked: int) -> Size:
    starts = [seconds_to_start(storage) for _ in range(STARTS)]
    with cache_actors(storage) as (ours, service):
        before = service.resident_bytes()
        entrants = _entrants(ours, scratch, asked)
        turns: list[list[Turn]] = [[] for _ in entrants]
        for _ in range(plan.size_turns):
            for entrant, of_entrant in zip(entrants, turns, strict=True):
                of_entrant.append(entrant.turn(plan.turn_seconds))
        after = service.resident_bytes()
    cases = [
        Case(entrant.case, entrant.contestant.name, of_entrant)
        for entrant, of_entrant in zip(entrants, turns, strict=True)
    ]
    return Size(stored, spread(starts), (before, after), cases)


def _entrants(ours: Contestant, scratch: Path, asked: int) -> list[Entrant]:
    body, entry = scratch / "body", scratch / "entry"
    body.write_bytes(payload(SMALL))
    entry.write_bytes(new_entry("{id}", artifact_id(STORED, 0)))
    path = CACHE_ACTORS.path
    return [
        Entrant(READ, ours, Ask("GET", path, "cas", STORED, asked)),
        Entrant(HIT, ours, Ask("GET", KEYVALUE, "keyvalue", STORED, asked)),
        Entrant(NEW, ours, Ask("POST", path, "cas", STORED, 0, body)),
        Entrant(PUT, ours, Ask("PUT", STORE_KEYVALUE, "keyvalue", STORED, 0, entry)),
    ]


def seconds_to_start(storage: Path, workers: int = 1) -> float:
    """From the start of the service to its first 200 of `/up`."""
    with StandInTuist({TOKEN: [str(PROJECT)]}) as tuist:
        service = Service(storage, tuist.url, {"WORKERS": str(workers)})
        began = time.monotonic()
        service.start(wait=False)
        try:
            while not _is_up(service.port):
                if time.monotonic() - began > START_SECONDS:
                    raise BenchmarkFailed(f"The service does not start:\n{service.log_tail()}")
                time.sleep(LOOK_SECONDS)
            return time.monotonic() - began
        finally:
            service.stop()


def _is_up(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/up")
        return connection.getresponse().status == HTTPStatus.OK
    except OSError:
        return False
    finally:
        connection.close()
