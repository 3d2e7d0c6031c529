"""A scan of the storage: the usage of each project, and the ages of files."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cache_actors.kinds import Kind
from cache_actors.storage.files.last_use import last_use
from cache_actors.storage.walk import FolderLost, files, projects, shards

from .cutoff import Histogram

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cache_actors.storage.layout import Project

    from .shared import SharedFiles


@dataclass(slots=True)
class ProjectUsage:
    """The usage of a project; all bytes are bytes on disk.

    Attributes:
        artifacts, artifact_bytes: files of all kinds but entries.
        entries, entry_bytes: files of kinds that refer to others (`Kind.refers`).
        oldest_use, latest_use: first and last of the artifacts' last uses, in nanoseconds since the
            epoch; None without artifacts.
    """

    artifacts: int = 0
    artifact_bytes: int = 0
    entries: int = 0
    entry_bytes: int = 0
    oldest_use: int | None = None
    latest_use: int | None = None

    @property
    def bytes(self) -> int:
        """Bytes on disk of artifacts and entries together."""
        return self.artifact_bytes + self.entry_bytes

    def add(self, kind: Kind, size: int, used: int) -> None:
        """Count a file of `size` bytes on disk, last used at `used`."""
        if not kind.refers:
            self.artifacts += 1
            self.artifact_bytes += size
            self.oldest_use = used if self.oldest_use is None else min(used, self.oldest_use)
            self.latest_use = max(used, self.latest_use or used)
        else:
            self.entries += 1
            self.entry_bytes += size


@dataclass(slots=True)
class Scan:
    """A scan of all stored files.

    Attributes:
        now: time of the scan, in nanoseconds since the epoch.
        usage: usage of each project.
        shared: what is in the bucket as well; None without one, and then all files count as such.
        histogram: ages of the files and folders that may be evicted.
        unshared: ages of those that may be evicted only if all others are not enough.
        folders: number of folders to scan.
        folders_done: number of scanned folders.
        empty_folders: number of empty folders that may be removed.
        complete: whether the scan has reached its end.
    """

    now: int
    shared: SharedFiles | None = None
    usage: dict[Project, ProjectUsage] = field(default_factory=dict)
    histogram: Histogram = field(init=False)
    unshared: Histogram = field(init=False)
    folders: int = 0
    folders_done: int = 0
    empty_folders: int = 0
    complete: bool = False

    def __post_init__(self) -> None:
        self.histogram = Histogram(self.now)
        self.unshared = Histogram(self.now)

    @property
    def bytes(self) -> int:
        """Bytes on disk of all stored files."""
        return sum(held.bytes for held in self.usage.values())

    def run(self, root: Path, wanted: Project | None = None) -> Iterator[None]:
        """Scan all projects, but let only `wanted` be evicted if it is given; yield per folder.

        Raises:
            OSError: the disk failed, or a folder belongs to somebody else.
        """
        todo = []
        for project in projects(root):
            for kind in Kind:
                with suppress(FolderLost):
                    todo += [(project, kind, shard) for shard in shards(root, project, kind)]
        self.folders = len(todo)
        for project, kind, shard in todo:
            held = self.usage.setdefault(project, ProjectUsage())
            may_go = wanted in (None, project)
            latest: int | None = None
            with suppress(FolderLost):
                for file in files(shard, kind):
                    used = last_use(file.status)
                    held.add(kind, file.size, used)
                    latest = used if latest is None else max(used, latest)
                    if may_go and self.shared and not self.shared.has(file, refers=kind.refers):
                        self.unshared.add(used, file.size)
                    elif may_go:
                        self.histogram.add(used, file.size)
                if may_go and latest is not None:  # the folder is removed after its last file
                    self.histogram.add(latest, 0)
                elif may_go:
                    self.empty_folders += 1
            self.folders_done += 1
            yield
        self.complete = True
