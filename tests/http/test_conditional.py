"""What of an artifact a request gets: RFC 9110, sections 13 and 14, as nginx reads them.

The contract suite asks the same of the service and of nginx: `test_conditional_requests.py`.
"""

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

SAME = "Tue, 14 Nov 2023 22:13:20 GMT"
LATER = "Tue, 14 Nov 2023 22:13:21 GMT"
EARLIER = "Tue, 14 Nov 2023 22:13:19 GMT"


def part(start: int, end: int) -> Selection:
    return Selection(HTTPStatus.PARTIAL_CONTENT, start, end)


def select_with(headers: dict[str, str], size: int = SIZE) -> Selection:
    """What is selected of an artifact with `TAG` and of the date `SAME`."""
    return select(Headers(headers), MTIME, size)


def range_of(wanted: str, size: int = SIZE) -> Selection:
    return select_with({"Range": wanted}, size)


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


# Ranges.


PARTS = [
    ("bytes=0-0", 0, 1),
    ("bytes=0-99", 0, 100),
    ("bytes=0-", 0, SIZE),
    ("bytes=999-", 999, SIZE),
    ("bytes=0-1000", 0, SIZE),
    ("bytes=990-5000", 990, SIZE),
    ("bytes=-1", 999, SIZE),
    ("bytes=-1000", 0, SIZE),
    ("bytes=-1001", 0, SIZE),
    ("bytes=007-008", 7, 9),
    ("Bytes=0-9", 0, 10),
    ("bytes= 0-9", 0, 10),
    ("bytes=0-9 ", 0, 10),
]
UNMET = [
    "bytes=1000-",
    "bytes=1000-2000",
    f"bytes={10**30}-",
    f"bytes=1-{10**30}",  # nginx refuses numbers that no file has, too
    f"bytes=-{10**30}",
    "bytes=-0",
    "bytes=5-2",
    "bytes=",
    "bytes=-",
    "bytes=--5",
    "bytes=abc",
    "bytes=1",
    "bytes=+1-5",
    "bytes=1-+5",
    "bytes=1_0-20",
    "bytes=0x1-5",
    "bytes=1-2-3",
    "bytes=1-2;3-4",
    "bytes=1 2-5",
    "bytes=\u0661-5",
    "bytes=1-abc,5-6",
    "bytes=1-" + "9" * 5000,
    "bytes=" + "9" * 5000 + "-",
    "bytes=0--0",
]
SEVERAL = [
    "bytes=0-1,5-6",
    "bytes=0-1, 5-6",
    "bytes=0-1,998-",
    "bytes=-5,0-3",
    "bytes=0-,5-6",
]
OTHER_UNITS = ["", "0-5", "bytes", "bytes 0-5", "bytes:0-5", "items=0-5", "lines=abc", "=0-5"]
OTHER_UNITS += ["xbytes=0-5"]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        *((wanted, part(start, end)) for wanted, start, end in PARTS),
        *((wanted, REFUSED) for wanted in UNMET),
        *((wanted, WHOLE) for wanted in SEVERAL + OTHER_UNITS),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_range_gets_its_part_or_the_whole_or_is_refused(wanted: str, expected: Selection) -> None:
    assert range_of(wanted) == expected


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
    assert range_of(wanted, size) == expected


# Conditions.

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
BY_FIELD: dict[str, dict[int, list[str]]] = {
    "If-None-Match": {
        304: [TAG, f"W/{TAG}", "*", f'"a", {TAG}, "b"', f'"a",W/{TAG}', f',, {TAG} ,"b"'],
        200: ['"a"', '"a", W/"b"', '"6553f100-3e9"', '"6553F100-3E8"', '""', "", "nonsense"],
    },
    "If-Match": {
        200: [TAG, "*", f'"a", {TAG}'],
        412: ['"a"', f"W/{TAG}", f'W/{TAG}, "a"', '"6553F100-3E8"', "", "nonsense"],
    },
    "If-Modified-Since": {304: [SAME, LATER, *OBSOLETE_DATES], 200: [EARLIER, *BAD_DATES]},
    "If-Unmodified-Since": {200: [SAME, LATER, *OBSOLETE_DATES, *BAD_DATES], 412: [EARLIER]},
}
NO_VERSION_OF_IT = [
    '"a"',
    '"6553F100-3E8"',
    f"W/{TAG}",
    'W/"a"',
    "*",
    EARLIER,
    LATER,
    f"{TAG}, {TAG}",
    f'"a", {TAG}',
    f"w/{TAG}",
    TAG.strip('"'),
    *BAD_DATES,
]
PART, BEYOND = "bytes=0-9", "bytes=5000-"
CONDITIONS: list[tuple[dict[str, str], int]] = [
    ({}, 200),
    *(
        ({field: value}, status)
        for field, statuses in BY_FIELD.items()
        for status, values in statuses.items()
        for value in values
    ),
    # Entity tags win over dates (13.1.3, 13.1.4).
    ({"If-None-Match": '"a"', "If-Modified-Since": SAME}, 200),
    ({"If-None-Match": TAG, "If-Modified-Since": EARLIER}, 304),
    ({"If-Match": TAG, "If-Unmodified-Since": EARLIER}, 200),
    ({"If-Match": '"a"', "If-Unmodified-Since": SAME}, 412),
    # If-Match and If-Unmodified-Since come before the others (13.2.2).
    ({"If-Match": '"a"', "If-None-Match": TAG}, 412),
    ({"If-Match": TAG, "If-None-Match": TAG}, 304),
    ({"If-Match": TAG, "If-None-Match": '"a"'}, 200),
    ({"If-Unmodified-Since": EARLIER, "If-Modified-Since": SAME}, 412),
    ({"If-Unmodified-Since": SAME, "If-Modified-Since": SAME}, 304),
    # Ranges come last.
    ({"If-None-Match": TAG, "Range": PART}, 304),
    ({"If-None-Match": TAG, "Range": BEYOND}, 304),
    ({"If-Match": '"a"', "Range": PART}, 412),
    ({"If-Match": TAG, "Range": PART}, 206),
    ({"If-Match": TAG, "Range": BEYOND}, 416),
    # A range is served of the version that the client has, and of another one the whole.
    *(({"Range": PART, "If-Range": version}, 206) for version in (TAG, SAME, *OBSOLETE_DATES)),
    *(
        ({"Range": wanted, "If-Range": version}, 200)
        for wanted in (PART, BEYOND)
        for version in NO_VERSION_OF_IT
    ),
    ({"Range": BEYOND, "If-Range": TAG}, 416),
    ({"If-Range": TAG}, 200),
    ({"If-Range": '"a"'}, 200),
]


@pytest.mark.parametrize(("headers", "status"), CONDITIONS, ids=str)
def test_condition(headers: dict[str, str], status: int) -> None:
    whole_or_part = {200: WHOLE, 206: part(0, 10)}
    selection = select_with(headers)
    assert selection.status == status
    assert selection == whole_or_part.get(status, selection)
