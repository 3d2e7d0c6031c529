"""Conditional and range requests for an artifact, as RFC 9110 defines them (sections 13 and 14).

Where the RFC leaves a choice, this module does as nginx, so that direct and proxied requests are
answered alike: a single range is served, several are ignored, and a malformed one is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING

from werkzeug.http import parse_date, parse_etags, unquote_etag

if TYPE_CHECKING:
    from werkzeug.datastructures import Headers


@dataclass(frozen=True, slots=True)
class Selection:
    """The status of a response and, for 200 and 206, its bytes from `start` to before `end`."""

    status: HTTPStatus
    start: int = 0
    end: int = 0


# At most 18 digits: no file is larger, and Python refuses to parse numbers of thousands of digits.
_RANGE = re.compile(r"\s*(?:[0-9]{1,18}-[0-9]{0,18}|-[0-9]{1,18})\s*")
_UNSATISFIABLE = Selection(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)


def etag(mtime: int, size: int) -> str:
    """The ETag of a file, a strong validator, in nginx's form: both numbers in hexadecimal."""
    return f'"{mtime:x}-{size:x}"'


def select(headers: Headers, mtime: int, size: int) -> Selection:
    """The selected part of a file for a GET or HEAD request.

    Args:
        headers: the request's headers.
        mtime: modification time of the file, in whole seconds since the epoch.
        size: size of the file, in bytes.
    """
    tag, _ = unquote_etag(etag(mtime, size))
    modified = datetime.fromtimestamp(mtime, UTC)
    if _precondition_failed(headers, tag, modified):
        return Selection(HTTPStatus.PRECONDITION_FAILED)
    if _not_modified(headers, tag, modified):
        return Selection(HTTPStatus.NOT_MODIFIED)
    wanted = headers.get("Range", "")
    if not wanted.lower().startswith("bytes=") or not _range_applies(headers, mtime, size):
        return Selection(HTTPStatus.OK, 0, size)
    return _select_range(wanted.partition("=")[2], size)


def _select_range(wanted: str, size: int) -> Selection:
    """The selection for the ranges `wanted`, which follow `bytes=`; all bytes if several."""
    ranges = [_RANGE.fullmatch(item) for item in wanted.split(",")]
    if None in ranges:
        return _UNSATISFIABLE
    if len(ranges) > 1:
        return Selection(HTTPStatus.OK, 0, size)
    first, last = wanted.strip().split("-")
    if not first:  # a suffix: the last bytes of the file
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
    if start >= end:
        return _UNSATISFIABLE
    return Selection(HTTPStatus.PARTIAL_CONTENT, start, end)


def _precondition_failed(headers: Headers, tag: str | None, modified: datetime) -> bool:
    if "If-Match" in headers:
        wanted = parse_etags(headers["If-Match"])
        return not (wanted.star_tag or wanted.is_strong(str(tag)))
    since = _date(headers.get("If-Unmodified-Since"))
    return since is not None and modified > since


def _not_modified(headers: Headers, tag: str | None, modified: datetime) -> bool:
    if "If-None-Match" in headers:
        known = parse_etags(headers["If-None-Match"])
        return known.star_tag or known.contains_weak(str(tag))
    since = _date(headers.get("If-Modified-Since"))
    return since is not None and modified <= since


def _range_applies(headers: Headers, mtime: int, size: int) -> bool:
    """Whether If-Range is absent or matches the file."""
    condition = headers.get("If-Range")
    if condition is None or condition == etag(mtime, size):
        return True
    return _date(condition) == datetime.fromtimestamp(mtime, UTC)


def _date(value: str | None) -> datetime | None:
    try:
        return parse_date(value)
    except OverflowError:  # an absurd time zone
        return None
