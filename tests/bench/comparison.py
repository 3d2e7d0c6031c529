"""The service, a bare nginx and another build cache, asked for the same in turns.

A machine with other work on it is fast now and slow then. So all run at the same time, each turn is
short, and a round has a turn of everybody at everything.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from . import turborepo as other
from .cases import (
    DUPLICATE,
    GRADLE_NEW,
    GRADLE_READ,
    HIT,
    LARGE_NEW,
    MISS,
    MODULE_READ,
    NEW,
    NGINX_SYNCED,
    PUT,
    READ,
)
from .contestants import (
    GRADLE,
    KEYVALUE,
    MODULE,
    PLAIN_FILES,
    STORE_KEYVALUE,
    Contestant,
    bare_nginx,
    cache_actors,
    scratch_folder,
    storage_in,
    turborepo,
)
from .entrant import Entrant
from .failure import NotHere
from .large import LargeUploads
from .machine import describe
from .names import SMALL, STORED, artifact_id, new_entry, payload
from .plan import Plan
from .results import Case, Comparison
from .rounds import take_turns
from .store import store, store_gradle_outputs_and_modules
from .wrk import Ask

ARTIFACTS = 256
"""So many are read, and uploaded again."""

MODULES = 64
"""So many modules, and outputs of Gradle, are read."""


def compare(plan: Plan, installed: Path, say: Callable[[str], None]) -> Comparison:
    """Measure everybody.

    Args:
        plan: how long.
        installed: a folder in which to install the other cache.
        say: told how it goes.
    """
    skipped: list[str] = []
    _install(installed, skipped, say)
    end = time.monotonic() + plan.comparison_seconds
    with ExitStack() as stack:
        scratch = stack.enter_context(scratch_folder())
        entrants: list[Entrant | LargeUploads] = []
        for contestant in _contestants(stack, scratch, installed, skipped):
            entrants += _entrants(contestant, scratch)
            entrants += _large(contestant)
        entrants.sort(key=lambda entrant: _CASES.index(entrant.case))
        turns = take_turns(entrants, plan, end, say)
    versions = {} if any("turborepo" in each for each in skipped) else other.versions(installed)
    return Comparison(
        machine=describe(versions),
        seconds=plan.turn_seconds,
        rounds=len(turns[0]),
        cases=[
            Case(entrant.case, entrant.contestant.name, of_entrant)
            for entrant, of_entrant in zip(entrants, turns, strict=True)
        ],
        skipped=skipped,
    )


_CASES = [READ, GRADLE_READ, MODULE_READ, DUPLICATE, HIT, MISS, NEW, GRADLE_NEW, PUT, LARGE_NEW]


def _install(installed: Path, skipped: list[str], say: Callable[[str], None]) -> None:
    """Have the other cache there; downloading it does not count as time of the run."""
    try:
        say("installing turborepo-remote-cache, unless it is there")
        other.install(installed)
    except NotHere as reason:
        skipped.append(str(reason))


def _contestants(
    stack: ExitStack, scratch: Path, installed: Path, skipped: list[str]
) -> Iterator[Contestant]:
    """Everybody who can be had here, up and running."""
    yield stack.enter_context(bare_nginx(scratch))
    if not skipped:
        yield from stack.enter_context(turborepo(installed, scratch))
    for workers in (1, 2):
        for relaxed in (False, True):
            storage = storage_in(scratch, f"cas-{workers}-{'relaxed' if relaxed else 'fsync'}")
            try:
                ours, _ = stack.enter_context(
                    cache_actors(storage, workers=workers, relaxed=relaxed)
                )
            except NotHere as reason:
                skipped.append(str(reason))
                break
            yield ours


def _entrants(contestant: Contestant, scratch: Path) -> Iterator[Entrant]:
    """What a contestant is asked, after it has stored what is read."""
    body, entry = scratch / "body", scratch / "entry"
    body.write_bytes(payload(SMALL))
    entry.write_bytes(new_entry("{id}", artifact_id(STORED, 0)))
    store(contestant, ARTIFACTS, lambda _: SMALL, entries=contestant.has_entries)
    api = contestant.api
    # What nginx answers alone does not depend on how the service runs: one of its ways is enough.
    if contestant.workers == 1 and (contestant.syncs or not contestant.has_entries):
        yield Entrant(READ, contestant, Ask("GET", api.path, "cas", STORED, ARTIFACTS))
        yield Entrant(
            DUPLICATE, contestant, Ask(api.method, api.path, "cas", STORED, ARTIFACTS, body)
        )
        if contestant.has_entries:
            store_gradle_outputs_and_modules(contestant, MODULES)
            read_gradle, read_module = (
                Ask("GET", path, "cas", STORED, MODULES) for path in (GRADLE, MODULE)
            )
            yield Entrant(GRADLE_READ, contestant, read_gradle)
            yield Entrant(MODULE_READ, contestant, read_module)
            missing = "missing".ljust(16, "0")
            yield Entrant(HIT, contestant, Ask("GET", KEYVALUE, "keyvalue", STORED, ARTIFACTS))
            yield Entrant(
                MISS,
                contestant,
                Ask("GET", KEYVALUE, "keyvalue", missing, ARTIFACTS, refused=True),
            )
    yield Entrant(NEW, contestant, Ask(api.method, api.path, "cas", STORED, 0, body))
    if contestant.has_entries:
        yield Entrant(GRADLE_NEW, contestant, Ask("PUT", GRADLE, "cas", STORED, 0, body))
        yield Entrant(PUT, contestant, Ask("PUT", STORE_KEYVALUE, "keyvalue", STORED, 0, entry))


def _large(contestant: Contestant) -> Iterator[LargeUploads]:
    """One at a time, so that one worker is enough; nginx also with the sync that it leaves out."""
    if contestant.api is PLAIN_FILES:
        yield LargeUploads(LARGE_NEW, contestant)
        yield LargeUploads(LARGE_NEW, replace(contestant, name=NGINX_SYNCED), synced=True)
    elif contestant.syncs and contestant.workers == 1:
        yield LargeUploads(LARGE_NEW, contestant)
