"""Shared reports: reports in shared memory, whole or not at all."""

import os
import threading
from collections.abc import Iterator
from contextlib import closing
from itertools import islice

import pytest

from cache_actors.workers.shared_report import _HEAD, SLOT_BYTES, SharedReport


@pytest.fixture
def shared_report() -> Iterator[SharedReport]:
    with closing(SharedReport()) as shared_report:
        yield shared_report


def as_another_process_sees(shared_report: SharedReport) -> SharedReport:
    """The same shared report, by the same descriptor."""
    return SharedReport(shared_report.fd)


def test_new_board_is_empty(shared_report: SharedReport) -> None:
    assert shared_report.read() is None


def test_latest_report_counts(shared_report: SharedReport) -> None:
    reader = as_another_process_sees(shared_report)
    for report in (b"first", b"second, which is longer", b"3", b""):
        shared_report.write(report)
        assert reader.read() == report


def test_next_incarnation_of_a_writer_goes_on(shared_report: SharedReport) -> None:
    for report in (b"first", b"second", b"third"):
        as_another_process_sees(shared_report).write(report)
        assert shared_report.read() == report


def test_report_that_was_not_finished_does_not_count(shared_report: SharedReport) -> None:
    shared_report.write(b"first")
    shared_report.write(b"second")
    os.pwrite(shared_report.fd, _HEAD.pack(3, 100, 12345) + b"thi", SLOT_BYTES)
    assert shared_report.read() == b"second"


def test_cleared_board_is_empty_and_can_be_written_to(shared_report: SharedReport) -> None:
    shared_report.write(b"first")
    shared_report.write(b"second")
    shared_report.clear()
    assert shared_report.read() is None
    as_another_process_sees(shared_report).write(b"third")
    assert shared_report.read() == b"third"


def test_report_that_is_too_large_is_refused(shared_report: SharedReport) -> None:
    shared_report.write(b"first")
    largest = bytes(SLOT_BYTES - _HEAD.size)
    with pytest.raises(ValueError, match="does not fit"):
        shared_report.write(largest + b"x")
    assert shared_report.read() == b"first"
    for _ in range(2):
        shared_report.write(largest)
        assert shared_report.read() == largest


def test_readers_never_see_half_of_a_report(shared_report: SharedReport) -> None:
    enough = threading.Event()

    def write() -> None:
        number = 0
        while not enough.is_set():
            number += 1
            shared_report.write(b"%d" % (number % 10) * (number % 5_000))

    shared_report.write(b"1")
    writer = threading.Thread(target=write)
    writer.start()
    reader = as_another_process_sees(shared_report)
    reports = (reader.read() for _ in range(100_000))
    seen = list(islice((report for report in reports if report is not None), 4_000))
    enough.set()
    writer.join()
    assert len(seen) == 4_000
    assert all(len(set(report)) <= 1 for report in seen)
