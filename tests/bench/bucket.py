"""The service with a bucket, beside the service without: what it costs, and how far it lags.

Two nodes share a bucket (SeaweedFS, on this machine) and a third has none, each behind nginx. What
both sorts do is measured in turns, and counts as a ratio: hits, repeated misses, and how long
uploads and entries wait for their 204 at a build farm's rate. Then: how late things are in the
bucket, what the other node pulls, an outage, a walk, memory, and reads while S3 is silent.
"""

import http.client
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import count
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cache_actors.fetcher_process.protocol import FetcherConfig
from cache_actors.replicator_process.protocol import ReplicatorConfig
from cache_actors.s3.breaker import MAX_FAILURES
from cache_actors.s3.config import BucketConfig
from cache_actors.s3.walk import unshared
from tests.contract.examples import cas_path, kv_path, new_cas_id, new_kv_id
from tests.support.metrics import Scrape
from tests.support.s3 import S3Bucket, S3Server, running_s3
from tests.support.tuist import HeldTuist
from tests.support.waiting import eventually
from tests.support.writer_processes import processes_with
from tests.system.site import TOKEN as SITE_TOKEN
from tests.system.site import Site, running_site

from .failure import BenchmarkFailed, NotHere
from .figures import percentile
from .machine import describe
from .names import PROJECT, QUERY, SMALL, STORED, TOKEN, new_entry, payload
from .plan import Plan
from .processes import cpu_seconds, memory_bytes
from .results import Beside, Latency, Outage, Shared
from .wrk import Ask, run_wrk

CLIENTS = 8
FARM_PAIRS = 160.0
"""Artifacts that a build farm stores in a second, each with an entry that refers to it."""

BUDGET_SECONDS = 0.25
"""Longest time that a node looks for an entry in the bucket, by default."""

CAUGHT_UP_SECONDS = 2.0
"""Age of the oldest thing that is not in the bucket, below which a node has caught up."""

LIMIT_SECONDS = 600.0
"""Time after which nobody waits any more for a node to catch up."""

WALKS, READS_IN_SILENCE = 3, 200

HITS, MISSES = "hits in a second", "repeated misses in a second"
UPLOADS, PUTS = "p99 of an upload's 204 in ms", "p99 of an entry's 204 in ms"
FIRST_MISS, PULLED = "first-time miss", "entry and its artifact, 10 KiB"
SILENT, KNOWN_SILENT = "miss while S3 is silent", "miss when that is known"
REPLICATOR, FETCHER = "process that puts", "process that pulls"

Request = tuple[str, str, bytes | None]
"""A method, a path, and a body."""


class Client:
    """A client on one connection, which is opened before anything is measured."""

    def __init__(self, node: Site) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", node.nginx.port, timeout=60)
        self._headers = {"Authorization": f"Bearer {node.token}"}
        self.ask(("GET", cas_path(new_cas_id()), None))

    def ask(self, request: Request) -> tuple[int, float]:
        """The status of the answer, and the seconds that it took."""
        method, path, body = request
        began = time.perf_counter()
        self._connection.request(method, f"{path}?{QUERY}", body, self._headers)
        answer = self._connection.getresponse()
        answer.read()
        return answer.status, time.perf_counter() - began


def read(path: str) -> Request:
    return "GET", path, None


def upload(artifact: str, body: bytes) -> Request:
    return "POST", cas_path(artifact), body


def rate(node: Site, path: str, expected: int, seconds: float) -> float:
    """Answers a second with the status `expected`, of one path, which wrk asks for."""
    ask = Ask("GET", f"{path}?{QUERY}", "cas", STORED, count=1, refused=expected >= 400)
    said, _ = run_wrk(node.nginx.url, ask, seconds)
    return said.requests / said.seconds


