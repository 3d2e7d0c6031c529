"""The sweep of eviction, which removes old files, but no artifact that a remaining entry needs.

Theory of operation
-------------------
A scan of the disk yields a cut-off: a fixed rule for what is too old (`cutoff.py`). Each project is
then swept in two phases. *Entries* are the files of all kinds that refer to others, *artifacts*
those of all other kinds (`kinds.py`), and entries refer to artifacts (`references.py`):

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

With a bucket, files that are not there yet have a rule of their own, `last`, which takes some only
if `rule` takes everything. So it never takes what `rule` would spare, and no file comes under
`rule` during a pass (`shared.py`): what is said above holds for both. An entry that is spared only
for that reason keeps its artifacts, which are touched if they are too old.

A client that received an entry just before its removal has the length of the pause, the *grace*, to
fetch its artifacts.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from cache_actors.kinds import Kind
from cache_actors.storage.files.folders import sync_folder
from cache_actors.storage.files.last_use import WRONG_CLOCK_NS, last_use, touch_path
from cache_actors.storage.layout import Key
from cache_actors.storage.project_lock import exclusive
from cache_actors.storage.references import targets_in
from cache_actors.storage.walk import (
    FolderLost,
    StoredFile,
    files,
    read_unnoticed,
    shards,
    stored_file,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from cache_actors.storage.layout import Project
    from cache_actors.storage.references import Target

    from .cutoff import Cutoff
    from .shared import SharedFiles

BATCH = 32
"""Number of files that are removed under one hold of the lock, which takes about a millisecond."""

MAX_PAUSE_SECONDS = 0.1
"""Longest pause between two steps, in seconds, so that a change of `Sweep.grace` acts soon."""

ENTRY_GRACE_NS = 600_000_000_000
"""Time in nanoseconds that an entry may stay without its artifacts if the service stores such
entries (`KV_REQUIRE_ARTIFACTS=off`)."""


class ClockStepped(Exception):
    """The clock was set during a pass, which can no longer compare last uses with its cut-off."""


@dataclass(frozen=True, slots=True)
class Step:
    """A completed step of a pass: the number of removed files, and the seconds to rest after it."""

    removed: int = 0
    pause: float = 0.0


@dataclass(slots=True)
class Remaining:
    """The artifacts that a pass left in a project.

    Attributes:
        artifacts: number of artifacts.
        bytes: bytes on disk.
        oldest_use: earliest last use, in nanoseconds since the epoch; None without artifacts.
    """

    artifacts: int = 0
    bytes: int = 0
    oldest_use: int | None = None


@dataclass(slots=True)
class Evicted:
    """The totals of evicted files.

    Attributes:
        artifacts, entries: numbers of evicted files.
        bytes: bytes on disk of both.
        dropped: number of those that were not in the bucket.
        folders: number of removed empty folders.
        youngest_use: latest last use of an evicted artifact, in nanoseconds since the epoch; None
            without any.
    """

    artifacts: int = 0
    entries: int = 0
    bytes: int = 0
    folders: int = 0
    youngest_use: int | None = None
    dropped: int = 0

    def add_entry(self, entry: StoredFile, *, is_shared: bool) -> None:
        """Count an evicted entry."""
        self.dropped += not is_shared
        self.entries += 1
        self.bytes += entry.size

    def add_artifact(self, artifact: StoredFile, *, is_shared: bool) -> None:
        """Count an evicted artifact."""
        self.dropped += not is_shared
        used = last_use(artifact.status)
        self.artifacts += 1
        self.bytes += artifact.size
        self.youngest_use = max(used, self.youngest_use or used)


@dataclass(slots=True)
class Sweep:
    """A sweep of projects in the storage folder `root`.

    Attributes:
        root: the storage folder.
        rule: the cut-off.
        last: the cut-off for files that are not in the bucket.
        shared: those that are; None without a bucket, and then `rule` is for all files.
        grace: seconds between the two phases of a project; may be changed during the sweep.
        require_artifacts: whether entries with missing artifacts are removed at once; else they
            stay for `ENTRY_GRACE_NS`.
        removed: totals of evicted files so far.
        kept: artifacts left in each project whose second phase has begun.
        unsettled: whether an entry with missing artifacts was kept.
    """

    root: Path
    rule: Cutoff
    grace: float
    require_artifacts: bool = True
    last: Cutoff | None = None
    shared: SharedFiles | None = None
    removed: Evicted = field(default_factory=Evicted)
    kept: dict[Project, Remaining] = field(default_factory=dict)
    unsettled: bool = False
    _waiting: list[tuple[Project, float]] = field(default_factory=list)

    def run(self, projects: Iterable[Project]) -> Iterator[Step]:
        """Sweep `projects`; yield between steps, with no lock held.

        Raises:
            ClockStepped: the clock was set, so that ages mean nothing.
            OSError: the disk failed, or a file or folder belongs to somebody else.
        """
        for project in projects:
            with suppress(FolderLost):  # unreadable entries may refer to any of its artifacts
                yield from self._entries(project)
                self._waiting.append((project, time.monotonic()))
            yield from self._artifacts_of_those_ready()
        while self._waiting:
            yield Step(pause=min(self.grace, MAX_PAUSE_SECONDS))
            yield from self._artifacts_of_those_ready()

    def mend(self, projects: Iterable[Project]) -> Iterator[Step]:
        """Run phase 1 alone, which removes entries with a missing artifact.

        Raises:
            As `run`.
        """
        for project in projects:
            with suppress(FolderLost):
                yield from self._entries(project)

    def look(self, projects: Iterable[Project]) -> Iterator[None]:
        """Fill `removed` with the most that `run` could evict, and `kept`; remove nothing."""
        for project in projects:
            kept = self.kept[project] = Remaining()
            with suppress(FolderLost):
                for kind, shard in self._shards(project, referring=True):
                    for file in files(shard, kind):
                        rule = self._rule(file, refers=True)
                        if rule.takes(last_use(file.status), file.id):
                            self.removed.add_entry(file, is_shared=rule is self.rule)
                    yield
                for kind, shard in self._shards(project, referring=False):
                    for file in files(shard, kind):
                        rule = self._rule(file, refers=False)
                        if not self._is_kept(file, rule, kept):
                            self.removed.add_artifact(file, is_shared=rule is self.rule)
                    yield

    def _artifacts_of_those_ready(self) -> Iterator[Step]:
        while self._waiting and time.monotonic() - self._waiting[0][1] >= self.grace:
            project, _ = self._waiting.pop(0)
            with suppress(FolderLost):
                yield from self._artifacts(project)

    def _entries(self, project: Project) -> Iterator[Step]:
        """Run phase 1 of a project: remove its old entries, and those with missing artifacts."""
        self._await_puts(project)
        folders = self._shards(project, referring=True)
        for kind, shard in folders:
            doomed = (each for each in files(shard, kind) if self._must_go(project, each))
            yield from self._in_batches(project, doomed, self._remove_entry)
            yield Step()
        for _, shard in folders:  # in a row, since the first sync does most of the others' work
            with suppress(FileNotFoundError):
                sync_folder(shard)
                self._remove_if_empty(shard)
            yield Step()

    def _artifacts(self, project: Project) -> Iterator[Step]:
        """Run phase 2 of a project: remove its old artifacts."""
        kept = self.kept[project] = Remaining()
        for kind, shard in self._shards(project, referring=False):
            doomed = (
                each
                for each in files(shard, kind)
                if not self._is_kept(each, self._rule(each, refers=False), kept)
            )
            yield from self._in_batches(project, doomed, self._remove_artifact)
            self._remove_if_empty(shard)
            yield Step()

    def _shards(self, project: Project, *, referring: bool) -> list[tuple[Kind, str]]:
        """A project's folders, with their kinds, of entries if `referring`, else of artifacts."""
        return [
            (kind, shard)
            for kind in Kind
            if kind.refers is referring
            for shard in shards(self.root, project, kind)
        ]

    def _await_puts(self, project: Project) -> None:
        """Wait until all puts of entries into `project` that have begun have ended."""
        with suppress(FileNotFoundError), exclusive(project.path(self.root)):
            pass

    def _in_batches(
        self,
        project: Project,
        doomed: Iterator[StoredFile],
        remove: Callable[[Project, StoredFile], bool],
    ) -> Iterator[Step]:
        """Remove the files `doomed` in batches, each under the project's exclusive lock.

        `remove` checks each file again, since entries may have been put before the lock was taken.
        """
        while batch := list(islice(doomed, BATCH)):
            yield Step()
            removed = 0
            # FileNotFoundError: a clean has moved the project's folder away.
            with suppress(FileNotFoundError), exclusive(project.path(self.root)):
                if not 0 <= time.time_ns() - self.rule.now < WRONG_CLOCK_NS:
                    raise ClockStepped("The clock was set during the pass")
                removed = sum(remove(project, each) for each in batch)
            yield Step(removed)

    def _rule(self, file: StoredFile, *, refers: bool) -> Cutoff:
        """The rule for `file`, an entry if it `refers` to others."""
        if self.shared is None or self.last is None or self.shared.has(file, refers=refers):
            return self.rule
        return self.last

    def _must_go(self, project: Project, entry: StoredFile) -> bool:
        """Whether to evict an entry; the artifacts of one that stays get its last use at least."""
        used = last_use(entry.status)
        rule = self._rule(entry, refers=True)
        if rule.takes_all(used):
            return True
        targets = targets_in(read_unnoticed(entry.path))
        if not targets:
            return rule.takes(used, entry.id)
        is_spared = rule is not self.rule
        return not all(self._stays(project, each, entry, is_spared=is_spared) for each in targets)

    def _stays(
        self, project: Project, target: Target, entry: StoredFile, *, is_spared: bool
    ) -> bool:
        """Whether an artifact or blob outlives this pass, given that `entry` refers to it.

        If the entry is spared for not being in the bucket, what it refers to is too.
        """
        used = last_use(entry.status)
        is_there = False
        for spelling in target.ids:
            path = f"{self.root}/{Key(project, target.kind, spelling).place}"
            found = stored_file(path, spelling)
            if found is None or target.size not in (None, found.status.st_size):
                continue
            needed = used
            rule = self._rule(found, refers=False)
            if rule.takes(max(used, last_use(found.status)), spelling):
                if not is_spared or rule is not self.rule:
                    return False
                needed = self.rule.now
            is_there |= last_use(found.status) >= needed or touch_path(path, needed)
        waited = self.rule.now - entry.status.st_mtime_ns
        is_strict = self.require_artifacts or target.kind is Kind.BLOB
        if not is_there and not is_strict and 0 <= waited < ENTRY_GRACE_NS:
            self.unsettled = True
            return True
        return is_there

    def _is_kept(self, artifact: StoredFile, rule: Cutoff, kept: Remaining) -> bool:
        used = last_use(artifact.status)
        if rule.takes(used, artifact.id) and _is_ours(artifact.status):
            return False
        kept.artifacts += 1
        kept.bytes += artifact.size
        kept.oldest_use = used if kept.oldest_use is None else min(used, kept.oldest_use)
        return True

    def _remove_if_empty(self, shard: str) -> None:
        with suppress(OSError):  # usually ENOTEMPTY
            os.rmdir(shard)  # noqa: PTH106 - a Path keeps its names
            self.removed.folders += 1

    def _remove_entry(self, project: Project, entry: StoredFile) -> bool:
        now = stored_file(entry.path, entry.id)
        if now is None or not self._must_go(project, now):
            return False
        is_shared = self._rule(now, refers=True) is self.rule
        os.unlink(now.path)  # noqa: PTH108 - a Path keeps its names
        self.removed.add_entry(now, is_shared=is_shared)
        return True

    def _remove_artifact(self, project: Project, artifact: StoredFile) -> bool:
        now = stored_file(artifact.path, artifact.id)
        if now is None:
            return False
        rule = self._rule(now, refers=False)
        if self._is_kept(now, rule, self.kept[project]):
            return False
        os.unlink(now.path)  # noqa: PTH108 - a Path keeps its names
        self.removed.add_artifact(now, is_shared=rule is self.rule)
        return True


def _is_ours(status: os.stat_result) -> bool:
    """Whether this user may touch the file. Last uses of other users' files are not recorded."""
    return os.geteuid() in (0, status.st_uid)
