"""One pass at a time; what the last one did is known to all, and nothing hangs on it."""

import json
import os
import stat
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from cache_actors.storage.eviction.last_pass import (
    EvictionLock,
    EvictionRunning,
    PassReport,
    last_eviction,
)
from cache_actors.storage.eviction.status import EvictionMonitor
from cache_actors.storage.integrity.scrub import ScrubLock
from cache_actors.storage.layout import LAST_EVICTION
from tests.storage.stores import open_descriptors
from tests.support.mounts import require_root, tmpfs

REPORT = PassReport(1_700_000_000.123456, 1.5, 10, 20, 3000, 86_400.25, 30, 40, 5000, 99.5)


def complete(root: Path, report: PassReport) -> None:
    with EvictionLock(root) as lock:
        lock.record_completed(report)


# The report.


def test_storage_without_a_pass_has_no_report(root: Path) -> None:
    assert last_eviction(root) is None
    assert last_eviction(root / "missing") is None
    with EvictionLock(root):
        assert last_eviction(root) is None
    assert last_eviction(root) is None


@pytest.mark.parametrize("report", [REPORT, replace(REPORT, youngest_evicted_seconds=None)])
def test_report_is_read_as_it_was_written(root: Path, report: PassReport) -> None:
    complete(root, report)
    assert last_eviction(root) == report


def test_later_report_takes_the_place_of_the_one_before(root: Path) -> None:
    complete(root, REPORT)
    short = PassReport(1.0, 0.0, 0, 0, 0, None, 0, 0, 0)
    complete(root, short)
    assert last_eviction(root) == short
    with EvictionLock(root):
        assert last_eviction(root) == short


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"null",
        b"[]",
        b"{}",
        b"1",
        b"[" * 100_000,
        json.dumps(asdict(REPORT))[:-5].encode(),
        json.dumps(asdict(REPORT) | {"more": 1}).encode(),
        *(
            json.dumps(asdict(REPORT) | {name: value}).encode()
            for name in ("ended", "entries_checked", "stored_bytes", "youngest_evicted_seconds")
            for value in ("soon", "1")
        ),
        *(json.dumps(asdict(REPORT) | {name: None}).encode() for name in ("ended", "bytes")),
    ],
    ids=range(19),
)
def test_broken_report_is_none(root: Path, content: bytes) -> None:
    (root / LAST_EVICTION).write_bytes(content)
    assert last_eviction(root) is None
    complete(root, REPORT)
    assert last_eviction(root) == REPORT


def test_report_on_a_full_disk_is_lost_and_no_error(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "small", "size=64k") as root, EvictionLock(root) as lock:
        with pytest.raises(OSError, match="No space left"):
            (root / "ballast").write_bytes(bytes(1 << 17))
        lock.record_completed(REPORT)
        assert last_eviction(root) is None
        (root / "ballast").unlink()
        lock.record_completed(REPORT)
        assert last_eviction(root) == REPORT


# The lock.


def test_second_pass_over_a_storage_is_refused(root: Path, tmp_path: Path) -> None:
    before = open_descriptors()
    with EvictionLock(root) as lock:
        inside = open_descriptors()
        with pytest.raises(EvictionRunning, match="Another eviction of this storage is running"):
            EvictionLock(root)
        assert open_descriptors() <= inside
        with EvictionLock(tmp_path):
            pass
        lock.record_completed(REPORT)
    assert open_descriptors() <= before
    assert last_eviction(root) == REPORT
    with EvictionLock(root):
        pass


def test_storage_that_is_not_there_has_no_lock(root: Path) -> None:
    with pytest.raises(FileNotFoundError):
        EvictionLock(root / "missing")


def test_link_in_its_place_is_not_followed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (root / LAST_EVICTION).symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic link"):
        EvictionLock(root)
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_file_that_root_makes_belongs_to_the_storages_owner(root: Path) -> None:
    require_root()
    os.chown(root, 65534, 65534)
    complete(root, REPORT)
    status = (root / LAST_EVICTION).stat()
    assert (status.st_uid, status.st_gid) == (65534, 65534)
    assert stat.S_IMODE(status.st_mode) == 0o640


def test_scrub_does_not_keep_it_away(root: Path) -> None:
    with ScrubLock(root), EvictionLock(root):
        pass


def test_failure_is_over_with_the_next_pass_but_has_been_counted() -> None:
    record = EvictionMonitor()
    record.note_failure("the disk cannot be read")
    record.note_failure("nor now")
    assert (record.status().failure, record.status().failures) == ("nor now", 2)
    record.note_pass(REPORT)
    assert (record.status().failure, record.status().failures) == (None, 2)
