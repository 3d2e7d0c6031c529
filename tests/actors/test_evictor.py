"""The evictor looks often enough, has a pass run when it has to, and only then."""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from cache_actors.actors import evictor
from cache_actors.actors.evictor import (
    CHECK_USAGE_SECONDS,
    CHECK_USAGE_SHARE,
    MEND_SECONDS,
    PENDING_FREE_SECONDS,
    RESCAN_SECONDS,
    RESCAN_SHARE,
    RETRY_PASS_SECONDS,
    RETRY_WHEN_FULL_SECONDS,
    Evictor,
    EvictorClient,
    PassFailed,
)
from cache_actors.storage.capacity import Capacity
from cache_actors.storage.eviction.last_pass import EvictionLock, PassReport
from cache_actors.storage.eviction.run import Limits
from cache_actors.storage.eviction.status import EvictionMonitor, EvictionStatus
from cache_actors.storage.layout import QUARANTINE, StoredKey
from cache_actors.supervision import Mailbox, actor_child
from tests.supervision.small_actors import Root
from tests.support.stored import HOUR

from .helpers import Log, Run, Tasks, after, artifact

HIGH, TARGET = 0.85, 0.7
BLOCK = 1 << 20
BLOCKS = FILES = 100_000
DISK = BLOCKS * BLOCK
ENOUGH = int(CHECK_USAGE_SHARE * DISK)
NOTHING = PassReport(0.0, 0.1, 0, 0, 0, None, 0, 0, 0)
Outcome = PassReport | None | Exception


@dataclass
class Disk:
    """A disk, as `statvfs` has it: so many of its blocks of a mebibyte are used.

    Attributes:
        error: what asking it raises.
    """

    used: int = 0
    files: int = 0
    error: OSError | None = None
    f_frsize: int = BLOCK
    f_blocks: int = BLOCKS
    f_files: int = FILES

    @property
    def f_bavail(self) -> int:
        return self.f_blocks - self.used

    @property
    def f_favail(self) -> int:
        return self.f_files - self.files

    f_bfree = f_bavail
    f_ffree = f_favail

    def fill(self, share: float) -> None:
        self.used = round(share * self.f_blocks)

    def statvfs(self, _path: object) -> Self:
        if self.error is not None:
            raise self.error
        return self


class Passes:
    """What runs passes: it does what the test says, as a pass of another process would.

    Attributes:
        count: how many there were.
        running: how many there are at the moment; never more than one.
        outcomes: what comes of the next ones; nothing goes if there is none.
        effect: what the next ones do to the disk.
        gate: where they wait.
        cancelled: how many were.
    """

    effect: Callable[[], object]

    def __init__(self, root: Path) -> None:
        self._root = root
        self.count = self.running = self.cancelled = 0
        self.limits: Limits | None = None
        self.outcomes: list[Outcome] = []
        self.effect = lambda: None
        self.gate = trio.Event()
        self.gate.set()

    async def run(self, root: Path, limits: Limits) -> PassReport | None:
        assert root == self._root
        assert self.running == 0
        assert self.count < 50, "one after the other without end"
        self.limits = limits
        self.count += 1
        self.running += 1
        try:
            await self.gate.wait()
            await trio.lowlevel.checkpoint()
        except trio.Cancelled:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        self.effect()
        outcome = self.outcomes.pop(0) if self.outcomes else NOTHING
        if isinstance(outcome, Exception):
            raise outcome
        if outcome is not None:
            complete(root, outcome)
        return outcome


def complete(root: Path, report: PassReport) -> None:
    """Have a process, this one or another, come to the end of a pass."""
    with EvictionLock(root) as lock:
        lock.record_completed(report)


def report(blocks: int = 0, *, stored: int = 0, **more: Any) -> PassReport:
    """A report of a pass that has freed so many blocks."""
    return replace(NOTHING, bytes=blocks * BLOCK, artifacts=blocks, stored_bytes=stored, **more)


@dataclass
class World:
    """An evictor in a tree, on a clock that only the test moves."""

    root: Path
    disk: Disk
    passes: Passes
    clock: MockClock
    run_tree: Run
    high: float = HIGH
    max_bytes: int | None = None
    epoch: float = 1_700_000_000.0
    log: Log = field(default_factory=Log)
    monitor: EvictionMonitor = field(default_factory=EvictionMonitor)
    mailbox: Mailbox = field(default_factory=lambda: Mailbox("evictor", capacity=10))

    tree: Root = field(init=False)

    def __post_init__(self) -> None:
        self.client = EvictorClient(self.mailbox.address)

    async def start(self) -> None:
        self.capacity = Capacity(self.root, self.max_bytes)
        self.tree = await self.run_tree(actor_child(self.mailbox, self._new, shutdown=1))
        await trio.testing.wait_all_tasks_blocked()

    def _new(self) -> Evictor:
        limits = Limits(self.high, TARGET, self.max_bytes)
        threads = trio.CapacityLimiter(1)
        return Evictor(self.root, limits, self.capacity, self.monitor, threads, self.log)

    def now(self) -> float:
        """The time of day."""
        return self.epoch + self.clock.current_time()

    async def after(self, seconds: float) -> None:
        await after(self.clock, seconds)

    async def stored(self, size: int) -> None:
        await self.client.stored([StoredKey(artifact("A"), size)])
        await trio.testing.wait_all_tasks_blocked()

    def status(self) -> EvictionStatus:
        return self.monitor.status()

    def restarts(self) -> int:
        return self.tree.child("evictor").restarts


