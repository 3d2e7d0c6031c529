"""What of an artifact a request gets: RFC 9110, sections 13 and 14, as nginx reads them."""

from __future__ import annotations

from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.datastructures import Headers

from cache_actors.http.conditional import Selection, etag, select

SIZE = 1000
MTIME = 1_700_000_000
TAG = '"6553f100-3e8"'

WHOLE = Selection(HTTPStatus.OK, 0, SIZE)
REFUSED = Selection(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)

DATES = {
    "SAME": "Tue, 14 Nov 2023 22:13:20 GMT",
    "LATER": "Tue, 14 Nov 2023 22:13:21 GMT",
    "EARLIER": "Tue, 14 Nov 2023 22:13:19 GMT",
}


def part(start: int, end: int) -> Selection:
    return Selection(HTTPStatus.PARTIAL_CONTENT, start, end)


def select_with(size: int = SIZE, **fields: str) -> Selection:
    """What is selected with header `fields`, named with underscores for dashes.

    In their values, TAG, SAME, LATER and EARLIER stand for the validators, and dates around them.
    """
    headers = Headers()
    for name, value in fields.items():
        filled = value.replace("TAG", TAG)
        for word, date in DATES.items():
            filled = filled.replace(word, date)
        headers.add(name.replace("_", "-"), filled)
    return select(headers, MTIME, size)


def status_with(**fields: str) -> int:
    return select_with(SIZE, **fields).status


# Validators.


@pytest.mark.parametrize(
    ("mtime", "size", "expected"),
    [
        (MTIME, SIZE, TAG),
        (0, 1, '"0-1"'),
        (255, 26_214_400, '"ff-1900000"'),
        (2**33, 2**40, '"200000000-10000000000"'),
    ],
)
def test_etag_is_strong_and_of_nginxs_form(mtime: int, size: int, expected: str) -> None:
    assert etag(mtime, size) == expected


@given(*[st.tuples(st.integers(0, 300), st.integers(1, 300))] * 2)
def test_files_that_differ_in_time_or_size_have_different_etags(
    one: tuple[int, int], other: tuple[int, int]
) -> None:
    assert (etag(*one) == etag(*other)) == (one == other)


def test_request_without_conditions_gets_the_whole() -> None:
    assert select_with() == WHOLE


# Ranges.


@pytest.mark.parametrize(
    ("wanted", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-99", 0, 100),
        ("bytes=100-199", 100, 200),
        ("bytes=0-", 0, SIZE),
        ("bytes=500-", 500, SIZE),
        ("bytes=999-", 999, SIZE),
        ("bytes=999-999", 999, SIZE),
        ("bytes=0-999", 0, SIZE),
        ("bytes=0-1000", 0, SIZE),
        ("bytes=990-5000", 990, SIZE),
        ("bytes=-1", 999, SIZE),
        ("bytes=-999", 1, SIZE),
        ("bytes=-1000", 0, SIZE),
        ("bytes=-1001", 0, SIZE),
        ("bytes=007-008", 7, 9),
        ("Bytes=0-9", 0, 10),
        ("BYTES=0-9", 0, 10),
        ("bytes= 0-9", 0, 10),
        ("bytes=0-9 ", 0, 10),
    ],
)
def test_range_gets_its_part(wanted: str, start: int, end: int) -> None:
    assert select_with(Range=wanted) == part(start, end)


