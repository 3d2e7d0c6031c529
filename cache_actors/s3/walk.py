"""The walk that finds what is not in the bucket, or has not been put there for long.

The disk is the queue: whatever was announced, forgotten, or left by a crash, is found by its mark,
or by the lack of one.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cache_actors.kinds import Kind
from cache_actors.storage.files.last_use import last_use
from cache_actors.storage.integrity.checksum import read_checksum
from cache_actors.storage.integrity.quarantine import DAMAGE, chown_like
from cache_actors.storage.known_cleans import known_clean
from cache_actors.storage.layout import SHARE, Key
from cache_actors.storage.locks import FolderLock
from cache_actors.storage.walk import FolderLost, files, projects, shards

from .push import REFRESH_SECONDS, is_fresh

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SECOND = 1_000_000_000


class WalkRunning(Exception):
    """Another process walks through the same storage."""


@dataclass(frozen=True, slots=True)
class Unshared:
    """A file to be put into the bucket: its key, and its size in bytes on disk."""

    key: Key
    size: int


def walk_lock(root: Path) -> FolderLock:
    """The lock that only one walk of the storage folder `root` at a time holds.

    Raises:
        WalkRunning: another walk holds the lock.
        OSError: the folder cannot be made or locked.
    """
    folder = root / SHARE
    with suppress(FileExistsError):
        folder.mkdir(mode=0o750)
        chown_like(folder, root)
    try:
        return FolderLock(folder)
    except BlockingIOError:
        raise WalkRunning("Another process sends what is stored to the bucket") from None


def unshared(
    root: Path, target: int, *, entries: bool, again_before: float = 0.0
) -> Iterator[list[Unshared]]:
    """The files below `root` that have to be put to `target`: a list for each folder.

    Those are the files without a mark for it, those that were put longer ago than `REFRESH_SECONDS`
    and used since, and those put before `again_before` (seconds since the epoch), or about the time
    of a clean (`KnownClean.marked_since`). In each project, artifacts come before entries.

    Raises:
        OSError: the disk failed, or a folder belongs to somebody else.
    """
    old = time.time() - REFRESH_SECONDS
    for project in projects(root):
        since = max(again_before, known_clean(root, project).marked_since())
        for kind in sorted(Kind, key=lambda kind: kind.refers):
            if kind.refers and not entries:
                continue
            with suppress(FolderLost):
                for shard in shards(root, project, kind):
                    with suppress(FolderLost):
                        yield [
                            Unshared(Key(project, kind, file.id), file.size)
                            for file in files(shard, kind)
                            if _is_due(file.path, file.status, target, old, since)
                        ]


def _is_due(path: str, status: os.stat_result, target: int, old: float, since: float) -> bool:
    """Whether a file has to be put: see `unshared`. Files of other users cannot be marked."""
    if os.geteuid() not in (0, status.st_uid):
        return False
    try:
        record = read_checksum(path)
    except OSError as error:
        if error.errno not in DAMAGE:
            raise
        return True  # the push puts it into quarantine
    if not is_fresh(record, target, since):
        return True
    put = record.mark.put if record and record.mark else 0
    return put < old and last_use(status) > put * _SECOND
