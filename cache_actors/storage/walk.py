"""Walking over what is stored, with memory for one file at a time, whatever the number of files."""

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
"""Unit of `st_blocks` in bytes, whatever the file system's own blocks are (POSIX)."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of the service's: its path, the id it is stored under, and its status."""

    path: str
    id: str
    status: os.stat_result

    @property
    def size(self) -> int:
        """The bytes that it takes on the disk."""
        return self.status.st_blocks * BLOCK


class FolderLost(OSError):
    """A folder cannot be read any more. The rest of the disk goes on."""


def projects(root: Path) -> list[Project]:
    """The projects that have a folder below the storage folder `root`.

    Raises:
        OSError: the storage folder cannot be read.
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
    """The folders in which a project's files of one kind lie.

    Raises:
        FolderLost: not all of them can be known.
        OSError: the disk failed, or a folder is somebody else's.
    """
    folders = [str(project.path(root) / kind.folder)]
    for _ in range(shard_depth()):
        folders = [each.path for folder in folders for each in _listed(folder) if _is_folder(each)]
    return folders


def files(shard: str, kind: Kind) -> Iterator[StoredFile]:
    """The files in one of those folders. Whatever else lies there is left out.

    Raises:
        OSError: as `shards`.
    """
    name = shard_at(shard)
    for each in _listed(shard):
        entry_id = id_of(kind, name, each.name)
        status = entry_id and _status(each)
        if entry_id and status and stat.S_ISREG(status.st_mode):
            yield StoredFile(each.path, entry_id, status)


def _listed(folder: str) -> Iterator[os.DirEntry[str]]:
    """The names in `folder`; no more of them once it is gone."""
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
