"""Syncs are made one after another on a fast disk, and at the same time on a slow one."""

import errno
import threading

import pytest

from cache_actors.storage.group_sync import MOST_THREADS, SLOW_SECONDS, GroupSync

from .stores import refusing

FAST, SLOW = SLOW_SECONDS / 4, SLOW_SECONDS * 4
PATIENCE = 10.0


class Disk:
    """Syncs that take as long as `seconds` says, by a clock of each thread's own.

    Attributes:
        threads: which thread made each sync.
        told: how many seconds each took.
    """

    def __init__(self) -> None:
        self.seconds = FAST
        self.threads: list[int] = []
        self.told: list[float] = []
        self._clock = threading.local()
        self.group = GroupSync(self.told.append, self._now)

    def _now(self) -> float:
        return getattr(self._clock, "now", 0.0)

    def sync(self) -> None:
        """One sync."""
        self.threads.append(threading.get_ident())
        self._clock.now = self._now() + self.seconds

    def here(self) -> list[bool]:
        """Of each sync since the last call, whether the calling thread made it."""
        made, self.threads = self.threads, []
        return [thread == threading.get_ident() for thread in made]


@pytest.fixture
def disk() -> Disk:
    return Disk()


def test_fast_disk_needs_no_threads(disk: Disk) -> None:
    for _ in range(3):
        assert disk.group.run([disk.sync] * 5) == [None] * 5
    assert disk.here() == [True] * 15


def test_once_a_sync_is_slow_the_others_are_made_in_threads(disk: Disk) -> None:
    disk.seconds = SLOW
    disk.group.run([disk.sync] * 5)
    assert disk.here() == [True] + [False] * 4
    disk.group.run([disk.sync] * 5)
    assert disk.here() == [False] * 5


def test_slow_syncs_are_made_at_the_same_time(disk: Disk) -> None:
    disk.seconds = SLOW
    disk.group.run([disk.sync])
    together = threading.Barrier(MOST_THREADS)

    def meet_the_others() -> None:
        together.wait(PATIENCE)

    assert disk.group.run([meet_the_others] * MOST_THREADS) == [None] * MOST_THREADS


def test_disk_that_is_fast_again_needs_no_threads_any_more(disk: Disk) -> None:
    disk.seconds = SLOW
    disk.group.run([disk.sync] * 2)
    disk.seconds = FAST
    disk.group.run([disk.sync] * 3)
    disk.here()
    disk.group.run([disk.sync] * 3)
    assert disk.here() == [True] * 3


def test_one_sync_alone_is_made_where_it_is_asked_for(disk: Disk) -> None:
    disk.seconds = SLOW
    disk.group.run([disk.sync])
    disk.group.run([disk.sync])
    assert disk.here() == [True, True]


@pytest.mark.parametrize("seconds", [FAST, SLOW])
def test_each_failure_is_told_in_its_place(disk: Disk, seconds: float) -> None:
    disk.seconds = seconds
    disk.group.run([disk.sync])
    syncs = [disk.sync, refusing(errno.EIO), disk.sync, refusing(errno.ENOSPC)]
    failures = disk.group.run(syncs)
    numbers = [failure and failure.errno for failure in failures]
    assert numbers == [None, errno.EIO, None, errno.ENOSPC]


@pytest.mark.parametrize("seconds", [FAST, SLOW])
def test_duration_of_every_sync_is_told(disk: Disk, seconds: float) -> None:
    disk.seconds = seconds
    disk.group.run([disk.sync] * 4)
    assert disk.told == pytest.approx([seconds] * 4)
