"""How a node follows a clean that another one was asked for: file by file, and newer ones stay.

Theory of operation
-------------------
A clean takes what was stored at its time or earlier (`known_cleans.py`). The node that was asked
renames the project's folder. Another one hears of it seconds later, and may have stored since, so
it removes what the clean takes, and nothing else:

1. It waits until all puts of entries that have begun have ended. Those that begin later find the
   note of the clean, and count what it takes as missing.
2. *Entries* are removed that are as old as the clean, or that refer to an artifact that is. Their
   folders are synced, all of them: a run before may have been killed.
3. *Artifacts* are removed that are as old. No entry refers to them: after step 2 none is left that
   does, and by step 1 none comes. Broken files in quarantine, which nobody reads, go with them.

So there never is an entry whose artifact has gone, and a run that is cut short is begun again, as
its note says. Files are checked and removed under the project's exclusive lock, a few at a time.

Uploads in parts that have begun are left: a file counts as stored when it gets its name.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from cache_actors.kinds import Kind

from .files.folders import sync_folder
from .known_cleans import note_followed, notes_of
from .layout import QUARANTINE, Key
from .locks import FolderLock
from .project_lock import exclusive
from .references import targets_in
from .trash import Removed
from .walk import StoredFile, files, read_unnoticed, shards, stored_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from .layout import Project
    from .references import Target

BATCH = 32
"""Number of files that are removed under one hold of the lock, which takes about a millisecond."""


def follow_clean(
    root: Path, project: Project, when: int, *, durable: bool = True
) -> Iterator[Removed]:
    """Remove what the clean of `project` at `when` takes; yield between steps, with no lock held.

    It does nothing while another process does the same.

    Args:
        root: the storage folder, in which the clean is noted.
        project: the project.
        when: the time of the clean, in nanoseconds since the epoch.
        durable: whether what is removed must not come back after a power cut.

    Raises:
        OSError: the disk failed, or a file belongs to somebody else; it may be begun again.
    """
    try:
        lock = FolderLock(notes_of(root, project))
    except BlockingIOError:
        return
    with lock:
        yield from _Following(root, project, when, durable).run()
        note_followed(root, project, when, durable=durable)


@dataclass(frozen=True, slots=True)
class _Following:
    """One run: see `follow_clean`."""

    root: Path
    project: Project
    when: int
    durable: bool

    def run(self) -> Iterator[Removed]:
        with suppress(FileNotFoundError), self._alone():
            pass  # puts of entries that have begun have ended
        for refers, goes in (True, self._entry_goes), (False, self._is_old):
            folders = [
                (kind, shard)
                for kind in Kind
                if kind.refers is refers
                for shard in shards(self.root, self.project, kind)
            ]
            for kind, shard in folders:
                yield from self._remove((f for f in files(shard, kind) if goes(f)), goes)
                yield Removed()
            for _, shard in folders:
                self._settle(shard)
                yield Removed()
        broken = self.root / QUARANTINE / self.project.account / self.project.name
        for path in broken.glob("*/*"):
            with suppress(FileNotFoundError):
                found = StoredFile(str(path), path.name, path.lstat())
                if self._is_old(found):
                    path.unlink()
                    yield Removed(1, found.size)

    def _alone(self) -> AbstractContextManager[None]:
        return exclusive(self.project.path(self.root))

    def _remove(
        self, doomed: Iterator[StoredFile], goes: Callable[[StoredFile], bool]
    ) -> Iterator[Removed]:
        """Remove the files `doomed` in batches, if each still `goes` when nobody else is there."""
        while batch := list(islice(doomed, BATCH)):
            gone = Removed()
            # FileNotFoundError: a clean of this node has moved the project's folder away.
            with suppress(FileNotFoundError), self._alone():
                for each in batch:
                    found = stored_file(each.path, each.id)
                    if found is not None and goes(found):
                        os.unlink(found.path)  # noqa: PTH108 - a Path keeps its names
                        gone += Removed(1, found.size)
            yield gone

    def _settle(self, shard: str) -> None:
        """See to it that what was removed from a folder stays so, and remove it if it is empty."""
        with suppress(FileNotFoundError):
            if self.durable:
                sync_folder(shard)
        with suppress(OSError):  # usually ENOTEMPTY
            os.rmdir(shard)  # noqa: PTH106 - a Path keeps its names

    def _is_old(self, file: StoredFile) -> bool:
        return file.status.st_mtime_ns <= self.when

    def _entry_goes(self, entry: StoredFile) -> bool:
        if self._is_old(entry):
            return True
        return any(map(self._artifact_goes, targets_in(read_unnoticed(entry.path))))

    def _artifact_goes(self, target: Target) -> bool:
        """Whether an artifact or blob is here, and none of its spellings stays."""
        keys = [Key(self.project, target.kind, each) for each in target.ids]
        found = [stored_file(f"{self.root}/{key.place}", key.id) for key in keys]
        there = [file for file in found if file is not None]
        return bool(there) and all(map(self._is_old, there))
