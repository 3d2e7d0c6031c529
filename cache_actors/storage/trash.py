"""The trash: what cleans have taken away from projects, until it is removed.

Theory of operation
-------------------
A clean renames the project's folder, to one below `.trash`. That is one step, however much there
is: before it everything is there, after it nothing, for whoever reads or writes, in any process.
What has been stored before is gone for good, since no path leads to it any more; whatever comes
later is put into a folder that its writer makes anew.

It happens under the project's exclusive lock. Whoever puts an entry holds that lock shared, from
the look at its artifacts until it is stored: the entry goes with them, or is refused without them.
Artifacts are published without a lock. One that is just on its way is put into the old folder, and
goes, or into a new one, and stays: its client asked for both at once. Writers that know folders
which have been taken away find that out, and see to it that the new ones survive a power cut
(`files/folders.py`).

Uploads in parts that are not complete go too: their parts were sent before.

The rename is synced before the clean is done, and so is that of the project's folder in the
quarantine. What lies in the trash is nobody's, so it can be removed by anyone at any time, by
several at once, and by the next one from wherever the last one was killed.
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
    """Files that have been removed: how many, and their bytes on the disk."""

    files: int = 0
    bytes: int = 0

    def __add__(self, other: Removed) -> Removed:
        return Removed(self.files + other.files, self.bytes + other.bytes)


def clean(root: Path, project: Project, *, durable: bool = True) -> bool:
    """Take away all that is stored of `project`, for good, and return whether there was anything.

    Args:
        root: the storage folder.
        project: whose.
        durable: whether that has to survive a power cut when this returns.

    Raises:
        OSError: it cannot be taken away, and is where it was: the disk failed, the folder is
            somebody else's, or is a file system of its own (`EXDEV`).
    """
    folder = project.path(root)
    broken = root / QUARANTINE / project.account / project.name
    trash = root / TRASH
    with suppress(FileExistsError):
        trash.mkdir(mode=FOLDER_MODE)
        chown_like(trash, root)
    wanted = [broken]  # first: while the lock is held nothing of the project is moved there
    wanted += uploads_of(project, root)
    with ExitStack() as lock:
        with suppress(FileNotFoundError):
            lock.enter_context(exclusive(folder))
            wanted.append(folder)
        moved = [_move(each, trash) for each in wanted]
    if durable:  # also what another clean, which may not have come to that, has moved
        for changed in (trash, folder.parent, broken.parent, root):
            with suppress(FileNotFoundError):
                sync_folder(changed)
    return any(moved)


def empty(root: Path) -> Iterator[Removed]:
    """Remove what is in the trash below the storage folder `root`; yields after each file.

    Raises:
        OSError: something cannot be removed; the rest of it has been.
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
        if folder.exists():  # then it is the trash that is gone
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
            continue  # somebody else has removed it
        yield Removed(1, status.st_blocks * BLOCK)
    try:
        os.rmdir(folder)  # noqa: PTH106 - as above
    except OSError as error:
        # Gone; or a file was just on its way here, and is left to the next one.
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
            raise


def _listed(folder: str) -> Iterator[os.DirEntry[str]]:
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        yield from entries
