"""The trash: folders of cleaned projects, until their files are removed.

Theory of operation
-------------------
A clean renames the project's folder to one below `.trash`. The rename is one atomic step, however
many files there are: before it all of them exist, after it none, for readers and writers in every
process. Files stored before the clean are gone for good, since no path leads to them any more;
files stored later go into a folder that their writer makes anew.

The rename happens under the project's exclusive lock. The writer of an entry holds that lock
shared, from the check of the entry's artifacts until the entry is stored: so the entry is moved
with its artifacts, or refused without them. Artifacts are published without a lock. One that is
published during a clean goes into the old folder and is lost, or into a new one and stays: its
client sent both requests at the same time. Writers that remember a folder which was moved away
notice, and sync its replacement's parents again (`files/folders.py`).

Unfinished uploads of the project are moved too, since their parts were sent before the clean.

The rename is synced before the clean returns, and so is that of the project's folder in the
quarantine. Nothing refers to files in the trash, so any process can remove them at any time,
several can do so at once, and after a kill the next one goes on.
"""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

from .files.folders import sync_folder
from .files.unfinished import uploads_of
from .integrity.quarantine import FOLDER_MODE, chown_like
from .layout import QUARANTINE, TRASH
from .project_lock import exclusive
from .walk import BLOCK

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .layout import Project

_IMMOVABLE = {errno.EXDEV, errno.EBUSY}


@dataclass(frozen=True, slots=True)
class Removed:
    """The number of removed files, and their bytes on disk."""

    files: int = 0
    bytes: int = 0

    def __add__(self, other: Removed) -> Removed:
        return Removed(self.files + other.files, self.bytes + other.bytes)


def clean(root: Path, project: Project, *, durable: bool = True) -> bool:
    """Move all stored files of `project` to the trash, and return whether there were any.

    Args:
        root: the storage folder.
        project: the project to clean.
        durable: whether the clean has to survive a power cut once this returns.

    Raises:
        OSError: a folder could not be moved and stays: the disk failed, the folder belongs to
            somebody else, or it is a mount of its own (`EXDEV`).
    """
    folder = project.path(root)
    broken = root / QUARANTINE / project.account / project.name
    trash = root / TRASH
    with suppress(FileExistsError):
        trash.mkdir(mode=FOLDER_MODE)
        chown_like(trash, root)
    wanted = [broken]  # under the lock, no file of the project is moved into quarantine
    wanted += uploads_of(project, root)
    with ExitStack() as lock:
        with suppress(FileNotFoundError):
            lock.enter_context(exclusive(folder))
            wanted.append(folder)
        moved = [_move(each, trash) for each in wanted]
    if durable:  # even if nothing was moved: another clean may have moved it and not yet synced
        for changed in (trash, folder.parent, broken.parent, root):
            with suppress(FileNotFoundError):
                sync_folder(changed)
    return any(moved)


def empty_trash(root: Path) -> Iterator[Removed]:
    """Remove all files in the trash of the storage folder `root`; yield after each file.

    Raises:
        OSError: a cleaned folder could not be removed; all others have been.
    """
    failure = None
    for taken in _listed(f"{root}/{TRASH}"):
        try:
            yield from _remove(taken.path)
        except OSError as error:
            failure = error
    if failure is not None:
        raise failure


def _move(folder: Path, trash: Path) -> bool:
    """Move a folder to the trash, and return whether there was one."""
    try:
        folder.rename(trash / uuid4().hex)
    except FileNotFoundError:
        if folder.exists():  # so it is the trash that does not exist
            raise
        return False
    except OSError as error:
        if error.errno not in _IMMOVABLE:
            raise
        text = "it is a file system of its own, and cannot be moved to the trash"
        raise OSError(errno.EXDEV, text, str(folder)) from error
    return True


def _remove(folder: str) -> Iterator[Removed]:
    for each in _listed(folder):
        if each.is_dir(follow_symlinks=False):
            yield from _remove(each.path)
            continue
        try:
            status = each.stat(follow_symlinks=False)
            os.unlink(each.path)  # noqa: PTH108 - there may be very many
        except FileNotFoundError:
            continue  # removed by another process
        yield Removed(1, status.st_blocks * BLOCK)
    try:
        os.rmdir(folder)  # noqa: PTH106 - as above
    except OSError as error:
        # Already removed; or a writer has just put a file here, which the next call removes.
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
            raise


def _listed(folder: str) -> Iterator[os.DirEntry[str]]:
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        yield from entries