@dataclass
class Load:
    """What a load has come to.

    Attributes:
        entries: the ids of the entries that were stored.
        uploads, puts: seconds until artifacts and entries were acknowledged.
        refused: answers that were no acknowledgement.
    """

    entries: list[str] = field(default_factory=list)
    uploads: list[float] = field(default_factory=list)
    puts: list[float] = field(default_factory=list)
    refused: int = 0


def store(node: Site, farms: float, seconds: float, ended: threading.Event | None = None) -> Load:
    """Store artifacts of 10 KiB, each with an entry, at the rate of so many build farms.

    They are due at that rate whatever the answers (open loop), and an upload's time counts from
    then. It is over after `seconds`, or when `ended` is set.
    """
    load, body = Load(), payload(SMALL)
    clients = [Client(node) for _ in range(CLIENTS)]
    begin = time.perf_counter()

    def work(first: int) -> None:
        for number in count(first, CLIENTS):
            due = begin + number / (farms * FARM_PAIRS)
            time.sleep(max(0.0, due - time.perf_counter()))
            if due > begin + seconds or (ended is not None and ended.is_set()):
                return
            artifact, entry = new_cas_id(), new_kv_id()
            uploaded, _ = clients[first].ask(upload(artifact, body))
            load.uploads.append(time.perf_counter() - due)
            content = new_entry(entry, artifact)
            put, took = clients[first].ask(("PUT", "/api/cache/keyvalue", content))
            load.puts.append(took)
            load.refused += (uploaded != HTTPStatus.NO_CONTENT) + (put != HTTPStatus.NO_CONTENT)
            load.entries.append(entry)

    with ThreadPoolExecutor(CLIENTS) as threads:
        list(threads.map(work, range(CLIENTS)))
    return load


def latency(took: list[float]) -> Latency:
    """How long things took, of so many seconds each."""
    p50, p95, p99 = (percentile(sorted(took), q) * 1000 for q in (50, 95, 99))
    return Latency(len(took), p50, p95, p99, max(took) * 1000)


def all_timed(node: Site, paths: list[str], expected: int) -> tuple[list[float], int]:
    """The seconds of reads by several clients, and how many had another status than `expected`."""
    clients = [Client(node) for _ in range(CLIENTS)]

    def work(number: int) -> list[tuple[int, float]]:
        return [clients[number].ask(read(path)) for path in paths[number::CLIENTS]]

    with ThreadPoolExecutor(CLIENTS) as threads:
        found = [each for some in threads.map(work, range(CLIENTS)) for each in some]
    return [took for _, took in found], sum(status != expected for status, _ in found)


def measure_bucket(plan: Plan, say: Callable[[str], None]) -> Shared:
    """Measure all of it.

    Raises:
        NotHere: there is no S3 server.
        BenchmarkFailed: what was measured is not what was meant.
    """
    with ExitStack() as stack:
        tuist = HeldTuist({token: [str(PROJECT)] for token in (SITE_TOKEN, TOKEN)})
        stack.enter_context(tuist)
        try:
            server = stack.enter_context(running_s3())
        except (pytest.skip.Exception, pytest.fail.Exception) as error:
            raise NotHere(f"There is no S3 server (`make bench` installs it): {error}") from None
        bucket = stack.enter_context(server.new_bucket())
        nodes: list[dict[str, str]] = [bucket.settings(), bucket.settings(), {}]
        one, other, alone = (
            stack.enter_context(
                running_site("debian", tuist, each, bucket="S3_BUCKET" in each, access_log=None)
            )
            for each in nodes
        )
        eventually(lambda: all(state_of(node)["state"] == "ok" for node in (one, other)))
        say("hits and repeated misses, with a bucket and without")
        beside = rates(one, alone, plan)
        say("uploads and entries at a farm's rate")
        counted = lags(one)
        waits, entries = loads(one, alone, plan)
        wait_until_shared(one)
        lag = {p: late(counted, lags(one), p) for p in (50, 99)}
        say("what the other node pulls")
        pulls, misses_rate, missed = pull(other, entries[: plan.pulled], plan.pulled)
        say(f"an outage of {plan.outage_seconds:g} s")
        outage = measure_outage(server, one, plan)
        wait_until_shared(one)
        walks, walked = walk(one, bucket)
        memory = {
            REPLICATOR: memory_bytes(processes_with(one.service.pid, ReplicatorConfig)),
            FETCHER: memory_bytes(processes_with(other.service.pid, FetcherConfig)),
        }
        say("reads while S3 is silent")
        pulls |= silence(server, other)
    return Shared(
        machine=describe(),
        seconds=plan.load_seconds,
        beside=[*beside, *waits],
        lag_p50_seconds=lag[50],
        lag_p99_seconds=lag[99],
        reads=pulls,
        misses_rate=misses_rate,
        missed=missed,
        outage=outage,
        walked=walked,
        walk_rates=walks,
        memory_bytes=memory,
    )


