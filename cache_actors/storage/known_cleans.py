"""Cleans that this node knows of, so that nothing that one has taken is stored here again.

    <storage>/.cleans/<account>/<project>/<time>       a clean that the disk has yet to follow
    <storage>/.cleans/<account>/<project>/<time>.done  one that it has followed

Nodes with one bucket clean a project together (`s3/cleans.py`). A clean takes all that was stored,
on any node, at its time or earlier; that is the modification time of the file. It is noted here
before anything is removed. From then on, in all processes of the node, and after a restart too:

- no pull stores what it takes: whoever does so looks here under the project's lock (`entries.py`);
- until the disk has followed (`follow_clean.py`), what it takes counts as missing for entries that
  are stored, so that none refers to a file that is about to go, and for uploads, which take its
  place (`files/store.py`);
- what it takes is not put into the bucket, and not stored again after a power cut.

A note is an empty file, and its name says all. So it is made, and later marked as followed, in one
step each, and nobody who looks needs a lock. Without a bucket there are none.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .files.folders import sync_folder
from .files.last_use import WRONG_CLOCK_NS
from .files.temporary import FOLDER_MODE
from .integrity.quarantine import chown_like
from .layout import CLEANS, project_at

if TYPE_CHECKING:
    from pathlib import Path

    from .layout import Project

SETTLING_SECONDS = 60.0
"""Seconds after a clean in which another node, which has not heard of it, may still put an older
version of a file into the bucket, in place of a newer one."""

_NOTE = re.compile(r"([0-9]{1,19})(\.done)?")


@dataclass(frozen=True, slots=True)
class KnownClean:
    """The latest clean of a project that this node knows of.

    Attributes:
        time: what was stored then, or earlier, is gone; nanoseconds since the epoch, 0 for never.
        is_followed: whether nothing that it takes is left on this disk.
    """

    time: int = 0
    is_followed: bool = True

    def takes(self, stored: int) -> bool:
        """Whether what was stored at that time, in nanoseconds since the epoch, is gone."""
        return self.time > 0 and stored <= self.time

    @property
    def going(self) -> int:
        """The time up to which stored files are about to go, in nanoseconds; 0 if none is."""
        return 0 if self.is_followed else self.time

    def marked_since(self, now: float | None = None) -> float:
        """The time from which a mark says that its file is in the bucket, in seconds.

        Without a clean, and until `SETTLING_SECONDS` after it, all marks count.

        Args:
            now: the present time in seconds since the epoch; by default of the clock.
        """
        settled = self.time / 1e9 + SETTLING_SECONDS
        is_settled = settled <= (time.time() if now is None else now)
        return settled if self.time and is_settled else 0.0


def known_clean(root: Path, project: Project) -> KnownClean:
    """The latest clean of `project` that is noted in the storage folder `root`.

    Raises:
        OSError: the disk failed, or the notes belong to somebody else.
    """
    latest = KnownClean()
    for each in _listed(f"{root}/{CLEANS}/{project}"):
        if found := _NOTE.fullmatch(each):
            clean = KnownClean(int(found[1]), is_followed=found[2] is not None)
            if (clean.time, clean.going) > (latest.time, latest.going):
                latest = clean
    return latest


def known_cleans(root: Path) -> dict[Project, KnownClean]:
    """The latest cleans of all projects that have one.

    Raises:
        As `known_clean`.
    """
    found = {}
    for account in _listed(f"{root}/{CLEANS}"):
        for name in _listed(f"{root}/{CLEANS}/{account}"):
            project = project_at((account, name))
            if project is not None and (clean := known_clean(root, project)).time:
                found[project] = clean
    return found


def note_clean(root: Path, project: Project, when: int, *, durable: bool = True) -> None:
    """Note that `project` was cleaned at `when`, in nanoseconds since the epoch.

    Args:
        root: the storage folder.
        project: the project.
        when: the time of the clean; one that is not later than the latest changes nothing, unless
            that is in the future, by a clock that was wrong.
        durable: whether that has to survive a power cut once this returns.

    Raises:
        OSError: the disk failed, or is full.
    """
    ahead = time.time_ns() + WRONG_CLOCK_NS
    if when <= known_clean(root, project).time <= ahead:
        return
    folder = notes_of(root, project)
    folders = [folder.parent.parent, folder.parent, folder]
    for each in folders:
        with suppress(FileExistsError):
            each.mkdir(mode=FOLDER_MODE)
            chown_like(each, root)
    replaced = [each for each in _listed(str(folder)) if not when <= _time(each) <= ahead]
    (folder / str(when)).touch(mode=0o640)
    for name in replaced:
        (folder / name).unlink(missing_ok=True)
    if durable:
        for each in (*reversed(folders), root):
            sync_folder(each)


def note_followed(root: Path, project: Project, when: int, *, durable: bool = True) -> None:
    """Note that nothing that the clean at `when` takes is left on this disk.

    Raises:
        OSError: the disk failed.
    """
    folder = notes_of(root, project)
    with suppress(FileNotFoundError):  # a later one has been noted meanwhile
        (folder / str(when)).rename(folder / f"{when}.done")
        if durable:
            sync_folder(folder)


def notes_of(root: Path, project: Project) -> Path:
    """The folder with the notes of cleans of `project`."""
    return root / CLEANS / project.account / project.name


def _time(name: str) -> int:
    found = _NOTE.fullmatch(name)
    return int(found[1]) if found else 0


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - for each batch that is stored
    except (FileNotFoundError, NotADirectoryError):
        return []
