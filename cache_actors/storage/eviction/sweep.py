"""Eviction: what was used least recently goes, and no entry stays without its artifacts.

Theory of operation
-------------------
A scan of the disk yields a cut-off: a fixed rule for what is too old (`cutoff.py`). Each project is
then swept in two phases. *Entries* here are the files of all kinds that refer to others, and
*artifacts* are the files of all other kinds (`kinds.py`):

1. *Entries.* An entry is removed if it is too old, or if it refers to an artifact that is missing
   or about to be removed. If an entry stays, each artifact it refers to is given a last use no
   earlier than the entry's own.
2. *Artifacts.* After a pause, the artifacts that are too old are removed.

No remaining entry refers to a removed artifact. The artifacts of entries that phase 1 kept are not
too old, since their last use was moved forward. Entries that are stored later touch their artifacts
themselves (`entries.py`), after the cut-off. Last uses never move back, and a file that the rule
spares is spared at any later last use too. A store that began before the cut-off may, on a slow
disk, have touched its artifacts long ago; phase 1 waits until all such stores have ended.

No entry may be stored between the check of a file and its removal. Both happen under the project's
exclusive lock, a few files at a time. All folders of entries are synced before phase 2, so that a
power cut cannot restore an entry whose artifact is gone. A pass that is killed at any point has
removed only old entries, and artifacts that nothing referred to.

Empty folders are removed too, since each takes an inode. A writer that finds its folder gone makes
it again (`folders.py`). Folders of entries are synced before that, so that a power cut cannot
restore one with an entry in it.

A client that received an entry just before its removal has the length of the pause, the *grace*, to
fetch its artifacts.
"""

from __future__ import annotations

import os
import stat
import time
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from cache_actors.kinds import Kind
from cache_actors.storage.files.folders import sync_folder
from cache_actors.storage.files.last_use import WRONG_CLOCK_NS, last_use, touch_path
from cache_actors.storage.integrity.quarantine import DAMAGE
from cache_actors.storage.layout import Key
from cache_actors.storage.project_lock import exclusive
from cache_actors.storage.references import references_in, spellings
from cache_actors.storage.walk import FolderLost, StoredFile, files, shards

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from cache_actors.storage.layout import Project

    from .cutoff import Cutoff

BATCH = 32
"""Number of files that are removed under one hold of the lock, which takes about a millisecond."""

MAX_PAUSE_SECONDS = 0.1
"""Longest pause between two steps, in seconds: the pass may have to hurry by then."""

ENTRY_GRACE_NS = 600_000_000_000
"""Time in nanoseconds that an entry may wait for its artifacts where such entries are stored at all
(`KV_REQUIRE_ARTIFACTS=off`)."""

_FLAGS = os.O_RDONLY | os.O_NOATIME | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class ClockStepped(Exception):
    """The clock was set during a pass: times of last use mean nothing to it any more."""


@dataclass(frozen=True, slots=True)
class Step:
    """A part of a pass that is done: so many files were removed; now rest for `pause` seconds."""

    removed: int = 0
    pause: float = 0.0


@dataclass(slots=True)
class Remaining:
    """The rest of a project. `oldest_use` is in nanoseconds since the epoch, None without any."""

    artifacts: int = 0
    bytes: int = 0
    oldest_use: int | None = None


@dataclass(slots=True)
class Evicted:
    """The totals of what has been evicted so far.

    Attributes:
        bytes: on disk, of artifacts and entries.
        folders: how many were empty, and have gone.
        youngest_use: when the artifact used last of them was used, in nanoseconds since the epoch.
    """

    artifacts: int = 0
    entries: int = 0
    bytes: int = 0
    folders: int = 0
    youngest_use: int | None = None

    def add_entry(self, entry: StoredFile) -> None:
        """Count an entry that has gone."""
        self.entries += 1
        self.bytes += entry.size

    def add_artifact(self, artifact: StoredFile) -> None:
        """Count an artifact that has gone."""
        used = last_use(artifact.status)
        self.artifacts += 1
        self.bytes += artifact.size
        self.youngest_use = max(used, self.youngest_use or used)


