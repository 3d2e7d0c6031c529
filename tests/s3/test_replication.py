"""Replication: what is announced and what walks find, with failures of every sort between."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from cache_actors.s3 import replication as module
from cache_actors.s3.errors import BucketError, Rejected, SlowDown, Unreachable
from cache_actors.s3.push import Pushed
from cache_actors.s3.replication import Backlog, Finished, Replication
from cache_actors.s3.walk import Unshared, WalkRunning, walk_lock
from cache_actors.storage.layout import Key
from tests.support.waiting import eventually

from .pushes import Disk, WatchedBucket

SIZE = 4096


class Trial(Replication):
    """A replication whose ends are remembered."""

    def __init__(self, disk: Disk, bucket: WatchedBucket, *, entries: bool = True) -> None:
        self.ends: list[Finished] = []
        self.troubles: list[str] = []
        super().__init__(
            disk.root,
            bucket,
            concurrency=3,
            entries=entries,
            finished=self.ends.append,
            log=self.troubles.append,
        )

    def tell(self, *keys: Key) -> None:
        self.announce([Unshared(key, SIZE) for key in keys])

    def ended(self, key: Key, times: int = 1) -> list[Finished]:
        """The ends of `key`, once there are so many."""
        eventually(lambda: sum(each.key == key for each in self.ends) >= times)
        return [each for each in self.ends if each.key == key]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "BACK_OFF_SECONDS", "MAX_BREAK_SECONDS", "WALK_SOON_SECONDS":
        monkeypatch.setattr(module, name, 0.001)
    for name in "OPEN_SECONDS", "MAX_OPEN_SECONDS":
        monkeypatch.setattr(f"cache_actors.s3.breaker.{name}", 0.001)


New = Callable[..., Trial]


@pytest.fixture
def new(disk: Disk, bucket: WatchedBucket) -> Iterator[New]:
    made: list[Trial] = []

    def make(*, entries: bool = True, start: bool = True) -> Trial:
        made.append(Trial(disk, bucket, entries=entries))
        if start:
            made[-1].start()
        return made[-1]

    yield make
    for each in made:
        each.stop()


def test_what_is_announced_is_pushed_and_reported_with_its_lag(
    disk: Disk, bucket: WatchedBucket, new: New
) -> None:
    artifact, entry = disk.artifact(1), disk.entry("0~a", 1)
    trial = new()
    trial.tell(artifact, entry)
    (end,) = trial.ended(entry)
    assert (end.outcome, end.reason) == (Pushed.DONE, None)
    assert end.lag is not None
    assert bucket.pushed() == [artifact, entry]
    assert trial.backlog() == Backlog()


def test_walk_finds_what_was_never_announced(disk: Disk, bucket: WatchedBucket, new: New) -> None:
    artifacts = [disk.artifact(number) for number in range(20)]
    entry, fresh, old, unused = disk.entry("0~a", 0), *[disk.artifact(n) for n in (90, 91, 92)]
    disk.mark(fresh, 6)
    disk.mark(old, 8)  # and used since: it has just been written
    disk.mark(unused, -0.1)
    trial = new()
    assert trial.walk() == 0
    assert set(bucket.pushed()) == {*artifacts, entry, old}
    assert len(bucket.puts) == 22
    assert {each.lag for each in trial.ends} == {None}
    bucket.puts.clear()
    assert trial.walk() == 0
    assert bucket.puts == []


def test_walk_again_pushes_all_whatever_the_marks(
    disk: Disk, bucket: WatchedBucket, new: New
) -> None:
    artifact, entry = disk.artifact(1), disk.entry("0~a", 1)
    trial = new()
    trial.walk()
    bucket.puts.clear()
    later = 2**32
    assert trial.walk(again_before=later) == 0
    assert set(bucket.pushed()) == {artifact, entry}


def test_entries_may_be_left_out(disk: Disk, bucket: WatchedBucket, new: New) -> None:
    artifact, _ = disk.artifact(1), disk.entry("0~a", 1)
    assert new(entries=False).walk() == 0
    assert bucket.pushed() == [artifact]


def amount(backlog: Backlog) -> tuple[int, int]:
    return backlog.files, backlog.bytes


@pytest.mark.parametrize("error", [Unreachable("down"), SlowDown("less")])
def test_outage_is_waited_for_and_all_is_pushed_after_it(
    disk: Disk, bucket: WatchedBucket, new: New, error: BucketError
) -> None:
    keys = [disk.artifact(number) for number in range(30)]
    down = threading.Event()

    def fail(_: str) -> None:
        if not down.is_set():
            raise error

    bucket.before_put = fail
    trial = new()
    trial.tell(*keys)
    threading.Thread(target=trial.keep_walking).start()
    eventually(lambda: bucket.breaker.error is not None)
    eventually(lambda: amount(trial.backlog()) == (30, 30 * SIZE))  # a walk counts some twice
    down.set()
    eventually(lambda: set(bucket.pushed()) == set(keys))
    eventually(lambda: trial.backlog() == Backlog())
    assert all(map(disk.is_marked, keys))


def test_file_that_is_rejected_is_left_to_the_next_walk(
    disk: Disk, bucket: WatchedBucket, new: New
) -> None:
    bad, good = disk.artifact(1), disk.artifact(2)
    trial = new()
    bucket.fail(Rejected("400 EntityTooLarge"))
    trial.tell(bad)
    (end,) = trial.ended(bad)
    assert (end.outcome, end.reason) == (None, "400 EntityTooLarge")
    trial.tell(good)
    trial.ended(good)
    left = trial.backlog()
    assert (left.files, left.bytes) == (1, SIZE)
    assert left.oldest > 0
    assert trial.walk() == 0
    assert disk.is_marked(bad)
    assert trial.backlog() == Backlog()


def test_file_that_was_left_is_pushed_within_seconds(
    disk: Disk, bucket: WatchedBucket, new: New
) -> None:
    first, second = disk.artifact(1), disk.artifact(2)
    trial = new()
    walking = threading.Thread(target=trial.keep_walking)
    walking.start()
    trial.ended(first)
    trial.ended(second)
    eventually(lambda: trial._walk_at > time.monotonic() + 60)  # nothing was left
    third = disk.artifact(3)
    bucket.fail(SlowDown("less"), SlowDown("less"), SlowDown("less"))
    trial.tell(third)
    trial.ended(third, times=2)
    assert disk.is_marked(third)
    trial.stop()
    walking.join(60)


def test_file_that_fails_by_itself_holds_up_no_other(
    disk: Disk, bucket: WatchedBucket, new: New
) -> None:
    bad, good = disk.artifact(1), [disk.artifact(number) for number in range(2, 20)]

    def fail(name: str) -> None:
        if bad.id in name:
            raise Unreachable("no answer in time")

    bucket.before_put = fail
    trial = new()
    trial.tell(bad, *good)
    (end,) = trial.ended(bad)
    assert end.reason == "no answer in time"
    eventually(lambda: set(bucket.pushed()) == set(good))


def test_entry_is_left_until_its_artifact_comes(
    disk: Disk, bucket: WatchedBucket, new: New
) -> None:
    entry = disk.entry("0~a", 1)
    trial = new()
    trial.tell(entry)
    (end,) = trial.ended(entry)
    assert (end.outcome, end.reason) == (None, None)
    assert trial.backlog().files == 1
    disk.artifact(1)
    assert trial.walk() == 0
    assert disk.is_marked(entry)


def test_more_than_can_wait_is_found_by_a_walk(
    disk: Disk, bucket: WatchedBucket, new: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 5)
    keys = [disk.artifact(number) for number in range(40)]
    trial = new(start=False)
    trial.tell(*keys)
    assert trial.backlog().files == 40
    assert [each.outcome for each in trial.ends] == [None] * 35
    trial.start()
    threading.Thread(target=trial.keep_walking).start()
    eventually(lambda: set(bucket.pushed()) == set(keys))
    eventually(lambda: trial.backlog() == Backlog())


def test_entry_that_is_announced_while_it_is_pushed_is_pushed_again(
    disk: Disk, bucket: WatchedBucket, new: New
) -> None:
    entry = disk.entry("0~a", salt="first")
    trial = new()
    with bucket.held(entry) as reached:
        trial.tell(entry)
        assert reached.wait(60)
        disk.entry("0~a", salt="second")
        trial.tell(entry)
        trial.tell(entry)
        assert trial.ends == []
    trial.ended(entry)
    assert bucket.content(entry) == entry.path(disk.root).read_bytes()
    assert disk.is_marked(entry)


def test_walk_and_announcements_take_turns(disk: Disk, new: New) -> None:
    found = [disk.artifact(number) for number in range(30)]
    trial = new(start=False)
    walking = threading.Thread(target=trial.walk)
    walking.start()
    eventually(lambda: len(trial._found) == 3)
    trial.tell(*[disk.artifact(number) for number in range(100, 130)])
    taken = [trial._take() for _ in range(6)]
    is_found = [each is not None and each[0] in found for each in taken]
    assert is_found in ([True, False] * 3, [False, True] * 3)
    trial.stop()
    walking.join(60)


def test_one_process_walks_at_a_time(disk: Disk, new: New) -> None:
    with walk_lock(disk.root), pytest.raises(WalkRunning):
        new().walk()
    assert new().walk() == 0


def test_walk_that_has_to_wait_for_another_is_tried_at_growing_intervals(
    disk: Disk, new: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[float] = []

    def is_running(_: object) -> None:
        tries.append(time.monotonic())
        raise WalkRunning

    monkeypatch.setattr(module, "walk_lock", is_running)
    monkeypatch.setattr(module, "WALK_SOON_SECONDS", 0.01)
    trial = new()
    walking = threading.Thread(target=trial.keep_walking)
    walking.start()
    eventually(lambda: len(tries) >= 5)
    trial.stop()
    walking.join(60)
    assert all(later - tries[0] >= 0.01 * (2**n - 1) for n, later in enumerate(tries))


def test_stop_waits_for_what_was_announced_but_not_for_ever(
    disk: Disk, bucket: WatchedBucket, new: New
) -> None:
    keys = [disk.artifact(number) for number in range(50)]
    trial = new()
    trial.tell(*keys)
    trial.stop(60)
    assert set(bucket.pushed()) == set(keys)
    other = new()
    with bucket.held(late := disk.artifact(99)):
        other.tell(late)
        other.stop(0.01)
