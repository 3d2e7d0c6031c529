"""References from entries to CAS artifacts, and from actions to blobs. Pure functions, no I/O.

An action lists its blobs (`actions.py`). An entry is JSON, whose values are opaque strings to the
protocol, but their two forms are known: the base64 of a protobuf in which each artifact's id is a
field of 64 hexadecimal characters (tag `0x12`, length `0x40`), or such an id itself. A value of any
other form refers to nothing.
"""

from __future__ import annotations

import binascii
import json
import re
from typing import TYPE_CHECKING, NamedTuple

from cache_actors.kinds import ACTION_MARK, Kind

from .actions import BlobReference, blobs_in, packed_action, result_in

if TYPE_CHECKING:
    from collections.abc import Iterable

_ID = re.compile("[0-9A-Fa-f]{64}")
_FIELD = re.compile(rb"\x12\x40([0-9A-Fa-f]{64})")
_URL_SAFE = str.maketrans("-_", "+/")


class Foreign(Exception):
    """A content is no entry or action as the service writes it."""


class Target(NamedTuple):
    """What a file refers to.

    Attributes:
        kind: its kind.
        ids: the ids under one or more of which it may be stored.
        size: its size in bytes; None for any.
        name: its name in messages.
    """

    kind: Kind
    ids: tuple[str, ...]
    size: int | None
    name: str


def artifact_target(artifact_id: str) -> Target:
    """The CAS artifact with that id, in either spelling."""
    return Target(Kind.CAS, spellings(artifact_id), None, artifact_id)


def blob_target(blob: BlobReference) -> Target:
    """The blob with that digest."""
    return Target(Kind.BLOB, (blob.id,), blob.size, str(blob))


def targets_in(content: bytes) -> frozenset[Target]:
    """What a stored entry or action refers to; nothing if `content` is neither."""
    if not content.startswith(ACTION_MARK):
        return frozenset(map(artifact_target, references_in(content)))
    try:
        return frozenset(map(blob_target, blobs_in(content)))
    except ValueError:
        return frozenset()


def checked_targets(kind: Kind, content: bytes) -> frozenset[Target]:
    """What an entry or action refers to, which has to be one exactly as it is stored here.

    Raises:
        Foreign: it is something else, and nobody knows what that refers to.
    """
    try:
        if kind is Kind.ACTION:
            return frozenset(map(blob_target, _stored_blobs(content)))
        return frozenset(map(artifact_target, references(_stored_values(content))))
    except (ValueError, RecursionError):
        raise Foreign(f"it is no {kind.label} as it is stored here") from None


def _stored_blobs(content: bytes) -> list[BlobReference]:
    """The blobs of an action; raises ValueError if it is not written as the service does it."""
    blobs = list(blobs_in(content))
    if packed_action((each.packed() for each in blobs), result_in(content)) != content:
        raise ValueError
    return blobs


def _stored_values(content: bytes) -> list[str]:
    """The values of an entry; raises ValueError if it is not written as the service does it."""
    parsed = json.loads(content)
    if json.dumps(parsed, ensure_ascii=False, separators=(",", ":")).encode() != content:
        raise ValueError
    match parsed:
        case {"entries": [*entries], **more} if not more:
            return [_stored_value(entry) for entry in entries]
    raise ValueError


def _stored_value(entry: object) -> str:
    match entry:
        case {"value": str(value), **more} if not more:
            return value
    raise ValueError


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
