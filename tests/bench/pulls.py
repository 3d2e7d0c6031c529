"""What reads cost with a bucket: hits, misses, and what comes from another node.

`python -m tests.bench.pulls`: two nodes with one bucket (SeaweedFS, on this machine) and one
without any, each behind nginx. Rates of hits and of repeated misses are ratios to those of the
node without a bucket, measured in turns in one run. Of first-time misses, and of entries with an
artifact of 10 KiB that only the other node has stored, it prints how long they take. Last, the S3
server is stopped: the longest read is to be the budget and a tenth, and those after it short.
"""

import http.client
import secrets
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import click

from cache_actors.cli.dev.tuist import StandInTuist
from cache_actors.s3.breaker import MAX_FAILURES
from tests.contract.examples import cas_path, kv_path, new_cas_id, new_kv_id
from tests.support.s3 import running_s3
from tests.support.stored import value_of
from tests.support.tuist import HeldTuist
from tests.support.waiting import eventually
from tests.system.site import Site, running_site

from .figures import percentile
from .names import SMALL, payload

QUERY = "?account_handle=acme&project_handle=app"
CLIENTS = 8
BUDGET = 0.25


class Reader:
    """A client on one connection, which is opened before anything is measured."""

    def __init__(self, node: Site) -> None:
        self.others = 0
        self._connection = http.client.HTTPConnection("127.0.0.1", node.nginx.port, timeout=60)
        self.read(cas_path(new_cas_id()))

    def read(self, path: str) -> int:
        """Read, and return the status."""
        headers = {"Authorization": "Bearer token"}
        self._connection.request("GET", path + QUERY, headers=headers)
        answer = self._connection.getresponse()
        answer.read()
        return answer.status

    def timed(self, path: str, expected: int) -> float:
        """The seconds that a read takes; it is counted if it has another status than `expected`."""
        began = time.perf_counter()
        status = self.read(path)
        took = time.perf_counter() - began
        self.others += status != expected
        return took


def rate(node: Site, path: str, expected: int, seconds: float) -> float:
    """Reads a second of one path, by several clients."""

    def read(reader: Reader) -> int:
        end, number = time.perf_counter() + seconds, 0
        while time.perf_counter() < end:
            reader.timed(path, expected)
            number += 1
        return number

    readers = [Reader(node) for _ in range(CLIENTS)]
    with ThreadPoolExecutor(CLIENTS) as threads:
        number = sum(threads.map(read, readers))
    assert not any(reader.others for reader in readers)
    return number / seconds


def ratio(name: str, shared: Callable[[], float], alone: Callable[[], float], rounds: int) -> None:
    """Measure both in turns, and print the median of the ratios."""
    pairs = [(shared(), alone()) for _ in range(rounds)]
    ratios = [first / second for first, second in pairs]
    click.echo(f"{name:32} {statistics.median(ratios):.2f} of that without a bucket")


def show(name: str, took: list[float]) -> None:
    """Print how long something takes."""
    figures = ", ".join(f"p{q} {percentile(sorted(took), q) * 1000:.1f}" for q in (50, 90, 99))
    click.echo(f"{name:32} {figures}, max {max(took) * 1000:.1f} ms, of {len(took)}")


def all_timed(node: Site, paths: list[str], expected: int) -> list[float]:
    """The seconds of reads of `paths`, by several clients."""
    readers = [Reader(node) for _ in range(CLIENTS)]
    parts = [paths[number::CLIENTS] for number in range(CLIENTS)]

    def read(reader: Reader, part: list[str]) -> list[float]:
        return [reader.timed(path, expected) for path in part]

    with ThreadPoolExecutor(CLIENTS) as threads:
        took = [each for some in threads.map(read, readers, parts) for each in some]
    click.echo(f"{sum(reader.others for reader in readers)} of {len(paths)} are not {expected}:")
    return took


@click.command()
@click.option("--seconds", default=3.0, show_default=True, help="Of each rate in a round.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--number", default=2000, show_default=True, help="Of misses and of entries.")
def main(seconds: float, rounds: int, number: int) -> None:
    """Measure, and print."""
    with ExitStack() as stack:
        tuist = HeldTuist({"token": ["acme/app"]})
        assert isinstance(stack.enter_context(tuist), StandInTuist)
        server = stack.enter_context(running_s3())
        bucket = stack.enter_context(server.new_bucket())
        nodes: list[dict[str, str]] = [bucket.settings(), bucket.settings(), {}]
        one, other, alone = (
            stack.enter_context(
                running_site("debian", tuist, each, bucket="S3_BUCKET" in each, access_log=None)
            )
            for each in nodes
        )
        for node in one, alone:
            node.upload("A" * 64, payload(SMALL))
        hit, miss = cas_path("A" * 64), cas_path("B" * 64)
        for name, path, expected in (("hits", hit, 200), ("repeated misses", miss, 404)):
            ratio(
                name,
                lambda path=path, expected=expected: rate(one, path, expected, seconds),  # type: ignore[misc]
                lambda path=path, expected=expected: rate(alone, path, expected, seconds),  # type: ignore[misc]
                rounds,
            )
        misses = [kv_path(new_kv_id()) for _ in range(number)]
        began = time.perf_counter()
        took = all_timed(other, misses, 404)
        click.echo(f"first-time misses: {number / (time.perf_counter() - began):.0f} a second")
        show("first-time miss", took)
        stored = []
        for _ in range(number):
            cas_id, kv_id = one.stored(payload(SMALL - 16) + secrets.token_bytes(16)), new_kv_id()
            assert one.put(kv_id, value_of(cas_id)).status_code == 204
            stored.append(kv_id)
        names = {f"1/acme/app/keyvalue/{kv_id}.json" for kv_id in stored}
        eventually(lambda: names <= set(bucket.names("1/acme/app/keyvalue")), 600)
        show("entry and its artifact", all_timed(other, [kv_path(each) for each in stored], 200))
        with server.stopped():
            reader = Reader(other)
            took = [reader.timed(kv_path(new_kv_id()), 404) for _ in range(MAX_FAILURES)]
            show("while the bucket is silent", took)
            eventually(lambda: reader.timed(kv_path(new_kv_id()), 404) < BUDGET / 2)
            took = [reader.timed(kv_path(new_kv_id()), 404) for _ in range(200)]
            show("when that is known", took)


if __name__ == "__main__":
    main()
