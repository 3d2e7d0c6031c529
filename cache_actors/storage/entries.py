"""Entries and actions on disk: none is stored whose artifacts or blobs are missing.

An entry whose artifact is missing breaks the build that retrieves it, and so does an action whose
blob is. So the writer checks and touches what they refer to while the project's lock keeps eviction
out. Eviction's side of the protocol is in `eviction/sweep.py`. Operators may have entries stored
without their artifacts (`KV_REQUIRE_ARTIFACTS`), but never actions without their blobs.
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
from .layout import Key
from .project_lock import shared
from .references import Target, artifact_target, blob_target, targets_in

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .files.store import FileStore
    from .layout import Project


class MissingArtifact(Exception):
    """An entry or action was refused, since an artifact or blob of it does not exist."""

    def __init__(self, artifact_id: str) -> None:
        super().__init__(f"Artifact {artifact_id} does not exist")
        self.artifact_id = artifact_id


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
            outcomes = [locked[write.key.project] or self._look(write, seen) for write in batch]
            allowed = [
                Replacement(write.key.path(self._store.root), write.body)
                for write, outcome in zip(batch, outcomes, strict=True)
                if not isinstance(outcome, Exception)
            ]
            replaced = iter(self._store.replace(allowed))
            return [
                outcome if isinstance(outcome, Exception) else next(replaced) or outcome
                for outcome in outcomes
            ]

    def _lock(self, project: Project, locks: ExitStack) -> OSError | None:
        """Keep eviction out of `project` until `locks` is closed."""

        def lock(entries: Path) -> None:
            locks.enter_context(shared(entries.parent))

        try:
            self._store.with_folder(project.path(self._store.root) / Kind.KEYVALUE.folder, lock)
        except OSError as error:
            return error
        return None

    def _look(
        self, write: EntryWrite, seen: dict[tuple[Project, Target], bool | OSError]
    ) -> str | MissingArtifact | OSError | None:
        """Touch what an entry refers to; return an error or the name of what is missing, if any.

        `seen` has what this batch has touched under the lock: once is enough.
        """
        project = write.key.project
        missing = []
        for target in write.targets():
            key = project, target
            if key not in seen:
                seen[key] = attempt(partial(target_is_there, self._store, project), target)
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
    """Touch the first `most` blobs of an action, and return whether all of these exist.

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
    return all(target_is_there(store, project, blob_target(each)) for each in some)


def target_is_there(store: FileStore, project: Project, target: Target) -> bool:
    """Touch what a file refers to, in each spelling, and return whether it exists in one.

    A client may ask for either spelling, and eviction judges each by its own last use.

    Raises:
        OSError: the disk failed.
    """
    now = time.time_ns()
    is_there = False
    for each in target.ids:
        place = Key(project, target.kind, each).place
        is_there |= store.touch(f"{store.root}/{place}", now, target.size)
    return is_there
