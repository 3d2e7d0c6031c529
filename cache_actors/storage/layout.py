"""The layout: where everything lies on disk, and what a client may name. Pure, no I/O.

    <storage>/<account>/<project>/cas/<shard>/<id>
    <storage>/<account>/<project>/keyvalue/<shard>/<cas_id>.json
    <storage>/<account>/<project>/gradle/<shard>/<key>
    <storage>/<account>/<project>/module/<shard>/<SHA-256 of category, hash and name>

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
"""The folder under the storage folder in which files lie until they are published."""

QUARANTINE = ".quarantine"
"""The folder under the storage folder to which broken files are moved."""

TRASH = ".trash"
"""The folder under the storage folder to which the folders of cleaned projects are moved."""

LAST_SCRUB = ".last-scrub"
"""The file under the storage folder that says when the last scrub ended."""

LAST_EVICTION = ".last-eviction"
"""The file under the storage folder that holds the report of the last pass of eviction."""

_MODULE_PART = re.compile(r"[^/\\\0\ufffd]{1,1000}")  # U+FFFD stands for what is no UTF-8
_HANDLE = re.compile(r"[A-Za-z0-9_-]{1,100}")


class InvalidIdentifier(ValueError):
    """A handle or an id that no client may use; the message says which value and why."""


@dataclass(frozen=True, slots=True)
class Project:
    """A project in its canonical form, which is lower case: handles are compared without case."""

    account: str
    name: str

    def __str__(self) -> str:
        return f"{self.account}/{self.name}"

    def path(self, storage: Path) -> Path:
        """The folder below `storage` that holds all that is the project's."""
        return storage / self.account / self.name


@dataclass(frozen=True, slots=True)
class Key:
    """The key of what a client can store or read: one id of one kind in one project."""

    project: Project
    kind: Kind
    id: str

    def path(self, storage: Path) -> Path:
        """The path of this key's file below the `storage` folder."""
        return storage / self.place

    @property
    def place(self) -> str:
        """The path from the storage folder to this key's file."""
        return f"{self.project}/{self.kind.folder}/{shard(self.id)}/{self.id}{self.kind.ending}"


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key that has just been stored, and the bytes that its file takes on the disk."""

    key: Key
    size: int


def parse_project(account_handle: str, project_handle: str) -> Project:
    """The project that two handles name.

    Raises:
        InvalidIdentifier: one of them isn't 1 to 100 of `A-Z a-z 0-9 _ -`.
    """
    return Project(
        _parse_handle("account_handle", account_handle),
        _parse_handle("project_handle", project_handle),
    )


def parse_id(kind: Kind, name: str, value: str) -> str:
    """`value` itself, if it can be the id of such a kind; `name` is what the error calls it.

    Raises:
        InvalidIdentifier: it isn't what `kind.ids` says.
    """
    if kind.ids.pattern.fullmatch(value) is None:
        raise InvalidIdentifier(f"{name} {_quote(value)} is invalid: it must be {kind.ids.meaning}")
    return value


def module_id(category: str, module_hash: str, name: str) -> str:
    """The id of a module: the SHA-256 of what names it.

    Names may hold any letters. Those with an accent have two forms in Unicode, which mean the same
    to whoever reads them, and are the same here.

    Raises:
        InvalidIdentifier: a part is empty, `.` or `..`, too long, no UTF-8, or has a character that
            no name may have.
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
    """The key whose file lies at these parts of a path below the storage folder, if any does."""
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
    """The project whose folder lies at these parts of a path below storage, if any does."""
    if len(parts) == 2 and all(map(is_account, parts)):
        return Project(*parts)
    return None


def project_folder_of(path: Path, storage: Path) -> Path:
    """The folder of the project that a file below `storage` belongs to."""
    return storage / Path(*path.relative_to(storage).parts[:2])


def quarantine_folder_of(path: Path, storage: Path) -> Path:
    """The folder that a broken file below `storage` is moved to: one for each kind."""
    return storage / QUARANTINE / Path(*path.relative_to(storage).parts[:3])


def is_account(name: str) -> bool:
    """Whether a folder of that name may be an account's (or, one further down, a project's)."""
    return _HANDLE.fullmatch(name) is not None and name == name.lower()


def id_of(kind: Kind, shard_of_file: str, file_name: str) -> str | None:
    """The id of that kind whose file has that name in that shard, if there is such an id."""
    name = file_name.removesuffix(kind.ending)
    is_one = file_name == name + kind.ending and kind.ids.pattern.fullmatch(name)
    return name if is_one and shard(name) == shard_of_file else None


def shard(key_id: str) -> str:
    """The folder that spreads ids: their 3rd and 4th character, `_` for shorter ones.

    Key-value ids all start with `0~` and CAS ids are hex, so these two characters vary in both.
    """
    return key_id[2:4] if len(key_id) >= 4 else "_"


def shard_depth() -> int:
    """The number of folders between a kind's folder and its files."""
    return shard("").count("/") + 1


def shard_at(folder: str) -> str:
    """The shard whose folder is at that path."""
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
