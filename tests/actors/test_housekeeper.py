"""The housekeeper notices what is wrong with the disk without anyone writing, and cleans up."""

import errno
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from cache_actors.actors import housekeeper
from cache_actors.actors.housekeeper import PROBE_SECONDS, Housekeeper
from cache_actors.storage.files.store import FileStore
from cache_actors.storage.files.temporary import TemporaryFolder
from cache_actors.storage.files.unfinished import UPLOADS, UnfinishedUploads
from cache_actors.storage.health import StorageState, StorageStatus
from cache_actors.storage.layout import TEMPORARY

from .helpers import Log, after, fail_at, leftovers

OK, FULL, FAILING = StorageState.OK, StorageState.FULL, StorageState.FAILING


@dataclass
class Household:
    """A housekeeper at work, on a clock that only the test moves."""

    store: FileStore
    temporaries: list[TemporaryFolder]
    clock: MockClock
    log: Log = field(default_factory=Log)
    stop: trio.Event = field(default_factory=trio.Event)

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        threads = trio.CapacityLimiter(1)
        unfinished = UnfinishedUploads(self.store, self.temporaries[0])
        keeper = Housekeeper(self.store, self.temporaries, unfinished, threads, self.log)
        await keeper.run(self.stop, task_status.started)

    async def look(self) -> StorageStatus:
        """What is known after its next look."""
        await after(self.clock, PROBE_SECONDS)
        return self.store.health.status()

    @asynccontextmanager
    async def at_work(self) -> AsyncGenerator[Self, None]:
        """After its first look, and until it has ended as it was told to."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.run)
            await trio.testing.wait_all_tasks_blocked()
            yield self
            self.stop.set()
            await trio.testing.wait_all_tasks_blocked()
            assert not nursery.child_tasks
        assert leftovers(self.temporaries[0]) == []


@pytest.fixture
async def household(
    store: FileStore, temporary: TemporaryFolder, clock: MockClock
) -> AsyncGenerator[Household, None]:
    async with Household(store, [temporary], clock).at_work() as household:
        yield household


@pytest.mark.parametrize(
    ("call", "number", "state", "reason"),
    [
        ("posix_fallocate", errno.ENOSPC, FULL, "The storage is full: No space left on device"),
        ("writev", errno.EDQUOT, FULL, "The storage is full: Disk quota exceeded"),
        ("setxattr", errno.ENOSPC, FULL, "The storage is full: No space left on device"),
        ("writev", errno.EIO, FAILING, "The storage failed: Input/output error"),
        ("fdatasync", errno.EIO, FAILING, "The storage failed: Input/output error"),
        ("posix_fallocate", errno.EROFS, FAILING, "The storage failed: Read-only file system"),
    ],
)
async def test_trouble_and_recovery_are_known_without_writers_and_told_once(
    household: Household, call: str, number: int, state: StorageState, reason: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fail_at(patch, call, number)
        for _ in range(3):
            status = await household.look()
            assert (status.state, status.reason) == (state, reason)
    trouble = {"event": "storage_state", "state": state.value, "reason": reason}
    assert household.log == [trouble]
    for _ in range(3):
        assert (await household.look()).state is OK
    recovery = {"event": "storage_state", "state": "ok", "reason": None}
    assert household.log == [trouble, recovery]


async def test_change_from_one_trouble_to_another_is_told(household: Household) -> None:
    for number in (errno.ENOSPC, errno.EIO, errno.EIO, errno.ENOSPC):
        with pytest.MonkeyPatch.context() as patch:
            fail_at(patch, "fdatasync", number)
            await household.look()
    assert [line["state"] for line in household.log] == ["full", "failing", "full"]


async def test_trouble_at_the_start_is_told(
    store: FileStore, temporary: TemporaryFolder, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(monkeypatch, "fdatasync", errno.EIO)
    async with Household(store, [temporary], clock).at_work() as household:
        assert store.health.status().state is FAILING
        assert [line["state"] for line in household.log] == ["failing"]


# Cleaning up.


def leave(parent: Path, digit: str) -> Path:
    """What a process that was killed has left."""
    folder = parent / ("cache-actors-" + digit * 32)
    folder.mkdir(parents=True)
    (folder / "0").write_bytes(b"half a file")
    return folder


async def test_leftovers_are_removed_after_a_while_and_again_and_again(
    household: Household, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeper, "SWEEP_EVERY", sweep_every := 5)
    for digit in "ab":
        left = leave(storage / TEMPORARY, digit)
        for _ in range(sweep_every - 1):
            await household.look()
        assert left.exists()
        await household.look()
        assert not left.exists()


async def test_every_folder_is_swept_at_the_first_look_though_one_fails(
    store: FileStore,
    temporary: TemporaryFolder,
    tmp_path: Path,
    clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = TemporaryFolder(tmp_path / "uploads")
    left = leave(tmp_path / "uploads", "a")
    really_sweep = TemporaryFolder.sweep

    def sweep(folder: TemporaryFolder) -> None:
        if folder is temporary:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        really_sweep(folder)

    monkeypatch.setattr(TemporaryFolder, "sweep", sweep)
    async with Household(store, [temporary, other], clock).at_work() as household:
        assert not left.exists()
        assert (await household.look()).state is OK
    other.remove()


async def test_folder_of_uploads_that_cannot_be_read_ends_nothing(
    store: FileStore, temporary: TemporaryFolder, storage: Path, clock: MockClock
) -> None:
    (storage / TEMPORARY / UPLOADS).touch()
    async with Household(store, [temporary], clock).at_work() as household:
        assert (await household.look()).state is OK
