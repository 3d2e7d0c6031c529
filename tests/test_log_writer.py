"""Log lines are written without waiting and without errors, whatever standard output is."""

import os
import pty
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from pydantic import HttpUrl

from cache_actors.log import new_log
from cache_actors.log_writer import LogWriter
from cache_actors.settings import Settings

LINE = "x" * 999
OutputTo = Callable[[int], LogWriter]


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe's two ends: where it is read, and where it is written."""
    reading, writing = os.pipe()
    yield reading, writing
    for end in reading, writing:
        os.close(end)


@pytest.fixture
def output_to() -> Iterator[OutputTo]:
    """Makes outputs, and closes them after the test."""
    with ExitStack() as outputs:
        yield lambda fd: outputs.enter_context(closing(LogWriter(fd)))


def fill(output: LogWriter) -> int:
    """Write lines until one is lost; return how many were not."""
    written = 0
    while output.write(LINE):
        written += 1
    return written


def read_all(fd: int) -> bytes:
    """What there is to be read."""
    os.set_blocking(fd, False)
    read = b""
    try:
        while piece := os.read(fd, 65536):
            read += piece
    except BlockingIOError:
        pass
    return read


def test_reader_that_stands_still_costs_lines_and_nothing_else(
    pipe: tuple[int, int], output_to: OutputTo
) -> None:
    reading, writing = pipe
    output = output_to(writing)
    written = fill(output)
    assert written > 10
    assert not output.write(LINE)
    assert output.dropped == 2
    assert os.get_blocking(writing)  # for others who have it
    before = read_all(reading)
    assert output.write("after")
    # Whole lines only, however the pipe has cut them.
    lines = (before + read_all(reading)).decode().splitlines()
    assert lines == [LINE] * written + ["after"]


def test_line_longer_than_the_pipe_is_not_cut(pipe: tuple[int, int], output_to: OutputTo) -> None:
    reading, writing = pipe
    output = output_to(writing)
    long = "y" * 300_000
    assert output.write(long)
    read = read_all(reading)
    while not output.write("after"):
        read += read_all(reading)
    read += read_all(reading)
    assert read.decode().splitlines() == [long, "after"]


def test_reader_that_is_gone_costs_lines_and_nothing_else(output_to: OutputTo) -> None:
    reading, writing = os.pipe()
    output = output_to(writing)
    assert output.write(LINE)
    os.close(reading)
    assert not output.write(LINE)
    assert output_to(writing).write(LINE) is False
    os.close(writing)


def test_closed_descriptor_costs_lines_and_nothing_else(output_to: OutputTo) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.close(writing)
    output = output_to(writing)
    assert not output.write(LINE)
    assert output.dropped == 1


def test_socket_that_nobody_reads_costs_lines_and_nothing_else(output_to: OutputTo) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        output = output_to(ours.fileno())
        written = fill(output)
        assert read_all(theirs.fileno()).startswith(f"{LINE}\n".encode() * min(written, 10))
        assert output.write("after") or output.write("after")


def test_terminal_that_stands_still_costs_lines_and_nothing_else(output_to: OutputTo) -> None:
    master, slave = pty.openpty()
    try:
        output = output_to(slave)
        fill(output)
        read_all(master)
        assert output.write("after") or output.write("after")
        assert os.get_blocking(slave)
    finally:
        os.close(master)
        os.close(slave)


def test_file_is_appended_to_where_it_ends(tmp_path: Path, output_to: OutputTo) -> None:
    path = tmp_path / "log"
    with path.open("ab") as file:
        output = output_to(file.fileno())
        assert output.write("one")
        os.write(file.fileno(), b"of another process\n")
        assert output.write("two")
    assert path.read_text().splitlines() == ["one", "of another process", "two"]


def test_full_disk_costs_lines_and_nothing_else(output_to: OutputTo) -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        output = output_to(full.fileno())
        assert not output.write(LINE)
        assert output.dropped == 1


@pytest.mark.parametrize("text", ["é", "\udcff", "\x00", "😀"])
def test_any_text_can_be_written(pipe: tuple[int, int], output_to: OutputTo, text: str) -> None:
    reading, writing = pipe
    assert output_to(writing).write(text)
    assert read_all(reading) == text.encode(errors="backslashreplace") + b"\n"


def test_lost_lines_are_told_of_when_others_go_through(
    pipe: tuple[int, int], output_to: OutputTo
) -> None:
    reading, writing = pipe
    output = output_to(writing)
    log = new_log(Settings(server_url=HttpUrl("http://tuist"), log_format="text"), output)
    fill(output)
    log.info("lost")
    read_all(reading)
    log.info("written")
    assert b"log_lines_dropped" in read_all(reading)
    log.info("written again")
    assert b"log_lines_dropped" not in read_all(reading)


def test_closed_standard_descriptors_are_given_to_no_file(tmp_path: Path) -> None:
    """A command whose standard output is closed must not write into whatever it opens next."""
    check = (
        "import os; from cache_actors.log_writer import open_standard_descriptors as to_be_tried; "
        f"to_be_tried(); fd = os.open({str(tmp_path / 'file')!r}, os.O_CREAT | os.O_WRONLY); "
        "os.write(1, b'log'); os.write(2, b'log'); assert fd > 2"
    )
    shell = 'exec "$0" -c "$1" <&- >&- 2>&-'
    subprocess.run(["/bin/sh", "-c", shell, sys.executable, check], check=True)
    assert (tmp_path / "file").read_bytes() == b""


WRITER = """
import sys
from cache_actors.log_writer import LogWriter
output = LogWriter(1)
written = 0
while written < 100:
    written += output.write(sys.argv[1] * int(sys.argv[2]))
"""


@pytest.mark.parametrize("size", [100, 6000, 20_000])
def test_lines_of_processes_that_share_a_pipe_are_whole(size: int) -> None:
    reading, writing = os.pipe()
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, letter, str(size)], stdout=writing)
        for letter in "ab"
    ]
    os.close(writing)
    with open(reading, "rb") as pipe:  # noqa: PTH123
        lines = pipe.read().decode().splitlines()
    assert [writer.wait() for writer in writers] == [0, 0]
    # The last line of each may not have come to its end when its process did.
    whole = {letter * size for letter in "ab"}
    assert len(lines) > 190
    assert sum(line not in whole for line in lines) <= 2


ENDING = """
from cache_actors.log_writer import STANDARD_OUTPUT
STANDARD_OUTPUT.write("y" * 300_000)
assert STANDARD_OUTPUT._rest
"""


def test_line_of_a_process_that_ends_is_written_to_its_end() -> None:
    """So that the next process's line is one of its own."""
    reading, writing = os.pipe()
    try:
        with subprocess.Popen([sys.executable, "-c", ENDING], stdout=writing) as process:
            read = b""
            while process.poll() is None:
                read += read_all(reading)
        assert process.returncode == 0
        os.write(writing, b"of another process\n")
        lines = (read + read_all(reading)).decode().splitlines()
    finally:
        os.close(reading)
        os.close(writing)
    assert lines == ["y" * 300_000, "of another process"]


def test_process_whose_output_nobody_reads_ends_all_the_same() -> None:
    reading, writing = os.pipe()
    try:
        subprocess.run([sys.executable, "-c", ENDING], stdout=writing, check=True, timeout=60)
    finally:
        os.close(reading)
        os.close(writing)
