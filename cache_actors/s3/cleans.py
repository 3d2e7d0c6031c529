"""Cleans of projects, on all nodes: what was stored before one is gone, for everybody.

    <prefix>/1/.cleans/<account>/<project>/<time>

A clean puts a *marker* with the time by the cleaning node's clock, in nanoseconds since the epoch.
Every node lists the markers every few seconds, and notes on its disk what it finds there
(`storage/known_cleans.py`). From then on it takes nothing from the bucket that was stored, on any
node, at the time of a project's latest clean or earlier, and puts nothing there; and it removes
from its disk what is as old (`storage/follow_clean.py`). So what another node sends late does not
come back. Nothing is deleted by its name, which may hold something newer by then: what a clean has
taken stays in the bucket, out of sight, until the rule removes it that counts days.

A clean that a node knows of and the bucket does not is put there. So one that was asked for while
the bucket was down is told later, and no marker is removed by age before what it hides.

Clocks of nodes should agree within seconds: a clean may take, or leave, what was stored within
their difference. If the bucket's clock is minutes behind, the marker is put again until that clock
bears its time out, and other nodes follow the rest of the clean then.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cache_actors.storage.known_cleans import known_cleans, note_clean
from cache_actors.storage.layout import SHARE, project_at

from .names import believed, top

if TYPE_CHECKING:
    from pathlib import Path

    from cache_actors.storage.layout import Project

    from .installation import ClaimedBucket

MAX_SKEW_NS = 900 * 1_000_000_000
"""Difference of clocks, in nanoseconds, up to which a marker is put again; with more, S3 takes no
request at all."""

_TIME = re.compile("[0-9]{1,19}")


@dataclass(frozen=True, slots=True)
class _Marked:
    """The markers of a project: the latest time that counts, and the times in their names."""

    when: int = 0
    named: frozenset[int] = frozenset()

    def tells(self, when: int) -> bool:
        """Whether all nodes know by these of a clean at `when`, or cannot be told."""
        return when <= self.when or (when in self.named and when > self.when + MAX_SKEW_NS)


def exchange_cleans(bucket: ClaimedBucket, root: Path, *, durable: bool = True) -> None:
    """Note the cleans that the bucket knows of, and tell it of those that only this node knows.

    Args:
        bucket: the bucket.
        root: the storage folder.
        durable: whether notes have to survive a power cut once this returns.

    Raises:
        BucketError: nobody knows what the bucket knows, or others may not hear of a clean.
        OSError: the disk failed.
    """
    marked = _markers(bucket)
    for project, found in marked.items():
        note_clean(root, project, found.when, durable=durable)
    for project, clean in known_cleans(root).items():
        if not marked.get(project, _Marked()).tells(clean.time):
            put_marker(bucket, project, clean.time)


def exchange_cleans_in_turn(
    bucket: ClaimedBucket, root: Path, seconds: float, *, durable: bool = True
) -> None:
    """Exchange cleans as above, unless a process of this node has within so many `seconds`.

    A list costs as much as a put, and what one process notes all of the node know. When one has
    done so for the last time is the modification time of an empty file.

    Raises:
        As `exchange_cleans`.
    """
    began = time.time()
    note = root / SHARE / f"cleans-{bucket.config.target}"
    with suppress(OSError):
        if 0 <= began - note.stat().st_mtime < seconds:
            return
    exchange_cleans(bucket, root, durable=durable)
    with suppress(OSError):  # each process looks for itself then
        note.touch(mode=0o640)
        os.utime(note, (began, began))


def put_marker(bucket: ClaimedBucket, project: Project, when: int) -> None:
    """Tell all nodes that `project` was cleaned at `when`, in nanoseconds since the epoch.

    Raises:
        BucketError: they may not hear of it.
    """
    bucket.put(f"{_folder(bucket)}/{project}/{when}", b"clean", {})


def _folder(bucket: ClaimedBucket) -> str:
    return f"{top(bucket.config.prefix)}/.cleans"


def _markers(bucket: ClaimedBucket) -> dict[Project, _Marked]:
    """The latest markers of all projects that have one; other objects there are left alone.

    Raises:
        BucketError: they could not be listed.
    """
    latest: dict[Project, _Marked] = {}
    for each in bucket.list(_folder(bucket)):
        *parts, at = each.name.removeprefix(f"{_folder(bucket)}/").split("/")
        project = project_at(tuple(parts))
        if project is not None and _TIME.fullmatch(at):
            named, before = int(at), latest.get(project, _Marked())
            when = max(believed(named, each.last_modified), before.when)
            latest[project] = _Marked(when, before.named | {named})
    return latest