@pytest.mark.parametrize(
    "wanted",
    [
        "bytes=1000-",
        "bytes=1000-1000",
        "bytes=1000-2000",
        f"bytes={10**30}-",
        f"bytes=1-{10**30}",  # nginx refuses numbers that no file has, too
        f"bytes=-{10**30}",
        "bytes=-0",
        "bytes=5-2",
        "bytes=1-0",
        "bytes=",
        "bytes=-",
        "bytes=--5",
        "bytes=5--6",
        "bytes=abc",
        "bytes=a-b",
        "bytes=1",
        "bytes=+1-5",
        "bytes=1-+5",
        "bytes=1_0-20",
        "bytes=0x1-5",
        "bytes=1.0-5",
        "bytes=1-2-3",
        "bytes=1-2;3-4",
        "bytes=1 2-5",
        "bytes=\u0661-5",
        "bytes=1-abc,5-6",
        "bytes=1-" + "9" * 5000,
        "bytes=" + "9" * 5000 + "-",
        "bytes=0--0",
    ],
    ids=lambda wanted: ascii(wanted)[:30],
)
def test_range_that_is_malformed_or_beyond_the_end_is_refused(wanted: str) -> None:
    assert select_with(Range=wanted) == REFUSED


@pytest.mark.parametrize(
    "wanted",
    [
        "bytes=0-1,5-6",
        "bytes=0-1, 5-6",
        "bytes=0-0,-1",
        "bytes=0-1,998-",
        "bytes=5-6,0-1",
        "bytes=0-5,3-8",
        "bytes=-5,0-3",
        "bytes=0-,5-6",
    ],
)
def test_several_ranges_get_the_whole(wanted: str) -> None:
    assert select_with(Range=wanted) == WHOLE


@pytest.mark.parametrize(
    "wanted",
    ["", "0-5", "bytes", "bytes 0-5", "bytes:0-5", "items=0-5", "lines=abc", "=0-5", "xbytes=0-5"],
)
def test_range_in_another_unit_gets_the_whole(wanted: str) -> None:
    assert select_with(Range=wanted) == WHOLE


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("bytes=0-0", part(0, 1)),
        ("bytes=0-", part(0, 1)),
        ("bytes=0-5", part(0, 1)),
        ("bytes=-1", part(0, 1)),
        ("bytes=-5", part(0, 1)),
        ("bytes=-0", REFUSED),
        ("bytes=1-", REFUSED),
        ("bytes=1-1", REFUSED),
    ],
)
def test_range_of_a_single_byte(wanted: str, expected: Selection) -> None:
    assert select_with(size=1, Range=wanted) == expected


@given(
    st.integers(1, 50),
    st.none() | st.integers(0, 60),
    st.none() | st.integers(0, 60),
)
def test_any_range_is_the_slice_that_it_names(
    size: int, first: int | None, last: int | None
) -> None:
    wanted = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    positions = range(size)
    if first is not None:
        named = positions[first:] if last is None else positions[first : last + 1]
    else:
        named = positions[-last:] if last else range(0)
    expected = part(named.start, named.stop) if named else REFUSED
    assert select_with(size=size, Range=wanted) == expected


# Conditions.


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ("TAG", 304),
        ("W/TAG", 304),
        ("*", 304),
        ('"a", TAG, "b"', 304),
        ('"a",W/TAG', 304),
        (',, TAG ,"b"', 304),
        ('"a"', 200),
        ('"a", W/"b"', 200),
        ('"6553f100-3e9"', 200),
        ('"6553F100-3E8"', 200),
        ('""', 200),
        ("", 200),
        ("nonsense", 200),
    ],
)
def test_if_none_match(value: str, status: int) -> None:
    assert status_with(If_None_Match=value) == status


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ("TAG", 200),
        ("*", 200),
        ('"a", TAG', 200),
        ('"a"', 412),
        ("W/TAG", 412),
        ('W/TAG, "a"', 412),
        ('"6553F100-3E8"', 412),
        ("", 412),
        ("nonsense", 412),
    ],
)
def test_if_match_compares_strongly(value: str, status: int) -> None:
    assert status_with(If_Match=value) == status


OBSOLETE_DATES = ["Tuesday, 14-Nov-23 22:13:20 GMT", "Tue Nov 14 22:13:20 2023"]
BAD_DATES = [
    "",
    "nonsense",
    "0",
    "1700000000",
    "Tue, 32 Nov 2023 22:13:20 GMT",
    "Tue, 14 Nov 99999 22:13:20 GMT",
    "Tue, 14 Nov 2023 22:13:20 +9999",
    "Tue, 14 Nov 2023 22:13:20 +99999999999999999",
]


