"""A survey: who has stored how much, and when it was used last."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cache_actors.kinds import Kind

from .cutoff import Histogram
from .last_use import last_use
from .walk import FolderLost, files, projects, shards

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .layout import Project


@dataclass(slots=True)
class Holdings:
    """What one project has stored; bytes are those on the disk.

    Attributes:
        artifacts: files of all kinds but those that refer to others, which are `entries`.
        oldest_use, latest_use: of its artifacts, in nanoseconds since the epoch; None if it has
            none.
    """

    artifacts: int = 0
    artifact_bytes: int = 0
    entries: int = 0
    entry_bytes: int = 0
    oldest_use: int | None = None
    latest_use: int | None = None

    @property
    def bytes(self) -> int:
        """All its bytes."""
        return self.artifact_bytes + self.entry_bytes

    def add(self, kind: Kind, size: int, used: int) -> None:
        """Count one file."""
        if not kind.refers:
            self.artifacts += 1
            self.artifact_bytes += size
            self.oldest_use = used if self.oldest_use is None else min(used, self.oldest_use)
            self.latest_use = max(used, self.latest_use or used)
        else:
            self.entries += 1
            self.entry_bytes += size


@dataclass(slots=True)
class Survey:
    """What a look at everything has seen so far, at the time `now` (nanoseconds since the epoch).

    Attributes:
        holdings: by project.
        histogram: of what may be evicted, by last use.
        folders: how many there are to look at, and `folders_done` of them have been.
        empty_folders: how many of those, of what may be evicted, hold no file.
        complete: whether it has come to its end.
    """

    now: int
    holdings: dict[Project, Holdings] = field(default_factory=dict)
    histogram: Histogram = field(init=False)
    folders: int = 0
    folders_done: int = 0
    empty_folders: int = 0
    complete: bool = False

    def __post_init__(self) -> None:
        self.histogram = Histogram(self.now)

    @property
    def bytes(self) -> int:
        """All that is stored, in bytes on the disk."""
        return sum(holdings.bytes for holdings in self.holdings.values())

    def run(self, root: Path, wanted: Project | None = None) -> Iterator[None]:
        """Look at everything; only what is of the project `wanted`, or all, is in the histogram.

        Yields after each folder.

        Raises:
            OSError: the disk failed.
        """
        todo = []
        for project in projects(root):
            for kind in Kind:
                with suppress(FolderLost):
                    todo += [(project, kind, shard) for shard in shards(root, project, kind)]
        self.folders = len(todo)
        for project, kind, shard in todo:
            holdings = self.holdings.setdefault(project, Holdings())
            may_go = wanted in (None, project)
            latest: int | None = None
            with suppress(FolderLost):
                for file in files(shard, kind):
                    used = last_use(file.status)
                    holdings.add(kind, file.size, used)
                    latest = used if latest is None else max(used, latest)
                    if may_go:
                        self.histogram.add(used, file.size)
                if may_go and latest is not None:  # the folder goes with the last file in it
                    self.histogram.add(latest, 0)
                elif may_go:
                    self.empty_folders += 1
            self.folders_done += 1
            yield
        self.complete = True
