"""Whether the storage can be written to, as those who write have found."""

import errno
import os
import time

import pytest

from cache_actors.storage.errors import StorageError, StorageFull, storage_error
from cache_actors.storage.health import StorageHealth, StorageState

OK, FULL, FAILING = StorageState.OK, StorageState.FULL, StorageState.FAILING


def error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


NO_SPACE, NO_QUOTA, BROKEN = error(errno.ENOSPC), error(errno.EDQUOT), error(errno.EIO)
READ_ONLY = error(errno.EROFS)
BUSY = [error(number) for number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EBUSY)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still, at its only item."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def health(clock: list[float]) -> StorageHealth:
    assert clock
    return StorageHealth()


def test_storage_is_well_until_it_is_not(health: StorageHealth) -> None:
    status = health.status()
    assert (status.state, status.reason, status.since) == (OK, None, 100.0)
    assert (status.free_bytes, status.free_inodes) == (None, None)


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [
        ([None], OK),
        ([NO_SPACE], FULL),
        ([NO_QUOTA], FULL),
        ([NO_SPACE, NO_QUOTA], FULL),
        ([None, NO_SPACE, None], FULL),
        ([BROKEN], FAILING),
        ([READ_ONLY], FAILING),
        ([NO_SPACE, BROKEN], FAILING),
        ([BROKEN, NO_SPACE], FAILING),
        ([None, BROKEN], FAILING),
        ([None, *BUSY], OK),
        ([NO_SPACE, *BUSY], FULL),
    ],
)
def test_state_is_what_writing_came_to(
    health: StorageHealth, outcomes: list[object], state: StorageState
) -> None:
    health.note(outcomes)
    assert health.status().state is state
    assert (health.status().reason is None) == (state is OK)


def test_reason_says_what_is_wrong_and_names_no_path(health: StorageHealth) -> None:
    health.note([OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/secret")])
    assert health.status().reason == "The storage is full: No space left on device"
    health.note([OSError(errno.EIO, os.strerror(errno.EIO), "/secret")])
    assert health.status().reason == "The storage failed: Input/output error"


@pytest.mark.parametrize("outcomes", [[], BUSY], ids=["nothing", "busy"])
@pytest.mark.parametrize("before", [[None], [NO_SPACE], [BROKEN]], ids=["ok", "full", "failing"])
def test_what_says_nothing_of_the_storage_changes_nothing(
    health: StorageHealth, clock: list[float], before: list[object], outcomes: list[object]
) -> None:
    health.note(before)
    known = health.status()
    clock[0] += 1
    health.note(outcomes)
    assert health.status() == known


def test_state_counts_from_when_it_began(health: StorageHealth, clock: list[float]) -> None:
    for now, outcome, since in (
        (101, NO_SPACE, 101),
        (102, NO_QUOTA, 101),
        (103, BROKEN, 103),
        (104, READ_ONLY, 103),
        (105, None, 105),
        (106, None, 105),
        (107, NO_SPACE, 107),
    ):
        clock[0] = now
        health.note([outcome])
        assert health.status().since == since


def test_one_good_write_is_recovery(health: StorageHealth) -> None:
    health.note([BROKEN])
    health.note([None])
    assert (health.status().state, health.status().reason) == (OK, None)


def test_room_is_kept_beside_the_state(health: StorageHealth) -> None:
    health.note_room(1000, 20)
    health.note([NO_SPACE])
    status = health.status()
    assert (status.free_bytes, status.free_inodes, status.state) == (1000, 20, FULL)
    health.note_room(0, 0)
    status = health.status()
    assert (status.free_bytes, status.free_inodes, status.state) == (0, 0, FULL)


# What errors mean to callers.


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_lack_of_room_is_storage_full(number: int) -> None:
    error = storage_error(OSError(number, os.strerror(number), "/cas/secret/path"))
    assert isinstance(error, StorageFull)
    assert os.strerror(number) in str(error)


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EROFS, errno.ENOENT])
def test_anything_else_is_not_lack_of_room(number: int) -> None:
    error = storage_error(OSError(number, os.strerror(number), "/cas/secret/path"))
    assert type(error) is StorageError
    assert os.strerror(number) in str(error)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_no_path_is_named(number: int) -> None:
    assert "path" not in str(
        storage_error(OSError(number, os.strerror(number), "/cas/secret/path"))
    )


def test_error_without_a_reason_is_named_by_its_class() -> None:
    assert "TimeoutError" in str(storage_error(TimeoutError()))