@pytest.fixture
def world(storage: Path, run_tree: Run, clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(storage, Disk(), Passes(storage), clock, run_tree)
    monkeypatch.setattr(os, "statvfs", world.disk.statvfs)
    monkeypatch.setattr(evictor, "run_pass", world.passes.run)
    monkeypatch.setattr(evictor, "time", SimpleNamespace(time=world.now))
    return world


# When it looks.


async def test_it_looks_at_once_and_then_every_few_seconds(world: World) -> None:
    assert world.status() == EvictionStatus()
    world.disk.fill(0.1)
    await world.start()
    for share in (0.2, 0.3, 0.4):
        assert world.status().used == pytest.approx(share - 0.1)
        world.disk.fill(share)
        await world.after(CHECK_USAGE_SECONDS - 0.1)
        assert world.status().used == pytest.approx(share - 0.1)
        await world.after(0.2)
    assert world.status().used == pytest.approx(0.4)
    assert world.passes.count == 0
    assert world.log == []


async def test_it_looks_when_enough_was_stored(world: World) -> None:
    await world.start()
    world.disk.fill(0.5)
    await world.stored(ENOUGH - 10)
    for _ in range(9):
        await world.stored(1)
    assert world.status().used == 0
    await world.stored(1)
    assert world.status().used == pytest.approx(0.5)
    world.disk.fill(0.6)
    await world.stored(ENOUGH - 1)  # it counts from the look before
    assert world.status().used == pytest.approx(0.5)
    await world.stored(1)
    assert world.status().used == pytest.approx(0.6)


# When it has a pass run.


@pytest.mark.parametrize(("used", "count"), [(HIGH - 0.001, 0), (HIGH, 1), (1.0, 1)])
@pytest.mark.parametrize("of", ["bytes", "files"])
async def test_pass_is_run_from_the_high_watermark_on(
    world: World, used: float, count: int, of: str
) -> None:
    if of == "bytes":
        world.disk.fill(used)
    else:
        world.disk.files = round(used * FILES)
    world.passes.effect = lambda: world.disk.__init__()  # type: ignore[misc]
    await world.start()
    assert world.passes.count == count
    assert world.status().passes == count
    if count:
        assert world.passes.limits == Limits(HIGH, TARGET)


async def test_watermark_of_the_whole_disk_is_never_reached(world: World) -> None:
    """Entries of what is in quarantine go all the same."""
    world.high = 1.0
    world.disk.fill(1.0)
    await world.start()
    for _ in range(5):
        await world.stored(ENOUGH)
        await world.after(HOUR)
    assert world.passes.count == 0
    assert world.status() == EvictionStatus(used=1.0, high_watermark=1.0)
    assert world.mailbox.depth() == 0
    (world.root / QUARANTINE).mkdir()
    await world.after(CHECK_USAGE_SECONDS)
    assert world.passes.count == 1
    assert world.passes.limits == Limits(1.0, 1.0)


async def test_pass_is_not_run_beside_another(world: World) -> None:
    world.disk.fill(HIGH)
    world.passes.gate = trio.Event()
    await world.start()
    assert world.status().running
    for _ in range(5):
        await world.stored(10 * ENOUGH)
        await world.after(100)
    assert (world.passes.count, world.passes.running) == (1, 1)
    assert world.mailbox.depth() == 0  # it listens all the same
    world.passes.effect = lambda: world.disk.fill(TARGET)
    world.passes.gate.set()
    await trio.testing.wait_all_tasks_blocked()
    assert not world.status().running
    assert world.passes.count == 1


async def test_pass_that_was_not_enough_is_followed_by_another_at_once(world: World) -> None:
    world.disk.fill(1.0)

    def free() -> None:
        world.disk.used -= 10_000

    world.passes.effect = free
    world.passes.outcomes = [report(10_000)] * 2
    await world.start()
    assert world.passes.count == 2
    assert world.status().used == pytest.approx(0.8)
    await world.after(CHECK_USAGE_SECONDS + 1)
    assert world.passes.count == 2


async def test_disk_that_others_have_filled_is_not_looked_through_without_end(world: World) -> None:
    world.disk.fill(1.0)
    await world.start()
    assert world.passes.count == 1
    await world.after(RETRY_WHEN_FULL_SECONDS - 1)
    assert world.passes.count == 1
    await world.after(1.1)
    assert world.passes.count == 2
    await world.stored(ENOUGH)  # it can be stored after all
    assert world.passes.count == 3


# What nginx still holds.


@pytest.mark.parametrize(("is_freed", "count"), [(True, 1), (False, 2)])
async def test_space_that_is_held_by_readers_is_waited_for_but_not_too_long(
    world: World, is_freed: bool, count: int
) -> None:
    world.disk.fill(0.9)
    world.passes.outcomes = [report(20_000)]  # and nothing is free yet
    await world.start()
    await world.after(PENDING_FREE_SECONDS - 1)
    await world.stored(ENOUGH)
    assert world.passes.count == 1
    assert world.status().used == pytest.approx(0.9)
    if is_freed:
        world.disk.fill(0.7)
    await world.after(CHECK_USAGE_SECONDS + 1)
    assert world.passes.count == count


async def test_what_is_stored_beside_the_space_that_is_held_counts(world: World) -> None:
    world.disk.fill(0.9)
    world.passes.outcomes = [report(20_000)]
    await world.start()
    world.disk.used += 14_000  # 0.84 of it beside what is held
    await world.stored(ENOUGH)
    assert world.passes.count == 1
    world.disk.used -= 14_000
    world.disk.used += 16_000
    await world.stored(ENOUGH)
    assert world.passes.count == 2


async def test_what_is_stored_during_a_pass_is_not_taken_for_space_that_is_held(
    world: World,
) -> None:
    world.disk.fill(0.9)
    world.passes.gate = trio.Event()
    await world.start()
    world.passes.outcomes = [report(20_000)]
    await world.stored(20_000 * BLOCK)
    world.passes.gate.set()
    await trio.testing.wait_all_tasks_blocked()
    assert world.passes.count == 2  # as much has come as has gone


# Other processes.


async def test_pass_of_another_process_is_waited_for(world: World) -> None:
    world.disk.fill(0.9)
    world.passes.outcomes = [None, None]
    await world.start()
    assert world.passes.count == 1
    await world.after(RETRY_PASS_SECONDS - 0.1)
    await world.stored(10 * ENOUGH)
    assert world.passes.count == 1
    await world.after(0.2)
    assert world.passes.count == 2
    assert (world.status().passes, world.status().failure) == (0, None)
    assert not world.status().running
    world.disk.fill(0.7)
    complete(world.root, theirs := report(20_000))
    await world.after(RETRY_PASS_SECONDS)
    await world.after(CHECK_USAGE_SECONDS)
    assert world.passes.count == 2
    assert world.status().last == theirs
    assert (world.status().passes, world.status().bytes) == (0, 0)
    assert world.log == []


# What is known of it.


async def test_totals_are_of_all_passes_and_the_last_is_known(world: World) -> None:
    world.passes.effect = lambda: world.disk.fill(TARGET)
    first = PassReport(1.0, 2.0, 3, 4, 5, 6.5, 7, 8, 9)
    second = replace(first, artifacts=30, entries=40, bytes=50)
    await world.start()
    for outcome in (first, second):
        world.passes.outcomes = [outcome]
        world.disk.fill(0.9)
        await world.after(CHECK_USAGE_SECONDS + PENDING_FREE_SECONDS)
    assert world.status() == EvictionStatus(
        used=TARGET,
        high_watermark=HIGH,
        passes=2,
        seconds=4.0,
        artifacts=33,
        entries=44,
        bytes=55,
        last=second,
    )
    evicted = world.log.of("evicted")
    assert [line["artifacts"] for line in evicted] == [3, 30]
    assert evicted[0]["youngest_evicted_seconds"] == 6.5


@pytest.mark.parametrize("what", ["pass", "disk"])
async def test_failure_is_told_and_tried_again(world: World, what: str) -> None:
    world.disk.fill(0.9)
    reason = "it belongs to somebody else"
    if what == "pass":
        world.passes.outcomes = [PassFailed(reason), PassFailed(reason)]
    else:
        world.disk.error = OSError(errno.EIO, os.strerror(errno.EIO))
        reason = "The storage failed: Input/output error"
    await world.start()
    assert world.status().failure == reason
    assert world.log.of("eviction_failed") == [{"event": "eviction_failed", "reason": reason}]
    await world.after(RETRY_PASS_SECONDS - 0.1)
    await world.stored(ENOUGH)
    assert len(world.log) == 1
    await world.after(CHECK_USAGE_SECONDS)
    assert len(world.log.of("eviction_failed")) == 2
    world.disk.error = None
    world.passes.effect = lambda: world.disk.fill(TARGET)
    await world.after(RETRY_PASS_SECONDS)
    await world.after(CHECK_USAGE_SECONDS)
    assert world.status().failure is None
    assert world.status().passes == 1
    assert not world.status().running
    assert world.restarts() == 0


# A limit of its own.


async def test_folder_with_a_limit_is_scanned_at_first_and_as_things_are_stored_or_time_goes_by(
    world: World,
) -> None:
    world.max_bytes = 1000
    world.passes.outcomes = [report(stored=size, ended=world.now()) for size in (500, 510, 510)]
    await world.start()
    assert world.passes.count == 1
    assert world.passes.limits == Limits(HIGH, 1.0, 1000)
    assert world.status().used == 0.5
    await world.stored(int(RESCAN_SHARE * 1000) - 1)
    await world.after(CHECK_USAGE_SECONDS)
    assert world.passes.count == 1
    assert world.status().used == 0.549
    await world.stored(1)
    await world.after(CHECK_USAGE_SECONDS)
    assert world.passes.count == 2
    assert world.status().used == 0.51
    await world.after(RESCAN_SECONDS - 60)
    assert world.passes.count == 2
    await world.after(60)
    assert world.passes.count == 3


async def test_pass_of_another_process_counts_as_a_scan(world: World) -> None:
    world.max_bytes = 1000
    complete(world.root, report(stored=500, ended=world.now()))
    await world.start()
    await world.stored(int(RESCAN_SHARE * 1000) - 1)
    complete(world.root, report(stored=400, ended=world.now()))
    await world.after(CHECK_USAGE_SECONDS)
    await world.stored(1)
    await world.after(CHECK_USAGE_SECONDS)
    assert world.passes.count == 0
    assert world.status().used == 0.401


# Entries whose artifacts have gone into quarantine.


def put_in_quarantine(root: Path, when: float) -> None:
    (root / QUARANTINE).mkdir(exist_ok=True)
    os.utime(root / QUARANTINE, (when, when))


async def test_entries_are_mended_after_something_went_into_quarantine(world: World) -> None:
    before = world.now() - MEND_SECONDS - 1
    complete(world.root, report(ended=before, entries_checked=before))
    await world.start()
    await world.after(CHECK_USAGE_SECONDS)
    assert world.passes.count == 0
    put_in_quarantine(world.root, now := world.now())
    world.passes.outcomes = [report(ended=now, entries_checked=now + 0.1)]
    await world.after(CHECK_USAGE_SECONDS)
    assert world.passes.count == 1
    await world.after(HOUR)
    assert world.passes.count == 1


async def test_entries_are_mended_a_while_after_the_last_pass(world: World) -> None:
    complete(world.root, report(ended=world.now(), entries_checked=world.now() - 600))
    put_in_quarantine(world.root, world.now() - 10)  # nor does it go on without end
    world.passes.outcomes = [report(ended=world.now() + MEND_SECONDS, entries_checked=0)]
    await world.start()
    await world.after(MEND_SECONDS - 1)
    assert world.passes.count == 0
    await world.after(CHECK_USAGE_SECONDS)
    assert world.passes.count == 1
    await world.after(CHECK_USAGE_SECONDS)
    assert world.passes.count == 1


# Hints.


async def test_hint_for_which_there_is_no_room_is_dropped(nursery: trio.Nursery) -> None:
    mailbox = Mailbox("nobody reads it", capacity=10)
    client = EvictorClient(mailbox.address)

    async def hint() -> None:
        for _ in range(100):
            await client.stored([StoredKey(artifact("A"), 1)])

    assert (await Tasks(nursery).begin(hint())).is_done()
    assert mailbox.depth() == 10
    mailbox.close()
    await client.stored([StoredKey(artifact("A"), 1)])


# Crashes and stops.


async def test_crash_of_what_looks_is_a_crash_of_the_actor(world: World) -> None:
    world.disk.fill(0.9)
    world.passes.outcomes = [ValueError("a bug"), report(1)]
    world.passes.effect = lambda: world.disk.fill(0.9 if world.passes.count == 1 else TARGET)
    await world.start()
    assert world.restarts() == 1
    assert world.passes.count == 2
    assert not world.status().running
    assert world.status().passes == 1


async def test_crash_ends_the_pass_and_so_does_a_stop(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.disk.fill(0.9)
    world.passes.gate = trio.Event()
    await world.start()
    with monkeypatch.context() as bug:
        bug.setattr(world.capacity, "note_stored", lambda _: 1 / 0)
        await world.stored(1)
    assert world.restarts() == 1
    assert (world.passes.cancelled, world.passes.running, world.passes.count) == (1, 1, 2)
    await world.tree.stop()
    assert (world.passes.cancelled, world.passes.running) == (2, 0)
    assert world.tree.error is None
    assert not world.status().running
