"""Entries and actions on disk: none is stored whose artifacts or blobs are missing.

An entry whose artifact is missing breaks the build that retrieves it, and so does an action whose
blob is. So the writer checks and touches what they refer to while the project's lock keeps eviction
out. Eviction's side of the protocol is in `eviction/sweep.py`. Operators may have entries stored
without their artifacts (`KV_REQUIRE_ARTIFACTS`), but never actions without their blobs.

Cleans of other nodes are looked for under the same lock (`known_cleans.py`). What one is about to
take counts as missing, and what comes from the bucket is not stored if one has taken it.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from cache_actors.kinds import Kind

from .actions import blobs_in
from .files.commit import attempt
from .files.store import Replacement
from .known_cleans import KnownClean, known_clean
from .layout import Key
from .project_lock import shared
from .references import Target, artifact_target, blob_target, targets_in

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .files.store import FileStore, Publication, Published
    from .layout import Project


class MissingArtifact(Exception):
    """An entry or action was refused, since an artifact or blob of it does not exist."""

    def __init__(self, artifact_id: str) -> None:
        super().__init__(f"Artifact {artifact_id} does not exist")
        self.artifact_id = artifact_id


class TakenByClean(Exception):
    """A file that comes from the bucket was not stored, since a clean has taken it."""


@dataclass(frozen=True, slots=True)
class EntryWrite:
    """An entry or action to store.

    Attributes:
        key: its key.
        body: the content of its file.
        artifacts: the ids of the CAS artifacts that an entry refers to; an action lists its blobs.
    """

    key: Key
    body: bytes
    artifacts: frozenset[str] = frozenset()

    def targets(self) -> frozenset[Target]:
        """What it refers to."""
        if self.key.kind is Kind.ACTION:
            return targets_in(self.body)
        return frozenset(map(artifact_target, self.artifacts))


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file from the bucket, to be stored if there is none of its key.

    Attributes:
        key: its key.
        publication: the file, which is ready.
        stored: when it was first stored on any node, in nanoseconds since the epoch.
        targets: what it refers to.
    """

    key: Key
    publication: Publication
    stored: int
    targets: frozenset[Target] = frozenset()


class EntryWriter:
    """A writer of entries into `store`.

    Args:
        store: the file store.
        require_artifacts: whether an entry is refused if one of its CAS artifacts is missing.
    """

    def __init__(self, store: FileStore, *, require_artifacts: bool) -> None:
        self._store = store
        self._require_artifacts = require_artifacts

    def put(self, batch: Sequence[EntryWrite]) -> list[str | MissingArtifact | OSError | None]:
        """Store the entries in `batch`; of several with the same key, the last one wins.

        Returns one outcome for each entry: the error that kept it from being stored, the id of a
        missing artifact if it was stored without that, or None.
        """
        with ExitStack() as locks:
            locked = {
                project: self._lock(project, locks)
                for project in sorted({write.key.project for write in batch}, key=str)
            }
            seen: dict[tuple[Project, Target], bool | OSError] = {}
            outcomes = [self._look(write, locked[write.key.project], seen) for write in batch]
            allowed = [
                Replacement(f"{self._store.root}/{write.key.place}", write.body)
                for write, outcome in zip(batch, outcomes, strict=True)
                if not isinstance(outcome, Exception)
            ]
            replaced = iter(self._store.replace(allowed))
            return [
                outcome if isinstance(outcome, Exception) else next(replaced) or outcome
                for outcome in outcomes
            ]

    def add(
        self, batch: Sequence[NewFile]
    ) -> list[Published | MissingArtifact | TakenByClean | OSError]:
        """Store those files in `batch` whose keys have none; what they refer to has to be here.

        Returns one outcome for each file: how it was stored, or what kept it from that.
        """
        with ExitStack() as locks:
            locked = {
                project: self._lock(project, locks)
                for project in sorted({file.key.project for file in batch}, key=str)
            }
            outcomes = [self._refusal(file, locked[file.key.project]) for file in batch]
            allowed = [
                file.publication
                for file, outcome in zip(batch, outcomes, strict=True)
                if outcome is None
            ]
            published = iter(self._store.publish(allowed) if allowed else [])
            return [outcome or next(published) for outcome in outcomes]

    def _refusal(
        self, file: NewFile, clean: KnownClean | OSError
    ) -> OSError | MissingArtifact | TakenByClean | None:
        """Touch what a file refers to, and return what keeps it from being stored, if anything."""
        if isinstance(clean, OSError):
            return clean
        if clean.takes(file.stored):
            return TakenByClean()
        there = partial(target_is_there, self._store, file.key.project, going=clean.going)
        for target in file.targets:
            found = attempt(there, target)
            if isinstance(found, OSError):
                return found
            if not found:
                return MissingArtifact(target.name)
        return None

    def _lock(self, project: Project, locks: ExitStack) -> KnownClean | OSError:
        """Keep eviction and cleans out of `project` until `locks` is closed.

        Returns its latest clean, or what went wrong.
        """

        def lock(entries: Path) -> None:
            locks.enter_context(shared(entries.parent))

        try:
            self._store.with_folder(project.path(self._store.root) / Kind.KEYVALUE.folder, lock)
            return known_clean(self._store.root, project)
        except OSError as error:
            return error

    def _look(
        self,
        write: EntryWrite,
        clean: KnownClean | OSError,
        seen: dict[tuple[Project, Target], bool | OSError],
    ) -> str | MissingArtifact | OSError | None:
        """Touch what an entry refers to; return an error or the name of what is missing, if any.

        `seen` has what this batch has touched under the lock: once is enough.
        """
        if isinstance(clean, OSError):
            return clean
        project = write.key.project
        there = partial(target_is_there, self._store, project, going=clean.going)
        missing = []
        for target in write.targets():
            key = project, target
            if key not in seen:
                seen[key] = attempt(there, target)
            is_there = seen[key]
            if isinstance(is_there, OSError):
                return is_there
            if not is_there:
                missing.append(target.name)
        if missing and needs_its_targets(write.key.kind, require_artifacts=self._require_artifacts):
            return MissingArtifact(min(missing))
        return min(missing, default=None)


def needs_its_targets(kind: Kind, *, require_artifacts: bool) -> bool:
    """Whether a file of `kind` may not be there without what it refers to."""
    return require_artifacts or kind is Kind.ACTION


def has_blobs(store: FileStore, project: Project, action: bytes, most: int) -> bool:
    """Touch the first `most` blobs of an action, and return whether all of these exist, to stay.

    Args:
        store: the file store.
        project: the action's project.
        action: the content of its file.
        most: how many to look for.

    Raises:
        OSError: the disk failed.
    """
    try:
        some = list(islice(blobs_in(action), most))
    except ValueError:
        return False
    going = known_clean(store.root, project).going
    return all(target_is_there(store, project, blob_target(each), going) for each in some)


def target_is_there(store: FileStore, project: Project, target: Target, going: int = 0) -> bool:
    """Touch what a file refers to, in each spelling, and return whether it exists in one.

    A client may ask for either spelling, and eviction judges each by its own last use. What was
    stored at `going` (nanoseconds since the epoch) or earlier does not count.

    Raises:
        OSError: the disk failed.
    """
    now = time.time_ns()
    is_there = False
    for each in target.ids:
        place = Key(project, target.kind, each).place
        is_there |= store.touch(f"{store.root}/{place}", now, target.size, going)
    return is_there
