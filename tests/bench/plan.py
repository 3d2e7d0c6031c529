"""How long a run takes, and how it spends its time. Pure functions."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .farm import FACTORS, WORKERS

LONGEST, SHORTEST = 120.0, 16.0
"""Minutes. In less there would be a round or two of everything, which says nothing."""

LARGE = 26.0
"""Minutes from which on a run has the time to store a million artifacts, and to recover often."""

LARGE_SECONDS, SMALL_SECONDS = 360.0, 90.0
"""What it takes to make, to ask for and to remove a million artifacts; and a hundred thousand."""

STEP_OVERHEAD = 4.0
"""Seconds for each size of the farm in which nothing is measured: operations are made before it,
and answers waited for after it."""

FARM_SECONDS = 10.0
"""Seconds until a service stands there with what farms read."""

REMOTE_SETUP_SECONDS, TURNS_OF_CALLS = 20.0, 9
"""The Remote Execution API: until everybody runs, and turns in each round and to warm up."""

RECOVERY_SECONDS = 60.0
"""To fill logs, to recover what they have, and to start once more."""

BUILD_SECONDS, SECONDS_PER_ACTION, BUILDS = 5.0, 0.007, 5
"""A build: what it takes in any case, and for each action; and builds in a round."""

SHARED_SETUP_SECONDS, CATCH_UP_SECONDS, PULL_SECONDS = 25.0, 45.0, 0.015
"""The bucket: until all nodes run, until one has caught up after an outage, and for each pull."""

COMPARISON_PART = 0.6
"""Of the time that is left for what goes in rounds; the rest is for the versions."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, and for how long.

    Attributes:
        comparison_seconds: for the comparison, from the first start to the last turn.
        versions_seconds: the same for this version beside an earlier one.
        least_rounds: of both of them, however long they take.
        turn_seconds: for one contestant at one case; whole seconds.
        step_seconds: for each size of the build farm.
        sizes: how many artifacts are stored when it is looked how that scales.
        size_turns: turns at each case for each of these sizes.
        call_rounds: of turns at each method of the Remote Execution API.
        small_actions: how many a build has that is all hits.
        build_rounds: of such builds, beside the one that fills caches.
        recoveries: starts after a power cut.
        shared_rounds: of turns at each case with a bucket and without.
        load_seconds: for each turn of a build farm's stores there.
        outage_seconds: how long the bucket is out of reach.
        pulled: how many misses and pulls are timed.
    """

    comparison_seconds: float
    versions_seconds: float
    least_rounds: int
    turn_seconds: float
    step_seconds: float
    sizes: tuple[int, ...]
    size_turns: int
    call_rounds: int
    small_actions: int
    build_rounds: int
    recoveries: int
    shared_rounds: int
    load_seconds: float
    outage_seconds: float
    pulled: int

    def seconds(self) -> float:
        """How long all of it takes, if no farm is too large."""
        return (
            self.comparison_seconds
            + self.versions_seconds
            + farm_seconds(self.step_seconds)
            + scale_seconds(self.sizes)
            + RECOVERY_SECONDS * self.recoveries
            + remote_seconds(
                self.call_rounds, self.turn_seconds, self.small_actions, self.build_rounds
            )
            + shared_seconds(
                self.shared_rounds,
                self.turn_seconds,
                self.load_seconds,
                self.outage_seconds,
                self.pulled,
            )
        )


QUICK = Plan(
    comparison_seconds=0.0,
    versions_seconds=0.0,
    least_rounds=1,
    turn_seconds=1.0,
    step_seconds=3.0,
    sizes=(1_000, 10_000),
    size_turns=1,
    call_rounds=1,
    small_actions=100,
    build_rounds=1,
    recoveries=1,
    shared_rounds=1,
    load_seconds=2.0,
    outage_seconds=5.0,
    pulled=200,
)
"""About seven minutes, to see whether everything works. Its figures are not worth much."""


def plan_for(minutes: float) -> Plan:
    """A plan for a run of so many minutes.

    A million artifacts take five minutes to make and to remove, so short runs do with fewer. What
    farms and sizes leave goes to what is measured in rounds. More rounds say more than longer
    turns: their ratios are what counts, and a machine changes from one second to the next.
    """
    sizes = (1_000, 100_000, 1_000_000) if minutes >= LARGE else (1_000, 100_000)
    step = float(round(min(30.0, max(5.0, minutes * 60 / 72))))
    turn = 2.0 if minutes >= 40 else 1.0
    rounds, builds = (5, 3) if minutes >= 40 else (3, 1)
    actions = 2_000 if minutes >= LARGE else 200
    remote = remote_seconds(rounds, turn, actions, builds)
    recoveries = 2 if minutes >= LARGE else 1
    load, outage, pulled = 5.0, 60.0, 1_000
    shared = shared_seconds(3, turn, load, outage, pulled)
    left = minutes * 60 - farm_seconds(step) - scale_seconds(sizes) - remote - shared
    left -= RECOVERY_SECONDS * recoveries
    return Plan(
        comparison_seconds=left * COMPARISON_PART,
        versions_seconds=left * (1 - COMPARISON_PART),
        least_rounds=2,
        turn_seconds=turn,
        step_seconds=step,
        sizes=sizes,
        size_turns=3,
        call_rounds=rounds,
        small_actions=actions,
        build_rounds=builds,
        recoveries=recoveries,
        shared_rounds=3,
        load_seconds=load,
        outage_seconds=outage,
        pulled=pulled,
    )


def farm_seconds(step_seconds: float) -> float:
    """How long the build farms take: for each number of workers a start, a warm-up, all sizes.

    The generator by itself has half a step.
    """
    each = FARM_SECONDS + (1 + len(FACTORS)) * step_seconds + len(FACTORS) * STEP_OVERHEAD
    return len(WORKERS) * each + step_seconds / 2 + FARM_SECONDS


def scale_seconds(sizes: tuple[int, ...]) -> float:
    """How long it takes to measure with so many artifacts, one number after the other."""
    return LARGE_SECONDS if sizes[-1] >= 1_000_000 else SMALL_SECONDS


def remote_seconds(rounds: int, turn_seconds: float, actions: int, builds: int) -> float:
    """How long the Remote Execution API takes: turns, each with half a second more, and builds."""
    turns = TURNS_OF_CALLS * ((1 + 0.5) + rounds * (turn_seconds + 0.5))
    each = BUILD_SECONDS + SECONDS_PER_ACTION * actions
    return REMOTE_SETUP_SECONDS + turns + BUILDS * (1 + builds) * each


def shared_seconds(
    rounds: int, turn_seconds: float, load_seconds: float, outage_seconds: float, pulled: int
) -> float:
    """How long the bucket takes: two nodes at two cases and with a load, pulls, an outage."""
    turns = 2 * rounds * (2 * turn_seconds + load_seconds + 1)
    pulls = PULL_SECONDS * pulled
    return SHARED_SETUP_SECONDS + turns + pulls + outage_seconds + CATCH_UP_SECONDS


def rounds_until(
    end: float, least: int, clock: Callable[[], float] = time.monotonic
) -> Iterator[int]:
    """Number rounds from 1 on, as long as another one would be over in time.

    How long one takes is known by the longest so far: how many contestants there are, and how long
    the disk takes to catch up with them, is different on every machine.

    Args:
        end: when time is over, as `clock` has it.
        least: so many rounds there are whatever they take.
        clock: tells the time in seconds.
    """
    number, longest = 0, 0.0
    while number < least or clock() + longest <= end:
        began = clock()
        number += 1
        yield number
        longest = max(longest, clock() - began)
