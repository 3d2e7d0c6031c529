"""Names of objects in the bucket. Pure, no I/O.

    <prefix>/1/<account>/<project>/<kind>/<id><ending>

The kinds and endings are those of files (`kinds.py`); objects have no shards. The number is the
version of this format: a later one may use another beside it. Beside accounts, below the number,
there are names that begin with a dot, as no account's does.
"""

from __future__ import annotations

from cache_actors.kinds import Kind
from cache_actors.storage.layout import Key, project_at

FORMAT = "1"

STORED = "stored"
"""Name of the metadata with the time at which the first node stored the file: nanoseconds since the
epoch, in decimal digits."""

SHA256 = "sha256"
"""Name of the metadata with the SHA-256 of the object's bytes, in lower-case hexadecimal digits."""


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
