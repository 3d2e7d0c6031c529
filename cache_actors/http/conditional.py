"""Conditional and range requests for an artifact, as RFC 9110 defines them (sections 13 and 14).

Where the RFC leaves a choice, it is nginx's, so that both modes of the service answer alike: one
range at most is served, several are ignored, and a malformed one is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING

from werkzeug.http import (
    parse_date,
    parse_etags,
    parse_if_range_header,
    parse_range_header,
    unquote_etag,
)

if TYPE_CHECKING:
    from werkzeug.datastructures import Headers


@dataclass(frozen=True, slots=True)
class Selection:
    """The status to answer with and, for 200 and 206, the bytes from `start` to before `end`."""

    status: HTTPStatus
    start: int = 0
    end: int = 0


def etag(mtime: int, size: int) -> str:
    """The strong validator of a file, in nginx's form: both numbers in hexadecimal."""
    return f'"{mtime:x}-{size:x}"'


def select(headers: Headers, mtime: int, size: int) -> Selection:
    """What a GET or HEAD with these request headers gets of a file.

    Args:
        headers: the request's.
        mtime: of the file, in whole seconds since the epoch.
        size: of the file, in bytes.
    """
    tag, _ = unquote_etag(etag(mtime, size))
    modified = datetime.fromtimestamp(mtime, UTC)
    if _precondition_failed(headers, tag, modified):
        return Selection(HTTPStatus.PRECONDITION_FAILED)
    if _not_modified(headers, tag, modified):
        return Selection(HTTPStatus.NOT_MODIFIED)
    whole = Selection(HTTPStatus.OK, 0, size)
    wanted = headers.get("Range", "")
    if not wanted.lower().startswith("bytes=") or not _range_applies(headers, tag, modified):
        return whole
    ranges = parse_range_header(wanted)
    if ranges is None:
        return Selection(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
    if len(ranges.ranges) > 1:
        return whole
    start, end = ranges.ranges[0]
    if start < 0:  # the last so many bytes
        start = max(0, size + start)
    end = size if end is None else min(end, size)
    if start >= end:
        return Selection(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
    return Selection(HTTPStatus.PARTIAL_CONTENT, start, end)


def _precondition_failed(headers: Headers, tag: str | None, modified: datetime) -> bool:
    if "If-Match" in headers:
        wanted = parse_etags(headers["If-Match"])
        return not (wanted.star_tag or wanted.is_strong(str(tag)))
    since = parse_date(headers.get("If-Unmodified-Since"))
    return since is not None and modified > since


def _not_modified(headers: Headers, tag: str | None, modified: datetime) -> bool:
    if "If-None-Match" in headers:
        known = parse_etags(headers["If-None-Match"])
        return known.star_tag or known.contains_weak(str(tag))
    since = parse_date(headers.get("If-Modified-Since"))
    return since is not None and modified <= since


def _range_applies(headers: Headers, tag: str | None, modified: datetime) -> bool:
    """Whether If-Range, if there is one, names this very version."""
    if "If-Range" not in headers:
        return True
    value = headers["If-Range"]
    condition = parse_if_range_header(value)
    if condition.date is not None:
        return condition.date == modified
    return condition.etag == tag and not value.startswith("W/")
