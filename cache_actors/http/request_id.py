"""Request ids, which connect a request's lines in all logs."""

from __future__ import annotations

import re
from uuid import uuid4

_SANE = re.compile(r"[\x21-\x7e]{1,200}")


def request_id(wanted: str) -> str:
    """The client's id `wanted` if that is 1 to 200 visible ASCII characters, else a new id."""
    return wanted if _SANE.fullmatch(wanted) else uuid4().hex
