"""Names of objects in the bucket, and what their metadata say. Pure, no I/O.

    <prefix>/1/<account>/<project>/<kind>/<id><ending>

The kinds and endings are those of files (`kinds.py`); objects have no shards. The number is the
version of this format: a later one may use another beside it. Beside accounts, below the number,
there are names that begin with a dot, as no account's does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cache_actors.kinds import Kind
from cache_actors.storage.layout import Key, project_at

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT = "1"

STORED = "stored"
"""Name of the metadata with the time at which the first node stored the file: nanoseconds since the
epoch, in decimal digits."""

SHA256 = "sha256"
"""Name of the metadata with the SHA-256 of the object's bytes, in lower-case hexadecimal digits."""

MAX_AHEAD_SECONDS = 300.0
"""Seconds by which a time that a node has noted may be later than the bucket's clock; what exceeds
them comes from a wrong clock, and does not count."""

_DIGEST = re.compile("[0-9a-f]{64}")
_TIME = re.compile("[0-9]{1,19}")


class Unusable(Exception):
    """An object is not what this version has put, or has other bytes; the message says which."""


@dataclass(frozen=True, slots=True)
class Description:
    """What is known of an object: its SHA-256, when it was first stored (ns), when put (s)."""

    digest: bytes
    stored: int
    put: float


def description(metadata: Mapping[str, str], put: float) -> Description:
    """What the `metadata` say of an object that was put at `put`, by the bucket's clock.

    Raises:
        Unusable: they are not those of this version.
    """
    digest, stored = metadata.get(SHA256, ""), metadata.get(STORED, "")
    if _DIGEST.fullmatch(digest) is None or _TIME.fullmatch(stored) is None:
        raise Unusable("its metadata are not those of this version")
    return Description(bytes.fromhex(digest), believed(int(stored), put), put)


def believed(noted: int, put: float) -> int:
    """A time that a node has noted of an object, in nanoseconds, as far as it can be right.

    Args:
        noted: the time.
        put: when the object was put, by the bucket's clock, in seconds since the epoch.
    """
    return min(noted, int((put + MAX_AHEAD_SECONDS) * 1e9))


def top(prefix: str) -> str:
    """What the names of all objects below `prefix` begin with, without a slash at the end."""
    return f"{prefix}/{FORMAT}" if prefix else FORMAT


def object_name(prefix: str, key: Key) -> str:
    """The name of the object that holds the file of `key`."""
    return f"{top(prefix)}/{key.project}/{key.kind.folder}/{key.id}{key.kind.ending}"


def key_of(prefix: str, name: str) -> Key | None:
    """The key of the object `name`; None if that is no key's, or not below `prefix`."""
    rest = name.removeprefix(f"{top(prefix)}/")
    parts = rest.split("/")
    if rest == name or len(parts) != 4:
        return None
    account, project_name, folder, file_name = parts
    project = project_at((account, project_name))
    for kind in Kind:
        if folder == kind.folder and project is not None:
            found = file_name.removesuffix(kind.ending)
            if found + kind.ending == file_name and kind.ids.pattern.fullmatch(found):
                return Key(project, kind, found)
    return None
