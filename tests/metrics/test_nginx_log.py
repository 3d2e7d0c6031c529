"""nginx's log of its own answers, and what else may be in it."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_actors.metrics import nginx_log
from cache_actors.metrics.nginx_log import NginxLog, read_lines
from cache_actors.metrics.served import By, Route, Served

READ = b"artifact GET 200 100 0.001 -\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.log"


@pytest.fixture
def log(path: Path) -> Iterator[NginxLog]:
    log = NginxLog(path)
    log.take()
    yield log
    log.close()


def append(path: Path, text: bytes) -> None:
    """Write as nginx does."""
    with path.open("ab") as file:
        file.write(text)


def count(log: NginxLog) -> int:
    """How many requests there are in what has come."""
    return sum(served.times for served in log.take().served)


@pytest.mark.parametrize(
    ("line", "route"),
    [
        (b"artifact GET", Route.ARTIFACT_READ),
        (b"artifact POST", Route.ARTIFACT_STORE),
        (b"artifact DELETE", Route.OTHER),
        (b"entry GET", Route.ENTRY_READ),
        (b" GET", Route.OTHER),
        (b" -", Route.OTHER),
        (b"unheard-of GET", None),
    ],
)
def test_line_names_its_route(line: bytes, route: Route | None) -> None:
    taken = read_lines(line + b" 204 5 0.250 -\n")
    if route is None:
        assert taken.ignored == 1
    else:
        expected = Served(By.NGINX, route, 204, 0.25, 5, duplicate=True)
        assert list(taken.served) == [expected]


@pytest.mark.parametrize(
    ("upstream", "is_alone"),
    [
        (b"-", True),
        (b"502", True),
        (b"502, 504", True),
        (b"503", False),
        (b"502, 204", False),
        (b"504 : 204", False),
    ],
)
def test_what_the_service_has_answered_is_left_out(upstream: bytes, is_alone: bool) -> None:
    taken = read_lines(b"artifact POST 503 10 0.001 " + upstream + b"\n")
    assert len(taken.served) == is_alone
    assert taken.ignored == 0


def test_requests_that_differ_in_size_only_are_added_up() -> None:
    taken = read_lines(
        READ * 3
        + b"artifact GET 200 50 0.001 -\n"
        + b"artifact GET 404 9 0.001 -\n"
        + b"artifact GET 777 0 0.000 -\n"
    )
    odd, hits, misses = sorted(taken.served, key=lambda served: served.status)
    assert (odd.status, odd.times) == (0, 1)  # none that HTTP knows
    assert (hits.times, hits.sent) == (4, 350)
    assert (misses.times, misses.sent) == (1, 9)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"artifact GET 200 100 -",
        b"artifact GET 200 100 nan -",
        b"artifact GET 200 -1 0.000 -",
        b"artifact GET 2000 1 0.000 -",
        b"artifact GET 200 1 0.000 more -",
        b"artifact GET 200 " + b"9" * 400 + b" 0.000 -",
        b"<13>Jan  1 00:00:00 nginx: artifact GET 200 1 0.000 -",
        b"\xff\x00\xc3",
    ],
)
def test_garbage_is_counted_and_nothing_else(line: bytes) -> None:
    taken = read_lines(READ + line + b"\n" + READ)
    assert taken.ignored == 1
    assert [served.times for served in taken.served] == [2]


@given(st.binary())
def test_any_bytes_can_be_read(text: bytes) -> None:
    for served in read_lines(text).served:
        assert served.times > 0
        assert served.sent >= 0


def test_what_is_taken_is_removed(path: Path, log: NginxLog) -> None:
    for times in 1, 5:
        append(path, READ * times)
        assert count(log) == times
        assert path.stat().st_size == 0
    assert count(log) == 0


def test_line_that_is_still_being_written_is_waited_for(path: Path, log: NginxLog) -> None:
    append(path, READ + READ[:10])
    assert count(log) == 1
    append(path, READ[10:])
    assert count(log) == 1
    assert path.stat().st_size == 0


def test_line_that_never_ends_is_dropped(path: Path, log: NginxLog) -> None:
    append(path, READ[:10])
    assert log.take().ignored == 0
    assert log.take().ignored == 1
    assert path.stat().st_size == 0


def test_much_is_taken_in_pieces(
    path: Path, log: NginxLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nginx_log, "MOST_BYTES", 3 * len(READ) + 5)
    append(path, READ * 7)
    assert [count(log) for _ in range(4)] == [3, 3, 1, 0]
    assert path.stat().st_size == 0


def test_endless_line_does_not_stop_the_rest(
    path: Path, log: NginxLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nginx_log, "MOST_BYTES", 100)
    append(path, b"x" * 150 + b"\n" + READ)
    taken = [log.take() for _ in range(3)]
    assert sum(served.times for each in taken for served in each.served) == 1
    assert sum(each.ignored for each in taken) == 2


def test_log_that_was_emptied_is_read_from_its_start(path: Path, log: NginxLog) -> None:
    append(path, READ * 9 + b"x")
    assert count(log) == 9
    os.truncate(path, 0)
    append(path, READ)
    assert count(log) == 1


def test_log_that_was_replaced_is_read(path: Path, log: NginxLog) -> None:
    path.rename(path.with_suffix(".1"))
    append(path, READ)
    assert count(log) == 1


def test_only_one_reads_at_a_time(path: Path, log: NginxLog) -> None:
    other = NginxLog(path)
    append(path, READ)
    assert count(other) == 0
    assert count(log) == 1
    append(path, READ)
    log.close()
    assert count(other) == 1
    assert count(log) == 0
    other.close()
    append(path, READ)
    assert count(log) == 1


def test_log_that_is_made_is_for_the_group_and_may_be_refused(path: Path, log: NginxLog) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    with pytest.raises(FileNotFoundError):
        NginxLog(path.with_name("none") / "answers.log").take()
