"""The nginx counter: what nginx answers is counted once, by the instance that is current."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from cache_actors.actors.nginx_counter import LOOK_SECONDS, NginxCounter
from cache_actors.supervision import ChildSpec
from tests.support.metrics import Scrape, new_metrics

if TYPE_CHECKING:
    from pathlib import Path

    from .helpers import Run

READ = b"artifact GET 200 100 0.001 -\n"


class Counting:
    """A nginx counter that runs."""

    def __init__(self, path: Path | None) -> None:
        self.metrics = new_metrics()
        self.is_current = True
        self.logged: list[tuple[str, dict[str, Any]]] = []
        self.threads = trio.CapacityLimiter(1)
        counter = NginxCounter(
            path,
            self.metrics,
            lambda: self.is_current,
            self.threads,
            lambda event, **fields: self.logged.append((event, fields)),
        )
        self.child = ChildSpec("nginx_counter", counter.run, shutdown=1)

    def counted(self) -> float:
        return Scrape.of(self.metrics).value("cache_actors_reads_total", by="nginx")

    async def settle(self) -> None:
        """Return when it waits for its next look."""
        await trio.testing.wait_all_tasks_blocked()
        while self.threads.borrowed_tokens:
            await trio.testing.wait_all_tasks_blocked()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.log"


async def look(clock: trio.testing.MockClock, *counters: Counting) -> None:
    """Let the counters look at the log once, one after the other."""
    for counting in counters:
        await counting.settle()
    clock.jump(LOOK_SECONDS)
    for counting in counters:
        await counting.settle()


async def test_what_nginx_writes_is_counted(
    run_tree: Run, path: Path, mock_clock: trio.testing.MockClock
) -> None:
    counting = Counting(path)
    await run_tree(counting.child)
    for times in 3, 5:
        path.write_bytes(READ * times + b"garbage\n")
        await look(mock_clock, counting)
    assert counting.counted() == 8
    ignored = Scrape.of(counting.metrics).value("cache_actors_nginx_lines_ignored_total")
    assert ignored == 2


async def test_only_the_current_instance_counts_and_hands_over(
    run_tree: Run, path: Path, mock_clock: trio.testing.MockClock
) -> None:
    old, new = Counting(path), Counting(path)
    new.is_current = False
    await run_tree(old.child)
    await run_tree(new.child)
    path.write_bytes(READ)
    await look(mock_clock, old, new)
    old.is_current, new.is_current = False, True
    path.write_bytes(READ * 10)
    await look(mock_clock, old, new)
    await look(mock_clock, old, new)
    assert (old.counted(), new.counted()) == (1, 10)


async def test_log_that_cannot_be_read_is_told_and_tried_again(
    run_tree: Run, path: Path, mock_clock: trio.testing.MockClock
) -> None:
    path.mkdir()
    counting = Counting(path)
    root = await run_tree(counting.child)
    await look(mock_clock, counting)
    assert {event for event, _ in counting.logged} == {"nginx_log_failed"}
    path.rmdir()
    path.write_bytes(READ)
    await look(mock_clock, counting)
    assert counting.counted() == 1
    assert root.supervisor.status().children[0].restarts == 0


async def test_without_a_log_it_has_nothing_to_do(
    run_tree: Run, mock_clock: trio.testing.MockClock
) -> None:
    counting = Counting(None)
    await run_tree(counting.child)
    await look(mock_clock, counting)
    assert counting.logged == []
