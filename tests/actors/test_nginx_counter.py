"""The nginx counter: what nginx answers is counted once, by the instance that is current."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from cache_actors.actors.nginx_counter import READ_LOG_SECONDS, NginxCounter
from cache_actors.supervision import ChildSpec
from tests.support.metrics import Scrape, new_metrics

from .helpers import Log, Run, after

READ = b"artifact GET 200 100 0.001 -\n"


class Counting:
    """A nginx counter that runs."""

    def __init__(self, path: Path | None) -> None:
        self.metrics = new_metrics()
        self.is_current = True
        self.log = Log()
        counter = NginxCounter(
            path, self.metrics, lambda: self.is_current, trio.CapacityLimiter(1), self.log
        )
        self.child = ChildSpec("nginx_counter", counter.run, shutdown=1)

    def counted(self) -> float:
        return Scrape.of(self.metrics).value("cache_actors_reads_total", by="nginx")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.log"


async def test_what_nginx_writes_is_counted(run_tree: Run, path: Path, clock: MockClock) -> None:
    counting = Counting(path)
    await run_tree(counting.child)
    for times in 3, 5:
        path.write_bytes(READ * times + b"garbage\n")
        await after(clock, READ_LOG_SECONDS)
    assert counting.counted() == 8
    ignored = Scrape.of(counting.metrics).value("cache_actors_nginx_lines_ignored_total")
    assert ignored == 2


async def test_only_the_current_instance_counts_and_hands_over(
    run_tree: Run, path: Path, clock: MockClock
) -> None:
    old, new = Counting(path), Counting(path)
    new.is_current = False
    await run_tree(old.child)
    await run_tree(new.child)
    path.write_bytes(READ)
    await after(clock, READ_LOG_SECONDS)
    old.is_current, new.is_current = False, True
    path.write_bytes(READ * 10)
    await after(clock, READ_LOG_SECONDS)
    await after(clock, READ_LOG_SECONDS)
    assert (old.counted(), new.counted()) == (1, 10)


async def test_log_that_cannot_be_read_is_told_and_tried_again(
    run_tree: Run, path: Path, clock: MockClock
) -> None:
    path.mkdir()
    counting = Counting(path)
    root = await run_tree(counting.child)
    await after(clock, READ_LOG_SECONDS)
    assert {line["event"] for line in counting.log} == {"nginx_log_failed"}
    path.rmdir()
    path.write_bytes(READ)
    await after(clock, READ_LOG_SECONDS)
    assert counting.counted() == 1
    assert root.supervisor.status().children[0].restarts == 0


async def test_without_a_log_it_has_nothing_to_do(run_tree: Run, clock: MockClock) -> None:
    counting = Counting(None)
    await run_tree(counting.child)
    await after(clock, READ_LOG_SECONDS)
    assert counting.log == []
