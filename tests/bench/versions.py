"""An earlier version of the service beside this one: what it answers itself, asked in turns.

wrk takes the place of nginx: it asks what nginx would have passed on, with the header that nginx
adds, over 32 connections that are kept. So the figures are of the service alone.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cache_actors.cli.dev.tuist import StandInTuist
from tests.support.service import Service, running_service

from .cases import DECISION, NEW, PUT, way_of
from .checkout import Version, version_of, working_tree
from .contestants import CACHE_ACTORS, STORE_KEYVALUE, Contestant, scratch_folder, storage_in
from .entrant import Entrant
from .machine import describe
from .names import PROJECT, QUERY, SMALL, STORED, TOKEN, artifact_id, new_entry, payload
from .plan import Plan
from .results import Pair, Versions
from .rounds import take_turns
from .store import store
from .wrk import Ask

BEFORE = "c4fe580"
"""The last commit before the work on what a request costs the service itself."""

DECIDE = f"/_auth_cas?{QUERY}"
AS_NGINX = ("X-Request-ID: 0123456789abcdef0123456789abcdef",)


def compare_versions(
    plan: Plan, commit: str, checkouts: Path, say: Callable[[str], None]
) -> Versions:
    """Measure both.

    Args:
        plan: how long.
        commit: the earlier version.
        checkouts: a folder for earlier versions.
        say: told how it goes.

    Raises:
        NotHere: git does not have the commit, or it cannot run here.
    """
    say(f"checking out {commit}, unless it is there")
    before, after = version_of(commit, checkouts), working_tree()
    for version in (before, after):
        version.check()
    end = time.monotonic() + plan.versions_seconds
    skipped: list[str] = []
    with ExitStack() as stack:
        scratch = stack.enter_context(scratch_folder())
        pairs = [
            (theirs, ours)
            for workers, durability in _ways(before, after, skipped)
            for theirs, ours in zip(
                *(
                    _entrants(
                        stack.enter_context(_running(version, side, scratch, workers, durability)),
                        scratch,
                    )
                    for side, version in (("before", before), ("after", after))
                ),
                strict=True,
            )
        ]
        pairs.sort(key=lambda pair: (NEW, PUT, DECISION).index(pair[0].case))
        turns = take_turns([entrant for pair in pairs for entrant in pair], plan, end, say)
    return Versions(
        machine=describe(),
        seconds=plan.turn_seconds,
        rounds=len(turns[0]),
        before=before.name,
        after=after.name,
        pairs=[
            Pair(theirs.case, theirs.contestant.name, turns[2 * number], turns[2 * number + 1])
            for number, (theirs, _) in enumerate(pairs)
        ],
        skipped=skipped,
    )


def _ways(before: Version, after: Version, skipped: list[str]) -> Iterator[tuple[int, str]]:
    """The numbers of workers and the durabilities that both versions know."""
    for workers in (1, 2):
        if workers > 1 and not (before.knows_workers() and after.knows_workers()):
            skipped.append(f"Not both versions know WORKERS={workers}")
            return
        for durability in ("fsync", "relaxed"):
            yield workers, durability


@contextmanager
def _running(
    version: Version, side: str, scratch: Path, workers: int, durability: str
) -> Iterator[Contestant]:
    """A version of the service, without nginx."""
    storage = storage_in(scratch, f"{side}-{workers}-{durability}")
    environment = version.environment | {"WORKERS": str(workers), "DURABILITY": durability}
    with StandInTuist({TOKEN: [str(PROJECT)]}) as tuist:
        service = Service(storage, tuist.url, environment, version.command)
        with running_service(service):
            assert service.process is not None
            version.check_process(service.process.pid)
            yield Contestant(
                way_of(workers, durability),
                CACHE_ACTORS,
                service.url,
                storage,
                {"service": service.process.pid},
                syncs=durability == "fsync",
                has_entries=True,
                workers=workers,
                log=service.log,
            )


def _entrants(contestant: Contestant, scratch: Path) -> list[Entrant]:
    """What a version is asked, after it has stored the artifact that entries refer to."""
    body, entry = scratch / "body", scratch / "entry"
    body.write_bytes(payload(SMALL))
    entry.write_bytes(new_entry("{id}", artifact_id(STORED, 0)))
    store(contestant, 1, lambda _: SMALL, entries=False)
    path = CACHE_ACTORS.path
    asks = {
        NEW: Ask("POST", path, "cas", STORED, 0, body, headers=AS_NGINX),
        PUT: Ask("PUT", STORE_KEYVALUE, "keyvalue", STORED, 0, entry, headers=AS_NGINX),
    }
    if contestant.syncs:  # a decision syncs nothing: one of the two ways is enough
        asks[DECISION] = Ask("GET", DECIDE, "cas", STORED, 1, headers=AS_NGINX)
    return [Entrant(case, contestant, ask) for case, ask in asks.items()]
