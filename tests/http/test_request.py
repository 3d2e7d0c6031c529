"""A request's headers are read by names of any case."""

from contextlib import suppress
from typing import NoReturn

import pytest

from cache_actors.http.errors import HttpError
from cache_actors.http.request import RequestBody, RequestHeaders

HEADERS = RequestHeaders([(b"x-a", b"1"), (b"host", b"x"), (b"x-a", b"\xe9"), (b"empty", b"")])


@pytest.mark.parametrize("name", ["x-a", "X-A", "X-a"])
def test_header_is_found_by_its_name_in_any_case(name: str) -> None:
    assert name in HEADERS
    assert HEADERS[name] == HEADERS.get(name) == "1"
    assert HEADERS.getlist(name) == ["1", "é"]


def test_header_that_is_empty_is_there() -> None:
    assert "Empty" in HEADERS
    assert HEADERS.get("Empty", "other") == ""


def test_header_that_is_not_there_is_missed() -> None:
    assert "X-B" not in HEADERS
    assert HEADERS.get("X-B") is None
    assert HEADERS.get("X-B", "other") == "other"
    assert HEADERS.getlist("X-B") == []
    with pytest.raises(KeyError):
        HEADERS["X-B"]


async def nothing_comes() -> NoReturn:
    raise AssertionError("nobody is to wait for it")


@pytest.mark.parametrize(
    ("announced", "read"), [(10, 4), (11, 0), (None, 0)], ids=["fits", "too large", "unknown"]
)
def test_thread_reads_a_body_whose_size_is_known_to_be_allowed(
    announced: int | None, read: int
) -> None:
    body = RequestBody(announced)
    body.pull_from(nothing_comes, lambda _: 4)
    with suppress(HttpError):
        body.limit(10)
    assert body.read_in_thread(memoryview(bytearray(10))) == read
    assert body.received == read
