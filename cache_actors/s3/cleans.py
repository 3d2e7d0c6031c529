"""Cleans of projects, on all nodes: what was stored before one is gone, for everybody.

    <prefix>/1/.cleans/<account>/<project>/<time>

A clean puts a *marker* with the time by the cleaning node's clock, in nanoseconds since the epoch.
Every node lists the markers every few seconds. From then on it finds nothing in the bucket that was
put, or stored on any node, before the latest of a project's markers, and cleans its own disk. So
what another node sends late does not come back. The rule that expires objects by their age removes
a marker after all that it hides.

Clocks of nodes and bucket should agree within seconds: a clean may take away, or leave, what was
stored within their difference.
"""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cache_actors.kinds import Kind
from cache_actors.storage.layout import project_at

from .names import key_of, top

if TYPE_CHECKING:
    from cache_actors.storage.layout import Project

    from .bucket import Bucket, Listed

WRONG_CLOCK_SECONDS = 300.0
"""Seconds by which a marker's time may be later than the bucket's clock; what exceeds them comes
from a wrong clock, and does not count."""

_TIME = re.compile("[0-9]{1,19}")


@dataclass(frozen=True, slots=True)
class Cut:
    """A clean of a project: what is as old is gone.

    Attributes:
        stored: time by the clocks of nodes, in nanoseconds since the epoch.
        put: time by the clock of the bucket, in seconds since the epoch.
    """

    stored: int = 0
    put: float = 0.0

    def takes(self, stored: int, put: float) -> bool:
        """Whether what was stored on a node and put into the bucket at these times is gone.

        Buckets count whole seconds, so that of the second of the clean only nodes' clocks tell.
        """
        return stored <= self.stored or put < self.put


class Cleans:
    """The cleans of all projects that `bucket` knows of; safe to use from threads."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._folder = f"{top(bucket.config.prefix)}/.cleans"
        self._lock = threading.Lock()
        self._cuts: dict[Project, Cut] = {}

    def cut(self, project: Project) -> Cut:
        """The latest clean of `project`; that of a project that was never cleaned takes nothing."""
        return self._cuts.get(project, Cut())

    def refresh(self) -> dict[Project, Cut]:
        """Look for markers, and return the projects with one that was not known.

        Raises:
            BucketError: they could not be listed.
        """
        latest: dict[Project, Cut] = {}
        for marker in self._bucket.list(self._folder):
            if (found := self._read(marker)) is not None:
                project, cut = found
                if cut.stored > latest.get(project, Cut()).stored:
                    latest[project] = cut
        with self._lock:
            new = {
                project: cut
                for project, cut in latest.items()
                if cut.stored > self.cut(project).stored
            }
            self._cuts |= new
        return new

    def _read(self, marker: Listed) -> tuple[Project, Cut] | None:
        """The project and the clean that `marker` stands for; None if it is no marker."""
        *parts, at = marker.name.removeprefix(f"{self._folder}/").split("/")
        project = project_at(tuple(parts))
        if project is None or _TIME.fullmatch(at) is None:
            return None
        put = marker.last_modified
        latest = int((put + WRONG_CLOCK_SECONDS) * 1e9)
        return project, Cut(max(int(put * 1e9), min(int(at), latest)), put)

    def clean(self, project: Project) -> None:
        """Put a marker for a clean of `project` now.

        Raises:
            BucketError: nobody else may hear of the clean.
        """
        self._bucket.put(f"{self._folder}/{project}/{time.time_ns()}", b"clean", {})
        self.refresh()

    def remove(self, project: Project) -> None:
        """Delete the objects of `project` that its latest clean has taken, entries first.

        Raises:
            BucketError: some may be left, which nobody finds any more.
        """
        cut, prefix = self.cut(project), self._bucket.config.prefix
        for kind in sorted(Kind, key=lambda kind: not kind.refers):
            for found in self._bucket.list(f"{top(prefix)}/{project}/{kind.folder}"):
                if found.last_modified < cut.put and key_of(prefix, found.name) is not None:
                    self._bucket.delete(found.name)