@dataclass(slots=True)
class Sweep:
    """One pass over some projects of the storage folder `root`.

    Attributes:
        rule: what goes.
        grace: seconds between the end of a project's entries and the start of its artifacts. May
            be changed at any time.
        require_artifacts: whether entries go at once whose artifacts are missing; else they may
            wait for them for `ENTRY_GRACE_NS`.
        removed: what has gone so far.
        kept: what is left of the projects that are done.
        unsettled: whether there was an entry that still waits for its artifacts.
    """

    root: Path
    rule: Cutoff
    grace: float
    require_artifacts: bool = True
    removed: Evicted = field(default_factory=Evicted)
    kept: dict[Project, Remaining] = field(default_factory=dict)
    unsettled: bool = False
    _waiting: list[tuple[Project, float]] = field(default_factory=list)

    def run(self, projects: Iterable[Project]) -> Iterator[Step]:
        """Work through `projects`; between steps no lock is held.

        Raises:
            ClockStepped: the pass cannot go on.
            OSError: the disk failed, or belongs to somebody else.
        """
        for project in projects:
            with suppress(FolderLost):  # entries that cannot be seen may need any of its artifacts
                yield from self._entries(project)
                self._waiting.append((project, time.monotonic()))
            yield from self._artifacts_of_those_ready()
        while self._waiting:
            yield Step(pause=min(self.grace, MAX_PAUSE_SECONDS))
            yield from self._artifacts_of_those_ready()

    def mend(self, projects: Iterable[Project]) -> Iterator[Step]:
        """Do only the first half: what goes are entries without an artifact.

        Raises:
            As `run`.
        """
        for project in projects:
            with suppress(FolderLost):
                yield from self._entries(project)

    def look(self, projects: Iterable[Project]) -> Iterator[None]:
        """Count in `removed` what would go at most, and in `kept` what stays; change nothing."""
        for project in projects:
            kept = self.kept[project] = Remaining()
            with suppress(FolderLost):
                for kind, shard in self._shards(project, referring=True):
                    for file in files(shard, kind):
                        if self.rule.takes(last_use(file.status), file.id):
                            self.removed.add_entry(file)
                    yield
                for kind, shard in self._shards(project, referring=False):
                    for file in files(shard, kind):
                        if not self._is_kept(file, kept):
                            self.removed.add_artifact(file)
                    yield

    def _artifacts_of_those_ready(self) -> Iterator[Step]:
        while self._waiting and time.monotonic() - self._waiting[0][1] >= self.grace:
            project, _ = self._waiting.pop(0)
            with suppress(FolderLost):
                yield from self._artifacts(project)

    def _entries(self, project: Project) -> Iterator[Step]:
        """Phase 1."""
        self._await_puts(project)
        folders = self._shards(project, referring=True)
        for kind, shard in folders:
            doomed = (each for each in files(shard, kind) if self._must_go(project, each))
            yield from self._in_batches(project, doomed, self._remove_entry)
            yield Step()
        for _, shard in folders:  # only now: the first sync does most of the work for the others
            with suppress(FileNotFoundError):
                sync_folder(shard)
                self._remove_if_empty(shard)
            yield Step()

    def _artifacts(self, project: Project) -> Iterator[Step]:
        """Phase 2."""
        kept = self.kept[project] = Remaining()
        for kind, shard in self._shards(project, referring=False):
            doomed = (each for each in files(shard, kind) if not self._is_kept(each, kept))
            yield from self._in_batches(project, doomed, self._remove_artifact)
            self._remove_if_empty(shard)
            yield Step()

    def _shards(self, project: Project, *, referring: bool) -> list[tuple[Kind, str]]:
        """A project's folders of all kinds that refer to others, or of all that do not."""
        return [
            (kind, shard)
            for kind in Kind
            if kind.refers is referring
            for shard in shards(self.root, project, kind)
        ]

    def _await_puts(self, project: Project) -> None:
        """Wait until every put that began before this moment has ended."""
        with suppress(FileNotFoundError), exclusive(project.path(self.root)):
            pass

    def _in_batches(
        self,
        project: Project,
        doomed: Iterator[StoredFile],
        remove: Callable[[Project, StoredFile], bool],
    ) -> Iterator[Step]:
        """Remove what is `doomed`, if it still is when nobody may put an entry."""
        while batch := list(islice(doomed, BATCH)):
            yield Step()
            removed = 0
            with suppress(FileNotFoundError), exclusive(project.path(self.root)):  # if not cleaned
                if not 0 <= time.time_ns() - self.rule.now < WRONG_CLOCK_NS:
                    raise ClockStepped("The clock was set during the pass")
                removed = sum(remove(project, each) for each in batch)
            yield Step(removed)

    def _must_go(self, project: Project, entry: StoredFile) -> bool:
        """Whether an entry has to go. If not, its artifacts are no older than it from now on."""
        used = last_use(entry.status)
        if self.rule.takes_all(used):
            return True
        ids = references_in(_read(entry.path))
        if not ids:
            return self.rule.takes(used, entry.id)
        return not all(self._stays(project, each, entry) for each in ids)

    def _stays(self, project: Project, artifact_id: str, entry: StoredFile) -> bool:
        """Whether an artifact outlives this pass, given that `entry` refers to it."""
        used = last_use(entry.status)
        is_there = False
        for spelling in spellings(artifact_id):
            path = f"{self.root}/{Key(project, Kind.CAS, spelling).place}"
            status = _status(path)
            if status is None:
                continue
            if self.rule.takes(max(used, last_use(status)), spelling):
                return False
            is_there |= last_use(status) >= used or touch_path(path, used)
        waited = self.rule.now - entry.status.st_mtime_ns
        if not is_there and not self.require_artifacts and 0 <= waited < ENTRY_GRACE_NS:
            self.unsettled = True
            return True
        return is_there

    def _is_kept(self, artifact: StoredFile, kept: Remaining) -> bool:
        used = last_use(artifact.status)
        if self.rule.takes(used, artifact.id) and _is_ours(artifact.status):
            return False
        kept.artifacts += 1
        kept.bytes += artifact.size
        kept.oldest_use = used if kept.oldest_use is None else min(used, kept.oldest_use)
        return True

    def _remove_if_empty(self, shard: str) -> None:
        with suppress(OSError):  # mostly, as there is something in it
            os.rmdir(shard)  # noqa: PTH106 - a Path keeps its names
            self.removed.folders += 1

    def _remove_entry(self, project: Project, entry: StoredFile) -> bool:
        now = _again(entry)
        if now is None or not self._must_go(project, now):
            return False
        os.unlink(now.path)  # noqa: PTH108 - a Path keeps its names
        self.removed.add_entry(now)
        return True

    def _remove_artifact(self, project: Project, artifact: StoredFile) -> bool:
        now = _again(artifact)
        if now is None or self._is_kept(now, self.kept[project]):
            return False
        os.unlink(now.path)  # noqa: PTH108 - a Path keeps its names
        self.removed.add_artifact(now)
        return True


def _again(file: StoredFile) -> StoredFile | None:
    """The file at the path of `file` as it is now, if there is one."""
    status = _status(file.path)
    return StoredFile(file.path, file.id, status) if status else None


def _status(path: str | Path) -> os.stat_result | None:
    """The status of a file; None if there is none."""
    try:
        status = os.stat(path, follow_symlinks=False)  # noqa: PTH116 - faster than a Path's
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def _is_ours(status: os.stat_result) -> bool:
    """Whether the file is this user's. Of another's no use can be noted, so none is known."""
    return os.geteuid() in (0, status.st_uid)


def _read(path: str) -> bytes:
    """The bytes of an entry; none if it is gone or broken. Reading them does not count as a use."""
    try:
        with open(os.open(path, _FLAGS), "rb") as file:  # noqa: PTH123
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return b""
    except OSError as error:
        if error.errno not in DAMAGE:
            raise
        return b""
