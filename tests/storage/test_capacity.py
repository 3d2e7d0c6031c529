"""How full the storage is: of the disk as df has it, or of a limit of its own; and the reserve."""

import errno
import os
import subprocess
from pathlib import Path

import pytest

from cache_actors.storage.capacity import (
    MAX_RESERVE_BYTES,
    MIN_RESERVE_BYTES,
    RESERVE_SHARE,
    Amount,
    Capacity,
    Usage,
)
from cache_actors.storage.errors import NoRoom, Shortage, StorageFull, storage_error

from .stores import Disk

MEBIBYTE = 1 << 20
NO_ROOM = os.strerror(errno.ENOSPC)


# How full.


@pytest.mark.parametrize(
    ("used", "limit", "share"),
    [
        (Amount(50, 10), Amount(100, 100), 0.5),
        (Amount(10, 90), Amount(100, 100), 0.9),
        (Amount(50, 10**9), Amount(100, 0), 0.5),
        (Amount(150), Amount(100), 1.5),
        (Amount(), Amount(100, 100), 0.0),
        (Amount(1, 1), Amount(), 0.0),
    ],
)
def test_share_is_that_of_what_is_scarcest(used: Amount, limit: Amount, share: float) -> None:
    assert Usage(used, limit).share == share


def test_excess_is_what_is_used_beyond_the_share() -> None:
    usage = Usage(Amount(900, 50), Amount(1000, 100))
    assert usage.excess(0.7) == Amount(200, 0)
    assert usage.excess(0.4) == Amount(500, 10)
    assert usage.excess(0.9) == Amount(0, 0)
    assert usage.excess(1.0) == Amount(0, 0)
    assert usage.excess(0.0) == Amount(900, 50)
    assert Usage(Amount(900, 50), Amount(1000)).excess(0.0) == Amount(900, 0)


def test_disk_is_as_full_as_df_says(root: Path) -> None:
    lines = subprocess.check_output(
        ["df", "--block-size=1", "--output=used,avail,iused,iavail", str(root)],  # noqa: S607
        text=True,
    )
    used, available, files, files_available = map(int, lines.splitlines()[1].split())
    usage = Capacity(root).usage()
    assert usage.used.bytes == pytest.approx(used, rel=0.01)
    assert usage.limit.bytes == pytest.approx(used + available, rel=0.01)
    assert usage.used.files == pytest.approx(files, rel=0.01)
    assert usage.limit.files == pytest.approx(files + files_available, rel=0.01)


def test_what_is_roots_alone_counts_for_nothing(root: Path, disk: Disk) -> None:
    disk.f_bfree, disk.f_bavail = 300_000, 100_000
    usage = Capacity(root).usage()
    assert usage.used.bytes == 700_000 * 4096
    assert usage.share == 700_000 / 800_000


def test_disk_without_a_number_of_inodes_is_never_out_of_them(root: Path, disk: Disk) -> None:
    disk.f_files = disk.f_ffree = disk.f_favail = 0
    capacity = Capacity(root)
    assert capacity.usage().limit.files == 0
    assert capacity.usage().share == 0.5
    capacity.check_room(1)


def test_disk_may_be_out_of_inodes_alone(root: Path, disk: Disk) -> None:
    disk.f_ffree = disk.f_favail = 20
    assert Capacity(root).usage().share == 0.98