def rates(one: Site, alone: Site, plan: Plan) -> list[Beside]:
    """Hits and repeated misses, which nginx answers by itself."""
    artifact = new_cas_id()
    for node in one, alone:
        node.upload(artifact, payload(SMALL))
    cases = [(HITS, cas_path(artifact), 200), (MISSES, cas_path(new_cas_id()), 404)]
    return [
        in_turns(
            name,
            one,
            alone,
            plan.shared_rounds,
            lambda node, path=path, status=status: rate(node, path, status, plan.turn_seconds),  # type: ignore[misc]
        )
        for name, path, status in cases
    ]


def in_turns(
    name: str, one: Site, alone: Site, rounds: int, measure: Callable[[Site], float]
) -> Beside:
    """Measure both nodes in each round, the second one first in every other."""
    shared, without = list[float](), list[float]()
    turns = [(one, shared), (alone, without)]
    for number in range(rounds):
        for node, found in turns if number % 2 == 0 else turns[::-1]:
            found.append(measure(node))
    return Beside(name, shared, without)


def loads(one: Site, alone: Site, plan: Plan) -> tuple[list[Beside], list[str]]:
    """How long acknowledgements take at a farm's rate; and the entries that `one` has stored.

    Raises:
        BenchmarkFailed: something was refused.
    """
    entries: list[str] = []
    puts_shared, puts_without = list[float](), list[float]()

    def p99_of_uploads(node: Site) -> float:
        load = store(node, 1.0, plan.load_seconds)
        if load.refused:
            raise BenchmarkFailed(f"{load.refused} uploads or entries were refused")
        p99 = latency(load.puts).p99_ms
        if node is one:
            puts_shared.append(p99)
            entries.extend(load.entries)
        else:
            puts_without.append(p99)
        return latency(load.uploads).p99_ms

    uploads = in_turns(UPLOADS, one, alone, plan.shared_rounds, p99_of_uploads)
    return [uploads, Beside(PUTS, puts_shared, puts_without)], entries


def lags(node: Site) -> dict[float, float]:
    """How many files were in the bucket within so many seconds, so far."""
    return {
        float(sample.labels["le"]): sample.value
        for family in text_string_to_metric_families(metrics_of(node))
        for sample in family.samples
        if sample.name == "cache_actors_replication_lag_seconds_bucket"
    }


def late(before: dict[float, float], after: dict[float, float], percent: float) -> float:
    """The seconds within which so many percent of files were there, by the histogram.

    Between two of its bounds files count as evenly spread.
    """
    counts = {bound: after[bound] - before.get(bound, 0.0) for bound in sorted(after)}
    wanted = counts[math.inf] * percent / 100
    lower, below = 0.0, 0.0
    for bound, number in counts.items():
        if number >= wanted:
            part = (wanted - below) / (number - below) if number > below else 1.0
            return bound if math.isinf(bound) else lower + (bound - lower) * part
        lower, below = bound, number
    return math.inf


