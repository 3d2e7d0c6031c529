"""The scrubber begins when it is due, keeps to its rate, stops when asked, and works alone."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from cache_actors.actors.scrubber import RETRY_SCRUB_SECONDS, Scrubber
from cache_actors.storage.files.store import FileStore, Publication, Published
from cache_actors.storage.integrity.scrub import MIN_COST, ScrubLock, last_scrub
from cache_actors.storage.layout import LAST_SCRUB

from .helpers import Log, after, artifact

EPOCH = 1_700_000_000
DAY = 86_400.0
FAST = float("inf")


@dataclass
class Work:
    """A scrubber at work."""

    scrubber: Scrubber
    log: Log
    stop: trio.Event = field(default_factory=trio.Event)
    ended: bool = False

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        await self.scrubber.run(self.stop, task_status.started)
        self.ended = True

    @property
    def finished(self) -> int:
        """How many scrubs have come to their end."""
        return len(self.log.of("scrub_finished"))


@dataclass
class World:
    """A storage folder, scrubbers of it, and a clock that only the test moves."""

    storage: Path
    store: FileStore
    clock: MockClock
    nursery: trio.Nursery

    def now(self) -> float:
        """The time of day."""
        return EPOCH + trio.current_time()

    async def start(self, interval: float, rate: float = FAST) -> Work:
        log = Log()
        work = Work(Scrubber(self.storage, interval, rate, trio.CapacityLimiter(1), log), log)
        await self.nursery.start(work.run)
        await trio.testing.wait_all_tasks_blocked()
        return work

    async def after(self, seconds: float) -> None:
        await after(self.clock, seconds)

    def artifacts(self, count: int) -> list[Path]:
        paths = [artifact(f"{number:04}").path(self.storage) for number in range(count)]
        outcomes = self.store.publish([Publication(str(path), [b"bytes"]) for path in paths])
        assert outcomes == [Published.STORED] * count
        return paths

    def ended_before(self, seconds: float) -> None:
        """Somebody's last scrub has ended so long ago."""
        (self.storage / LAST_SCRUB).write_text(f"{int(self.now() - seconds)}\n")


@pytest.fixture
async def world(
    storage: Path,
    store: FileStore,
    nursery: trio.Nursery,
    clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> World:
    world = World(storage, store, clock, nursery)
    for module in ("actors.scrubber", "storage.integrity.scrub"):
        monkeypatch.setattr(f"cache_actors.{module}.time", SimpleNamespace(time=world.now))
    return world


# When.


async def test_interval_of_zero_is_never(world: World) -> None:
    world.artifacts(1)
    work = await world.start(0)
    for _ in range(100):
        await world.after(DAY)
    assert work.log == []
    work.stop.set()
    await trio.testing.wait_all_tasks_blocked()
    assert work.ended


async def test_scrub_is_due_an_interval_after_the_last_one_has_ended(world: World) -> None:
    world.ended_before(DAY - 10)
    work = await world.start(DAY)
    await world.after(9)
    assert work.finished == 0
    await world.after(2)
    for done in range(1, 4):
        assert work.finished == done
        await world.after(DAY - 3)
        assert work.finished == done
        await world.after(4)


async def test_clock_that_was_wrong_puts_it_off_for_an_interval_at_most(world: World) -> None:
    world.ended_before(-1000 * DAY)
    work = await world.start(DAY)
    await world.after(DAY - 1)
    assert work.finished == 0
    # What the wrong clock has written is still in the future, so it goes by its own clock.
    assert last_scrub(world.storage) == int(world.now() - DAY + 1 + 1000 * DAY)


# What.


async def test_everything_broken_is_logged_with_where_it_is_now(world: World) -> None:
    paths = world.artifacts(5)
    paths[1].write_bytes(b"bytez")
    os.truncate(paths[3], 0)
    work = await world.start(DAY)
    found = {line["path"]: line for line in work.log.of("scrub_found")}
    assert {path: line["fault"] for path, line in found.items()} == {
        str(paths[1].relative_to(world.storage)): "has other bytes than recorded",
        str(paths[3].relative_to(world.storage)): "is empty",
    }
    for line in found.values():
        assert (world.storage / line["quarantined"]).exists()
    assert work.log[-1] == {"event": "scrub_finished", "files": 5, "bytes": 20, "found": 2}
    assert last_scrub(world.storage) == int(world.now())
    await world.after(DAY + 1)
    assert work.log[-1] == {"event": "scrub_finished", "files": 3, "bytes": 15, "found": 0}
    assert len(work.log.of("scrub_found")) == 2


# How fast.


@pytest.mark.parametrize("seconds", [10, 100])
async def test_rate_bounds_how_fast_it_reads(world: World, seconds: int) -> None:
    world.artifacts(200)
    work = await world.start(DAY, rate=200 * MIN_COST / seconds)
    step, passed = seconds / 100, 0.0
    while not work.finished:
        assert passed <= 1.1 * seconds
        await world.after(step)
        passed += step
    assert passed >= 0.99 * seconds


# How it stops.


async def begin_slowly(world: World, files: int = 200) -> Work:
    """A scrubber that has only just begun, and needs an hour."""
    world.artifacts(files)
    work = await world.start(DAY, rate=files * MIN_COST / 3600)
    await world.after(1)
    assert work.finished == 0
    with pytest.raises(BaseException, match="Another scrub"):  # so it is at work
        ScrubLock(world.storage)
    return work


async def test_scrub_stops_after_the_step_that_it_is_at_and_is_due_at_the_next_start(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = await begin_slowly(world)
    reads: list[int] = []

    def preadv(fd: int, *_: object) -> int:
        reads.append(fd)
        return 0

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", preadv)
        work.stop.set()
        await trio.testing.wait_all_tasks_blocked()
    assert work.ended
    assert reads == []
    assert work.finished == 0
    assert last_scrub(world.storage) is None
    again = await world.start(DAY)
    assert again.finished == 1


async def test_cancelled_scrub_lets_go_of_its_lock(world: World) -> None:
    async with trio.open_nursery() as nursery:
        world.nursery = nursery
        await begin_slowly(world)
        nursery.cancel_scope.cancel()
    with ScrubLock(world.storage):
        pass


# When it cannot.


async def test_failing_storage_is_tried_again_after_a_while(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.artifacts(1)

    def preadv(*_: object) -> int:
        raise OSError(12, "Cannot allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", preadv)
        work = await world.start(DAY)
        assert [line["event"] for line in work.log] == ["scrub_failed"]
        assert "Cannot allocate memory" in work.log[0]["reason"]
        await world.after(RETRY_SCRUB_SECONDS - 1)
        assert len(work.log) == 1
        await world.after(2)
        assert len(work.log) == 2
    await world.after(RETRY_SCRUB_SECONDS + 1)
    assert work.finished == 1
    assert last_scrub(world.storage) is not None


async def test_scrubber_that_waits_for_its_next_try_stops_at_once(world: World) -> None:
    with ScrubLock(world.storage):
        work = await world.start(DAY)
        work.stop.set()
        await trio.testing.wait_all_tasks_blocked()
        assert work.ended
    assert work.log == []


async def test_scrub_of_another_is_waited_for_and_not_joined(world: World) -> None:
    with ScrubLock(world.storage):
        work = await world.start(DAY)
        for _ in range(5):
            await world.after(RETRY_SCRUB_SECONDS + 1)
        assert work.log == []
    await world.after(RETRY_SCRUB_SECONDS + 1)
    assert work.finished == 1
