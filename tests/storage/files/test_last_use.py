"""When a file was used last is what its times say, and noting a use changes nothing else."""

import errno
import os
from pathlib import Path

import pytest

from cache_actors.storage.files.last_use import WRONG_CLOCK_NS, last_use, touch, touch_path
from tests.storage.stores import open_descriptors, refusing, times_of

T = 1_700_000_000_123_456_789


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"bytes")
    return path


def set_times(path: Path, read: int, written: int) -> None:
    os.utime(path, ns=(read, written))


@pytest.mark.parametrize(("read", "written"), [(T, T - 1), (T - 1, T), (T, T)])
def test_last_use_is_the_later_of_reading_and_writing(path: Path, read: int, written: int) -> None:
    set_times(path, read, written)
    assert last_use(path.stat()) == T


def test_reading_is_a_use_where_the_mount_allows_that(path: Path) -> None:
    if os.statvfs(path).f_flag & os.ST_NOATIME:
        pytest.skip("access times are not kept here")
    set_times(path, T - 1, T)  # as with relatime, it has been written since it was read
    path.read_bytes()
    assert last_use(path.stat()) > T


def test_touch_moves_the_access_time_and_not_the_modification_time(path: Path) -> None:
    set_times(path, T - 5, T - 10)
    assert touch_path(path, T)
    assert times_of(path) == (T, T - 10)


@pytest.mark.parametrize(
    ("read", "written"),
    [(T + 1, T - 10), (T - 10, T + 1), (T, T - 10), (T - 10, T + WRONG_CLOCK_NS)],
)
def test_use_that_was_later_stays(path: Path, read: int, written: int) -> None:
    set_times(path, read, written)
    assert touch_path(path, T)
    assert times_of(path) == (read, written)


def test_use_after_the_status_was_taken_is_not_known(path: Path) -> None:
    """Hence whoever takes one touches at once."""
    set_times(path, T - 10, T - 10)
    fd = os.open(path, os.O_RDONLY)
    touch(fd, os.fstat(fd), T)
    os.close(fd)
    assert times_of(path) == (T, T - 10)


@pytest.mark.parametrize("when", ["read", "written"])
def test_time_that_only_a_wrong_clock_can_have_set_is_put_right(path: Path, when: str) -> None:
    """It would count as long past, and no use could be noted ever after."""
    future = T + 2 * WRONG_CLOCK_NS
    set_times(path, *((future, T - 10) if when == "read" else (T - 10, future)))
    touch_path(path, T)
    assert last_use(path.stat()) == T


def test_file_that_is_not_there_is_not_touched(path: Path) -> None:
    assert not touch_path(path.with_name("missing"), T)
    assert not touch_path(path / "below a file", T)
    assert not path.with_name("missing").exists()


def test_link_is_not_followed(path: Path) -> None:
    before = times_of(path)
    link = path.with_name("link")
    link.symlink_to(path)
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        touch_path(link, T * 2)
    assert times_of(path) == before


def test_file_of_somebody_else_is_named_in_the_error_and_closed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_times(path, 0, 0)
    before = open_descriptors()
    assert touch_path(path, T)
    monkeypatch.setattr(os, "utime", refusing(errno.EPERM))
    with pytest.raises(PermissionError) as caught:
        touch_path(path, 2 * T)
    assert caught.value.filename == str(path)
    assert open_descriptors() <= before
