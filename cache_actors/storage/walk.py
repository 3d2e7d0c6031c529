"""Walks over stored files, in memory that does not grow with their number."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .integrity.quarantine import DAMAGE
from .layout import id_of, is_account, project_at, shard_at, shard_depth

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cache_actors.kinds import Kind

    from .layout import Project

BLOCK = 512
"""Unit of `st_blocks` in bytes on Linux, whatever the file system's own block size is."""


_FLAGS = os.O_RDONLY | os.O_NOATIME | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A stored file: its path, its id, and its status."""

    path: str
    id: str
    status: os.stat_result

    @property
    def size(self) -> int:
        """Disk usage in bytes."""
        return self.status.st_blocks * BLOCK


def stored_file(path: str, file_id: str) -> StoredFile | None:
    """The regular file at `path`, whose name means `file_id`; None if there is none."""
    try:
        status = os.stat(path, follow_symlinks=False)  # noqa: PTH116 - faster than a Path's
    except (FileNotFoundError, NotADirectoryError):
        return None
    return StoredFile(path, file_id, status) if stat.S_ISREG(status.st_mode) else None


class FolderLost(OSError):
    """A folder cannot be read any more, as its bytes are lost; other folders may be fine."""


def projects(root: Path) -> list[Project]:
    """The projects that have a folder below the storage folder `root`.

    Raises:
        OSError: the storage folder or an account's folder cannot be read.
    """
    accounts = [
        each.name for each in os.scandir(root) if is_account(each.name) and _is_folder(each)
    ]
    return [
        project
        for account in accounts
        for each in _listed(f"{root}/{account}")
        if _is_folder(each) and (project := project_at((account, each.name)))
    ]


def shards(root: Path, project: Project, kind: Kind) -> list[str]:
    """The paths of the folders that hold a project's files of one kind.

    Raises:
        FolderLost: a folder above them is lost.
        OSError: the disk failed, or a folder belongs to somebody else.
    """
    folders = [str(project.path(root) / kind.folder)]
    for _ in range(shard_depth()):
        folders = [each.path for folder in folders for each in _listed(folder) if _is_folder(each)]
    return folders


def files(shard: str, kind: Kind) -> Iterator[StoredFile]:
    """The stored files of kind `kind` in the folder `shard`; anything else there is left out.

    Raises:
        As `shards`.
    """
    name = shard_at(shard)
    for each in _listed(shard):
        entry_id = id_of(kind, name, each.name)
        status = entry_id and _status(each)
        if entry_id and status and stat.S_ISREG(status.st_mode):
            yield StoredFile(each.path, entry_id, status)


def read_unnoticed(path: str) -> bytes:
    """The bytes of a file, read without a change of its last use; empty if missing or broken.

    Raises:
        OSError: the disk failed, or the file belongs to somebody else.
    """
    try:
        with open(os.open(path, _FLAGS), "rb") as file:  # noqa: PTH123
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return b""
    except OSError as error:
        if error.errno not in DAMAGE:
            raise
        return b""


def _listed(folder: str) -> Iterator[os.DirEntry[str]]:
    """The directory entries in `folder`; none if there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        if error.errno in DAMAGE:
            raise FolderLost(error.errno, error.strerror, folder) from error
        raise


def _status(each: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return each.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None


def _is_folder(each: os.DirEntry[str]) -> bool:
    return not each.name.startswith(".") and each.is_dir(follow_symlinks=False)
