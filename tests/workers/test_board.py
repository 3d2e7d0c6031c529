"""Boards: reports in shared memory, whole or not at all."""

import os
import threading
from collections.abc import Iterator
from contextlib import closing
from itertools import islice

import pytest

from cache_actors.workers.board import _HEAD, SLOT_BYTES, Board


@pytest.fixture
def board() -> Iterator[Board]:
    with closing(Board()) as board:
        yield board


def as_another_process_sees(board: Board) -> Board:
    """The same board, by the same descriptor."""
    return Board(board.fd)


def test_new_board_is_empty(board: Board) -> None:
    assert board.read() is None


def test_latest_report_counts(board: Board) -> None:
    reader = as_another_process_sees(board)
    for report in (b"first", b"second, which is longer", b"3", b""):
        board.write(report)
        assert reader.read() == report


def test_next_incarnation_of_a_writer_goes_on(board: Board) -> None:
    for report in (b"first", b"second", b"third"):
        as_another_process_sees(board).write(report)
        assert board.read() == report


def test_report_that_was_not_finished_does_not_count(board: Board) -> None:
    board.write(b"first")
    board.write(b"second")
    os.pwrite(board.fd, _HEAD.pack(3, 100, 12345) + b"thi", SLOT_BYTES)
    assert board.read() == b"second"


def test_cleared_board_is_empty_and_can_be_written_to(board: Board) -> None:
    board.write(b"first")
    board.write(b"second")
    board.clear()
    assert board.read() is None
    as_another_process_sees(board).write(b"third")
    assert board.read() == b"third"


def test_report_that_is_too_large_is_refused(board: Board) -> None:
    board.write(b"first")
    largest = bytes(SLOT_BYTES - _HEAD.size)
    with pytest.raises(ValueError, match="does not fit"):
        board.write(largest + b"x")
    assert board.read() == b"first"
    for _ in range(2):
        board.write(largest)
        assert board.read() == largest


def test_readers_never_see_half_of_a_report(board: Board) -> None:
    enough = threading.Event()

    def write() -> None:
        number = 0
        while not enough.is_set():
            number += 1
            board.write(b"%d" % (number % 10) * (number % 5_000))

    board.write(b"1")
    writer = threading.Thread(target=write)
    writer.start()
    reader = as_another_process_sees(board)
    reports = (reader.read() for _ in range(100_000))
    seen = list(islice((report for report in reports if report is not None), 4_000))
    enough.set()
    writer.join()
    assert len(seen) == 4_000
    assert all(len(set(report)) <= 1 for report in seen)