@pytest.mark.parametrize("date", ["SAME", "LATER", *OBSOLETE_DATES])
def test_unchanged_since_a_date_is_not_modified(date: str) -> None:
    assert status_with(If_Modified_Since=date) == 304


@pytest.mark.parametrize("date", ["EARLIER", *BAD_DATES])
def test_changed_since_a_date_or_no_date_is_modified(date: str) -> None:
    assert status_with(If_Modified_Since=date) == 200


@pytest.mark.parametrize("date", ["SAME", "LATER", *OBSOLETE_DATES, *BAD_DATES])
def test_unchanged_since_a_date_or_no_date_meets_the_precondition(date: str) -> None:
    assert status_with(If_Unmodified_Since=date) == 200


def test_changed_since_a_date_fails_the_precondition() -> None:
    assert status_with(If_Unmodified_Since="EARLIER") == 412


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        # Entity tags win over dates (13.1.3, 13.1.4).
        ({"If_None_Match": '"a"', "If_Modified_Since": "SAME"}, 200),
        ({"If_None_Match": "TAG", "If_Modified_Since": "EARLIER"}, 304),
        ({"If_Match": "TAG", "If_Unmodified_Since": "EARLIER"}, 200),
        ({"If_Match": '"a"', "If_Unmodified_Since": "SAME"}, 412),
        # If-Match and If-Unmodified-Since come before the others (13.2.2).
        ({"If_Match": '"a"', "If_None_Match": "TAG"}, 412),
        ({"If_Match": "TAG", "If_None_Match": "TAG"}, 304),
        ({"If_Match": "TAG", "If_None_Match": '"a"'}, 200),
        ({"If_Unmodified_Since": "EARLIER", "If_Modified_Since": "SAME"}, 412),
        ({"If_Unmodified_Since": "SAME", "If_Modified_Since": "SAME"}, 304),
        # Ranges come last.
        ({"If_None_Match": "TAG", "Range": "bytes=0-9"}, 304),
        ({"If_None_Match": "TAG", "Range": "bytes=5000-"}, 304),
        ({"If_Match": '"a"', "Range": "bytes=0-9"}, 412),
        ({"If_Match": "TAG", "Range": "bytes=0-9"}, 206),
        ({"If_Match": "TAG", "Range": "bytes=5000-"}, 416),
    ],
    ids=str,
)
def test_order_of_conditions(fields: dict[str, str], status: int) -> None:
    assert status_with(**fields) == status


# If-Range.


@pytest.mark.parametrize("condition", ["TAG", "SAME", *OBSOLETE_DATES])
def test_range_is_served_of_the_version_that_the_client_has(condition: str) -> None:
    selection = select_with(Range="bytes=0-9", If_Range=condition)
    assert selection == part(0, 10)


@pytest.mark.parametrize(
    "condition",
    [
        '"a"',
        '"6553F100-3E8"',
        "W/TAG",
        'W/"a"',
        "*",
        "EARLIER",
        "LATER",
        "TAG, TAG",
        '"a", TAG',
        "w/TAG",
        TAG.strip('"'),
        *BAD_DATES,
    ],
)
def test_whole_is_served_if_the_client_may_have_another_version(condition: str) -> None:
    assert select_with(Range="bytes=0-9", If_Range=condition) == select_with()
    assert select_with(Range="bytes=5000-", If_Range=condition) == select_with()


def test_range_beyond_the_end_of_the_version_that_the_client_has_is_refused() -> None:
    assert status_with(Range="bytes=5000-", If_Range="TAG") == 416


def test_if_range_without_a_range_means_nothing() -> None:
    assert select_with(If_Range="TAG") == select_with()
    assert select_with(If_Range='"a"') == select_with()
