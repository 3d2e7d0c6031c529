"""The layout: the path of every stored file, and the names a client may use. Pure, no I/O.

    <storage>/<account>/<project>/cas/<shard>/<id>
    <storage>/<account>/<project>/keyvalue/<shard>/<cas_id>.json
    <storage>/<account>/<project>/gradle/<shard>/<key>
    <storage>/<account>/<project>/module/<shard>/<SHA-256 of category, hash and name>
    <storage>/<account>/<project>/blob/<shard>/<SHA-256 of the bytes>
    <storage>/<account>/<project>/action/<shard>/<SHA-256 of the action>

nginx reads the same layout, written down as regular expressions. Handles and ids are matched whole:
handles can hold neither a dot nor a slash, and ids what their kind's grammar lets through
(`kinds.py`). So no path that is built here leaves its project's folder, and none can be mistaken
for `<storage>/.tmp`.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from cache_actors.kinds import Kind

TEMPORARY = ".tmp"
"""Name of the folder below the storage folder that holds files until they are published."""

QUARANTINE = ".quarantine"
"""Name of the folder below the storage folder that holds broken files."""

TRASH = ".trash"
"""Name of the folder below the storage folder that holds the folders of cleaned projects."""

LOGS = ".log"
"""The folder under the storage folder that holds the write-ahead logs of all processes."""

SHARE = ".share"
"""Name of the folder below the storage folder whose lock is that of walks for the bucket."""

CLEANS = ".cleans"
"""Name of the folder below the storage folder that holds the notes of known cleans."""

LAST_SCRUB = ".last-scrub"
"""Name of the file below the storage folder that holds the time of the last scrub's end."""

LAST_EVICTION = ".last-eviction"
"""Name of the file below the storage folder that holds the report of the last eviction pass."""

_MODULE_PART = re.compile(r"[^/\\\0\ufffd]{1,1000}")  # U+FFFD replaces invalid UTF-8
_HANDLE = re.compile(r"[A-Za-z0-9_-]{1,100}")


class InvalidIdentifier(ValueError):
    """A handle or an id is invalid; the message has the value and the reason."""


@dataclass(frozen=True, slots=True)
class Project:
    """A project in its canonical form, which is lower case: handles are compared without case."""

    account: str
    name: str

    def __str__(self) -> str:
        return f"{self.account}/{self.name}"

    def path(self, storage: Path) -> Path:
        """The project's folder below the storage folder `storage`."""
        return storage / self.account / self.name


@dataclass(frozen=True, slots=True)
class Key:
    """The key of a stored file: an id of a kind in a project."""

    project: Project
    kind: Kind
    id: str

    def path(self, storage: Path) -> Path:
        """The path of the key's file below the storage folder `storage`."""
        return storage / self.place

    @property
    def place(self) -> str:
        """The path of the key's file, relative to the storage folder."""
        return f"{self.project}/{self.kind.folder}/{shard(self.id)}/{self.id}{self.kind.ending}"


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key that has just been stored, and the bytes on disk of its file."""

    key: Key
    size: int


def parse_project(account_handle: str, project_handle: str) -> Project:
    """The project with these handles.

    Raises:
        InvalidIdentifier: a handle is not 1 to 100 characters of `A-Z a-z 0-9 _ -`.
    """
    return Project(
        _parse_handle("account_handle", account_handle),
        _parse_handle("project_handle", project_handle),
    )


def parse_id(kind: Kind, name: str, value: str) -> str:
    """Return `value` unchanged if it is a valid id of `kind`; `name` is its name in the error.

    Raises:
        InvalidIdentifier: `value` does not match `kind.ids`.
    """
    if kind.ids.pattern.fullmatch(value) is None:
        raise InvalidIdentifier(f"{name} {_quote(value)} is invalid: it must be {kind.ids.meaning}")
    return value


def module_id(category: str, module_hash: str, name: str) -> str:
    """The id of a module artifact: the SHA-256 of its category, hash and name.

    Equivalent Unicode forms of a letter with an accent give the same id (NFC).

    Raises:
        InvalidIdentifier: a part is empty, `.` or `..`, longer than 1000 characters, no UTF-8, or
            has a slash, a backslash or NUL in it.
    """
    parts = {"cache_category": category, "hash": module_hash, "name": name}
    for label, value in parts.items():
        if value in (".", "..") or _MODULE_PART.fullmatch(value) is None:
            raise InvalidIdentifier(
                f"{label} {_quote(value)} is invalid: it must be 1 to 1000 characters of UTF-8 "
                "without slashes, backslashes and NUL, and not . or .."
            )
    named = "/".join(unicodedata.normalize("NFC", value) for value in parts.values())
    return hashlib.sha256(named.encode()).hexdigest()


def key_at(parts: tuple[str, ...]) -> Key | None:
    """The key of the file at the path `parts` below the storage folder; None if it is no key's."""
    if len(parts) < 4:
        return None
    account, name, folder, *shard_parts, file_name = parts
    project = project_at((account, name))
    for kind in Kind:
        found = id_of(kind, "/".join(shard_parts), file_name)
        if folder == kind.folder and found is not None and project is not None:
            return Key(project, kind, found)
    return None


def project_at(parts: tuple[str, ...]) -> Project | None:
    """The project with its folder at the path `parts` below the storage folder, or None."""
    if len(parts) == 2 and all(map(is_account, parts)):
        return Project(*parts)
    return None


def project_folder_of(path: Path, storage: Path) -> Path:
    """The project folder of the file at `path` below the storage folder `storage`."""
    return storage / Path(*path.relative_to(storage).parts[:2])


def quarantine_folder_of(path: Path, storage: Path) -> Path:
    """The quarantine folder of the file at `path`: one for each kind in each project."""
    return storage / QUARANTINE / Path(*path.relative_to(storage).parts[:3])


def is_account(name: str) -> bool:
    """Whether `name` is a valid name for the folder of an account or of a project."""
    return _HANDLE.fullmatch(name) is not None and name == name.lower()


def id_of(kind: Kind, shard_of_file: str, file_name: str) -> str | None:
    """The id, of kind `kind`, of a file name in a shard; None if that is no id's file name."""
    name = file_name.removesuffix(kind.ending)
    is_one = file_name == name + kind.ending and kind.ids.pattern.fullmatch(name)
    return name if is_one and shard(name) == shard_of_file else None


def shard(key_id: str) -> str:
    """The shard (subfolder) of an id: its 3rd and 4th character, or `_` for a shorter id.

    Key-value ids all start with `0~` and CAS ids are hex, so these two characters vary in both.
    """
    return key_id[2:4] if len(key_id) >= 4 else "_"


def shard_depth() -> int:
    """The number of folder levels between a kind's folder and its files."""
    return shard("").count("/") + 1


def shard_at(folder: str) -> str:
    """The shard of the folder at the path `folder`."""
    return "/".join(folder.split("/")[-shard_depth() :])


def _parse_handle(name: str, value: str) -> str:
    if _HANDLE.fullmatch(value) is None:
        raise InvalidIdentifier(
            f"{name} {_quote(value)} is invalid: it must be 1 to 100 characters of "
            "A-Z a-z 0-9 _ -; what has others has to be renamed in Tuist"
        )
    return value.lower()


def _quote(value: str) -> str:
    """`value` for an error message: printable ASCII, and cut where it gets long."""
    return ascii(value if len(value) <= 60 else value[:60] + "...")
