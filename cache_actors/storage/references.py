"""References from key-value entries to CAS artifacts. Pure functions, no I/O.

A value is an opaque string to the protocol, but its two forms are known: the base64 of a protobuf
in which each artifact's id is a field of 64 hexadecimal characters (tag `0x12`, length `0x40`), or
such an id itself. A value of any other form refers to nothing.
"""

from __future__ import annotations

import binascii
import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_ID = re.compile("[0-9A-Fa-f]{64}")
_FIELD = re.compile(rb"\x12\x40([0-9A-Fa-f]{64})")
_URL_SAFE = str.maketrans("-_", "+/")


def references(values: Iterable[str]) -> frozenset[str]:
    """The ids of the CAS artifacts that `values` refer to, in upper case."""
    return frozenset(found for value in values for found in _references(value))


def references_in(body: bytes) -> frozenset[str]:
    """The ids, in upper case, of a stored entry's CAS artifacts; none if `body` is no entry."""
    try:
        entries = json.loads(body)["entries"]
        return references(str(entry["value"]) for entry in entries)
    except (ValueError, LookupError, TypeError, RecursionError):
        return frozenset()


def spellings(artifact_id: str) -> tuple[str, str]:
    """Both spellings under which a CAS artifact may be stored: clients compare ids without case."""
    return artifact_id.upper(), artifact_id.lower()


def _references(value: str) -> list[str]:
    if _ID.fullmatch(value):
        return [value.upper()]
    try:
        decoded = binascii.a2b_base64(value.translate(_URL_SAFE) + "==")
    except ValueError:
        return []
    return [match.decode("ascii").upper() for match in _FIELD.findall(decoded)]