def pull(node: Site, entries: list[str], misses: int) -> tuple[dict[str, Latency], float, int]:
    """How long misses and pulls take; misses a second; and how many entries were not pulled."""
    began = time.perf_counter()
    first, _ = all_timed(node, [kv_path(new_kv_id()) for _ in range(misses)], 404)
    misses_rate = misses / (time.perf_counter() - began)
    pulled, missed = all_timed(node, [kv_path(each) for each in entries], 200)
    return {FIRST_MISS: latency(first), PULLED: latency(pulled)}, misses_rate, missed


def measure_outage(server: S3Server, node: Site, plan: Plan) -> Outage:
    """Stop S3 while half a farm stores, and go on storing until the node has caught up.

    Raises:
        BenchmarkFailed: it does not catch up.
    """
    [process] = processes_with(node.service.pid, ReplicatorConfig)
    with server.stopped():
        during = store(node, 0.5, plan.outage_seconds)
    began, before = time.perf_counter(), puts_of(node)
    ended = threading.Event()
    first: tuple[float, float, float] | None = None
    with ThreadPoolExecutor(1) as threads:
        meanwhile = threads.submit(store, node, 0.5, LIMIT_SECONDS, ended)
        try:
            while True:
                now = time.perf_counter(), puts_of(node), cpu_seconds([process])
                if first is None and now[1] > before:
                    first = now
                state = state_of(node)
                if state["state"] == "ok" and state["oldest_seconds"] < CAUGHT_UP_SECONDS:
                    break
                if now[0] - began > LIMIT_SECONDS:
                    raise BenchmarkFailed("the node does not catch up with the bucket")
                time.sleep(0.1)
        finally:
            ended.set()
    seconds, objects, cpu = (end - begin for end, begin in zip(now, first or now, strict=True))
    if not objects:
        raise BenchmarkFailed("nothing was put after the outage")
    return Outage(
        seconds=plan.outage_seconds,
        objects=len(during.uploads) + len(during.puts),
        refused=during.refused + meanwhile.result().refused,
        catch_up_seconds=now[0] - began,
        rate=objects / seconds,
        cpu_us=cpu / objects * 1e6,
    )


def walk(node: Site, bucket: S3Bucket) -> tuple[list[float], int]:
    """Files in a second of CPU time that a walk looks at which finds nothing; and how many."""
    config = BucketConfig(bucket.name, endpoint=bucket.server.url)
    root = node.service.storage
    files = sum(path.is_file() for path in PROJECT.path(root).rglob("*"))
    found = []
    for _ in range(WALKS):
        began = time.process_time()
        if any(unshared(root, config.target, entries=True)):
            raise BenchmarkFailed("a walk has found something that is not in the bucket")
        found.append(files / (time.process_time() - began))
    return found, files


def silence(server: S3Server, node: Site) -> dict[str, Latency]:
    """How long misses take while S3 does nothing: the first ones, and those after these."""
    with server.stopped():
        client = Client(node)
        first = [client.ask(read(kv_path(new_kv_id())))[1] for _ in range(MAX_FAILURES)]
        eventually(lambda: client.ask(read(kv_path(new_kv_id())))[1] < BUDGET_SECONDS / 2)
        then = [client.ask(read(kv_path(new_kv_id())))[1] for _ in range(READS_IN_SILENCE)]
    return {SILENT: latency(first), KNOWN_SILENT: latency(then)}


def wait_until_shared(node: Site) -> None:
    """Wait until all that a node has stored is in the bucket."""
    eventually(lambda: state_of(node)["backlog_files"] == 0, LIMIT_SECONDS)


def state_of(node: Site) -> dict[str, Any]:
    """How the bucket is, as a node tells it."""
    found: dict[str, Any] = node.direct.get("/up").json()["shared"]
    return found


def puts_of(node: Site) -> float:
    """How many objects a node has put so far."""
    return Scrape(metrics_of(node)).value(
        "cache_actors_shared_requests_total", op="put", outcome="ok"
    )


def metrics_of(node: Site) -> str:
    return node.direct.get("/metrics").text
