"""The load of build farms on the service behind nginx, more and more of them."""

import multiprocessing
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from .calibration import generator_floor, generator_limit
from .contestants import (
    STORE_KEYVALUE,
    Contestant,
    bare_nginx,
    cache_actors,
    scratch_folder,
    storage_in,
)
from .failure import NotHere
from .farm import (
    ARTIFACT_READ,
    ARTIFACT_WRITE,
    ENTRY_PUT,
    ENTRY_READ,
    FACTORS,
    LARGE_READ,
    LARGE_WRITE,
    RATES,
    WORKERS,
    Load,
    operations,
    size_of,
)
from .generator import Generator, Outcome
from .machine import describe
from .names import SMALL, STORED, artifact_id, new_entry
from .plan import Plan
from .results import Farm, Latency, Mixed, Step
from .store import store
from .summary import latency_of
from .tags import new_tag
from .wrk import Ask, run_wrk

GENERATORS = (
    (ENTRY_READ, ARTIFACT_READ, LARGE_READ),
    (ENTRY_PUT, ARTIFACT_WRITE, LARGE_WRITE),
)
"""What each of the generator's processes does. They share no connections: reads do not wait because
all of them are busy storing."""

STORED_ARTIFACTS = 500

READY_CONNECTIONS = 32
HEAD_START = 0.2
"""Seconds between the word to start and the start."""

ENOUGH_PART = 0.95
"""What has to be achieved of what is offered; with less, something has given."""

MOST_P99_MS = 1000.0
MAX_ERRORS = 0.001


def measure_mixed(plan: Plan, say: Callable[[str], None]) -> Mixed:
    """Have more and more farms build, with one worker and with two, until something gives."""
    skipped: list[str] = []
    farms: list[Farm] = []
    with scratch_folder() as scratch, bare_nginx(scratch) as bare:
        say("the generator itself")
        store(bare, STORED_ARTIFACTS, lambda _: SMALL, entries=False)
        limit, floor = (
            generator_limit(bare, plan.step_seconds / 4),
            generator_floor(bare, STORED_ARTIFACTS, plan.step_seconds / 4),
        )
    for workers in WORKERS:
        try:
            with ExitStack() as stack:
                scratch = stack.enter_context(scratch_folder())
                storage = storage_in(scratch, "cas")
                ours, _ = stack.enter_context(cache_actors(storage, workers=workers))
                store(ours, STORED_ARTIFACTS, size_of, entries=True)
                say(f"{ours.name}: warming up")
                _warm_up(ours, scratch, plan.step_seconds)
                farms.append(grow(ours, plan.step_seconds, say))
        except NotHere as reason:
            skipped.append(str(reason))
    return Mixed(
        machine=describe(),
        seconds=plan.step_seconds,
        generator_limit=limit,
        generator_floor=floor,
        farms=farms,
        skipped=skipped,
    )


def grow(contestant: Contestant, seconds: float, say: Callable[[str], None]) -> Farm:
    """More and more farms, until there are no more or something gives."""
    steps = []
    for factor in FACTORS:
        say(f"{contestant.name}: {factor:g}x a build farm")
        rates = {kind: rate * factor for kind, rate in RATES.items()}
        steps.append(_step(contestant, Load(rates, seconds, STORED_ARTIFACTS, "", 0), factor))
        contestant.tidy()
        gave = what_gave(steps[-1])
        if gave:
            return Farm(contestant.name, steps, f"at {factor:g}x: {gave}")
    return Farm(contestant.name, steps, f"nothing up to {FACTORS[-1]:g}x")


def _warm_up(contestant: Contestant, scratch: Path, seconds: float) -> None:
    """Store entries in as many folders as possible.

    The first one in a folder has to make it, and there are 4,096 of them.
    """
    body = scratch / "entry"
    body.write_bytes(new_entry("{id}", artifact_id(STORED, 0)))
    run_wrk(contestant.url, Ask("PUT", STORE_KEYVALUE, "keyvalue", new_tag(), 0, body), seconds)
    contestant.tidy()


def what_gave(step: Step) -> str:
    """What was no longer as it should be, in words; empty if nothing."""
    reasons = []
    operations = step.operations.get("all")
    if step.achieved < ENOUGH_PART * step.offered:
        reasons.append(f"{step.achieved:,.0f} operations/s of {step.offered:,.0f}")
    if operations is None or operations.p99_ms > MOST_P99_MS:
        reasons.append(f"p99 over {MOST_P99_MS:,.0f} ms")
    wrong = sum(step.errors.values())
    if wrong > MAX_ERRORS * (wrong + (operations.count if operations else 0)):
        reasons.append(f"{wrong:,} errors")
    return ", ".join(reasons)


def _step(contestant: Contestant, load: Load, factor: float) -> Step:
    """One size of the farm."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for number, kinds in enumerate(GENERATORS):
        ours, theirs = context.Pipe()
        rates = {kind: load.rates[kind] for kind in kinds}
        share = replace(load, rates=rates, tag=new_tag(), seed=number)
        process = context.Process(
            target=_generate, args=(contestant.address(), share, theirs), daemon=True
        )
        process.start()
        pipes.append(ours)
        processes.append(process)
    try:
        due = sum(pipe.recv() for pipe in pipes)
        start = time.monotonic() + HEAD_START
        before = contestant.cpu_seconds()
        for pipe in pipes:
            pipe.send(start)
        time.sleep(max(0.0, start + load.seconds - time.monotonic()))
        after, took = contestant.cpu_seconds(), time.monotonic() - start
        memory = contestant.memory_bytes()
        outcomes: list[Outcome] = [pipe.recv() for pipe in pipes]
    finally:
        for process in processes:
            process.kill()
            process.join()
    busy = {str(part): (after[part] - before[part]) / took for part in after}
    busy["generator"] = sum(outcome.cpu_seconds for outcome in outcomes) / took
    return Step(
        factor=factor,
        offered=due / load.seconds,
        achieved=sum(outcome.complete_in_time for outcome in outcomes) / load.seconds,
        errors=dict(sum((outcome.endings for outcome in outcomes), Counter())),
        operations=_latencies(outcomes),
        busy=busy,
        memory_bytes={str(part): value for part, value in memory.items()},
        late_ms=max(outcome.late for outcome in outcomes) * 1000,
    )


def _generate(address: tuple[str, int], load: Load, pipe: Connection) -> None:
    """What each of the generators' processes does."""
    due = operations(load)
    generator = Generator(address)
    generator.connect(READY_CONNECTIONS)
    pipe.send(len(due))
    pipe.send(generator.run(due, pipe.recv()))


def _latencies(outcomes: list[Outcome]) -> dict[str, Latency]:
    kinds: dict[str, list[float]] = {}
    for outcome in outcomes:
        for kind, values in outcome.latencies.items():
            kinds.setdefault(kind, []).extend(values)
    every = [value for values in kinds.values() for value in values]
    named = {kind: kinds[kind] for kind in RATES if kind in kinds}
    if every:
        named["all"] = every
    return {kind: latency_of(values) for kind, values in named.items()}