def test_disk_that_cannot_be_asked_is_an_error(root: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Capacity(root / "missing").usage()


# A limit of its own.


def test_limit_counts_what_a_scan_has_found_and_what_was_stored_since(root: Path) -> None:
    capacity = Capacity(root, max_bytes=1000)
    capacity.note_stored(100)
    assert capacity.usage() == Usage(Amount(100), Amount(1000))
    capacity.note_scan(600)
    assert capacity.usage().share == 0.6
    capacity.note_stored(50)
    capacity.note_stored(50)
    assert capacity.usage().share == 0.7
    capacity.note_scan(200)
    assert capacity.usage() == Usage(Amount(200), Amount(1000))


def test_what_was_stored_during_a_scan_counts_too(root: Path) -> None:
    capacity = Capacity(root, max_bytes=1000)
    capacity.note_stored(100)
    begun = capacity.begin_scan()
    capacity.note_stored(50)
    capacity.note_scan(600, begun)
    assert capacity.usage().used == Amount(650)
    assert capacity.needs_scan(0.05)
    assert not capacity.needs_scan(0.06)


def test_limit_calls_for_a_scan_at_first_and_after_enough_was_stored(root: Path) -> None:
    capacity = Capacity(root, max_bytes=1000)
    capacity.note_stored(1)
    assert capacity.needs_scan(0.05)
    capacity.note_scan(500)
    assert not capacity.needs_scan(0.05)
    capacity.note_stored(49)
    assert not capacity.needs_scan(0.05)
    capacity.note_stored(1)
    assert capacity.needs_scan(0.05)
    capacity.note_scan(500)
    assert not capacity.needs_scan(0.05)


def test_whole_disk_needs_no_scan(root: Path) -> None:
    capacity = Capacity(root)
    capacity.note_stored(1 << 60)
    assert not capacity.needs_scan(0.0)
    assert capacity.usage().used.bytes < 1 << 60


# The reserve.


@pytest.mark.parametrize(
    ("blocks", "reserve"),
    [
        (1000, MIN_RESERVE_BYTES),
        (25_000_000, int(25_000_000 * 4096 * RESERVE_SHARE)),
        (1_000_000_000, MAX_RESERVE_BYTES),
    ],
    ids=["small disk", "disk", "large disk"],
)
def test_uploads_leave_the_reserve_alone(root: Path, disk: Disk, blocks: int, reserve: int) -> None:
    capacity = Capacity(root)
    disk.f_blocks = blocks
    size = 3 * MEBIBYTE
    disk.f_bavail = -(-(reserve + size) // 4096)
    capacity.check_room(size)
    capacity.check_room(0)
    disk.f_bavail -= 1
    disk.f_bfree = blocks  # what is root's alone does not help
    with pytest.raises(NoRoom, match=NO_ROOM) as caught:
        capacity.check_room(size)
    assert (caught.value.errno, caught.value.shortage) == (errno.ENOSPC, Shortage.BYTES)


def test_uploads_leave_some_inodes_alone(root: Path, disk: Disk) -> None:
    capacity = Capacity(root)
    disk.f_favail = 11
    capacity.check_room(1)
    disk.f_favail = 10
    with pytest.raises(NoRoom, match=NO_ROOM) as caught:
        capacity.check_room(1)
    assert caught.value.shortage is Shortage.INODES


def test_room_for_several_uploads_has_an_inode_for_each(root: Path, disk: Disk) -> None:
    capacity = Capacity(root)
    disk.f_favail = 13
    with capacity.reserve(1, 3):
        pass
    with pytest.raises(OSError, match=NO_ROOM), capacity.reserve(1, 4):
        pytest.fail("there is no room")


def test_uploads_stay_within_a_limit_of_its_own(root: Path, disk: Disk) -> None:
    capacity = Capacity(root, max_bytes=1000)
    capacity.note_scan(900)
    capacity.check_room(100)
    with pytest.raises(NoRoom, match=NO_ROOM) as caught:
        capacity.check_room(101)
    assert caught.value.shortage is Shortage.LIMIT
    disk.f_bavail = 0  # and within the disk in any case
    with pytest.raises(OSError, match=NO_ROOM):
        capacity.check_room(1)


@pytest.mark.parametrize(
    ("error", "shortage"),
    [
        (NoRoom(Shortage.LIMIT), Shortage.LIMIT),
        (OSError(errno.EDQUOT, "quota"), Shortage.QUOTA),
        (OSError(errno.ENOSPC, "full"), Shortage.DISK),
    ],
)
def test_full_storage_keeps_what_it_lacks(error: OSError, shortage: Shortage) -> None:
    full = storage_error(error)
    assert isinstance(full, StorageFull)
    assert full.shortage is shortage
