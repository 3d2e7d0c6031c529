"""The layout: where everything lies on disk, and what a client may name. Pure, no I/O.

    <storage>/<account>/<project>/cas/<shard>/<id>
    <storage>/<account>/<project>/keyvalue/<shard>/<cas_id>.json

nginx reads the same layout, written down as regular expressions. Handles and ids are matched whole
and can hold neither a dot nor a slash, so no path that is built here leaves its project's folder,
and none can be mistaken for `<storage>/.tmp`.
"""

from __future__ import annotations

import re
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

_HANDLE = re.compile(r"[A-Za-z0-9_-]{1,100}")
_ID = re.compile(r"[A-Za-z0-9_~=+-]{1,200}")


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
        """The path from the storage folder to this entry's file."""
        return f"{self.project}/{self.kind.folder}/{shard(self.id)}/{self.id}{self.kind.ending}"


def parse_project(account_handle: str, project_handle: str) -> Project:
    """The project that two handles name.

    Raises:
        InvalidIdentifier: one of them isn't 1 to 100 of `A-Z a-z 0-9 _ -`.
    """
    return Project(
        _parse_handle("account_handle", account_handle),
        _parse_handle("project_handle", project_handle),
    )


def parse_id(name: str, value: str) -> str:
    """`value` itself, if it can be the id of an entry; `name` is what the error calls it.

    Raises:
        InvalidIdentifier: it isn't 1 to 200 of `A-Z a-z 0-9 _ ~ = + -`.
    """
    if _ID.fullmatch(value) is None:
        raise InvalidIdentifier(
            f"{name} {_quote(value)} is invalid: it must be 1 to 200 characters of "
            "A-Z a-z 0-9 _ ~ = + -"
        )
    return value


def key_at(parts: tuple[str, ...]) -> Key | None:
    """The entry whose file lies at these parts of a path below the storage folder, if any does."""
    if len(parts) < 4:
        return None
    account, name, folder, *shard_parts, file_name = parts
    project = project_at((account, name))
    for kind in Kind:
        entry_id = id_of(kind, "/".join(shard_parts), file_name)
        if folder == kind.folder and entry_id is not None and project is not None:
            return Key(project, kind, entry_id)
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
    """The id of the entry that has a file of that name in that shard, if any has."""
    entry_id = file_name.removesuffix(kind.ending)
    is_one = file_name == entry_id + kind.ending and _ID.fullmatch(entry_id)
    return entry_id if is_one and shard(entry_id) == shard_of_file else None


def shard(entry_id: str) -> str:
    """The folder that spreads ids: their 3rd and 4th character, `_` for shorter ones.

    Key-value ids all start with `0~` and CAS ids are hex, so these two characters vary in both.
    """
    return entry_id[2:4] if len(entry_id) >= 4 else "_"


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
