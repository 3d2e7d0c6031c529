"""Pushes: a stored file is put into the bucket, and marked; an entry after its artifacts.

The bucket never holds an entry of which an artifact is not there as well, and younger than
`REFRESH_SECONDS`. So whoever finds an entry in the bucket has time to find its artifacts, before a
rule removes them that counts days. A mark is set on the open file whose bytes were sent, never on
another one that has taken its name.

What a clean takes is not put any more once this node knows of the clean. Files that were put within
a minute of it are put again later: a node that did not know may have put an older version since.

An entry may be replaced while it is sent, by any process. The bucket may then have got the older
version last; so an entry is put until the version that was sent is the one on the disk. One that is
put again, or late, may be older than that of another node, and is left out then, until that has
not been put again for `REFRESH_SECONDS`. The mark has the time of what is in the bucket.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING, Any

from cache_actors.storage.integrity.checksum import (
    Mark,
    StoredChecksum,
    has_checksums,
    read_checksum,
    write_checksum,
)
from cache_actors.storage.integrity.quarantine import DAMAGE, Quarantine
from cache_actors.storage.integrity.validation import Fault, ValidFiles, fault_of, open_or_fault
from cache_actors.storage.known_cleans import KnownClean, known_clean
from cache_actors.storage.layout import Key
from cache_actors.storage.references import targets_in

from .bucket import SMALL_BYTES
from .errors import Misconfigured
from .names import SHA256, STORED, Unusable, description, object_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .installation import ClaimedBucket

REFRESH_SECONDS = 7 * 86_400
"""Age in seconds of a mark from which its file is put again before an entry that refers to it, and
if it is still in use."""

NEW_SECONDS = 3600.0
"""Age in seconds up to which an entry that was never put counts as the newest of all nodes."""

WRONG_CLOCK_SECONDS = 86_400
"""Seconds into the future beyond which a mark's time comes from a wrong clock, and counts as none.
"""

_READ_BYTES = 1 << 20


class Pushed(Enum):
    """What became of a push."""

    DONE = "the file is in the bucket, and marked"
    GONE = "there is no file, or a broken one, in quarantine now, or one that a clean takes"
    FOREIGN = "the file belongs to another user, and cannot be marked"
    INCOMPLETE = "an artifact that the entry refers to is not here"


def is_fresh(record: StoredChecksum | None, target: int, oldest: float) -> bool:
    """Whether `record` says that its file was put to `target` at `oldest` or later.

    Both times are in seconds since the epoch.
    """
    mark = record.mark if record else None
    if mark is None or mark.target != target:
        return False
    return oldest <= mark.put <= time.time() + WRONG_CLOCK_SECONDS


class Pusher:
    """Pushes files of the storage folder `root` into `bucket`; safe to use from threads.

    Raises:
        Misconfigured: files in `root` cannot be marked.
        OSError: the disk failed.
    """

    def __init__(self, root: Path, bucket: ClaimedBucket) -> None:
        if not has_checksums(root):
            raise Misconfigured("the storage has no extended attributes; use ext4, xfs or btrfs")
        self._root = root
        self._bucket = bucket
        self._target = bucket.config.target
        self._valid = ValidFiles(Quarantine(root))
        self._changed = threading.Condition()
        self._busy: set[Key] = set()

    def push(self, key: Key, oldest: float | None = None) -> Pushed:
        """Put the file of `key` into the bucket, unless its mark is from `oldest` or later.

        Args:
            key: which file.
            oldest: time in seconds since the epoch; by default `REFRESH_SECONDS` ago.

        Raises:
            BucketError: the bucket did not take it, or an artifact of it.
            OSError: the disk failed.
        """
        if oldest is None:
            oldest = time.time() - REFRESH_SECONDS
        with self._alone(key):
            pushed = self._push_version(key, oldest)
            while pushed is None:  # another version, which may be marked: but which was put last?
                pushed = self._push_version(key, oldest, whatever_its_mark=True)
            return pushed

    @contextmanager
    def _alone(self, key: Key) -> Iterator[None]:
        """Keep other threads from pushing the same key; the second finds the mark of the first."""
        with self._changed:
            while key in self._busy:
                self._changed.wait()
            self._busy.add(key)
        try:
            yield
        finally:
            with self._changed:
                self._busy.discard(key)
                self._changed.notify_all()

    def _push_version(
        self, key: Key, oldest: float, *, whatever_its_mark: bool = False
    ) -> Pushed | None:
        """Push the file that has the name of `key` now; None if another has that name by the end.

        Raises:
            As `push`.
        """
        path = key.path(self._root)
        clean = known_clean(self._root, key.project)  # before: an open file may be gone by now
        try:
            fd = open_or_fault(path, os.O_NOATIME)
        except PermissionError as error:
            if error.errno != errno.EPERM:
                raise
            return Pushed.FOREIGN
        if fd is None:
            return Pushed.GONE
        if isinstance(fd, Fault):
            self._valid.quarantine(path)
            return Pushed.GONE
        try:
            since = max(oldest, clean.marked_since())
            if not whatever_its_mark and is_fresh(read_checksum(fd), self._target, since):
                return Pushed.DONE
            return self._push_open(key, path, fd, oldest, clean)
        except OSError as error:
            if error.errno not in DAMAGE:
                raise
            self._valid.quarantine(path, os.fstat(fd).st_ino)
            return Pushed.GONE
        finally:
            os.close(fd)

    def _push_open(
        self, key: Key, path: Path, fd: int, oldest: float, clean: KnownClean
    ) -> Pushed | None:
        status = os.fstat(fd)
        if status.st_mtime_ns <= clean.going:
            return Pushed.GONE
        record = read_checksum(fd)
        data = None if fault_of(status, record) else _content(fd, status.st_size, record)
        if data is None:
            self._valid.quarantine(path, status.st_ino)
            return Pushed.GONE
        record, buffer = data
        if key.kind.refers and not self._push_artifacts(key, bytes(buffer), oldest):
            return Pushed.INCOMPLETE
        begun = int(time.time())
        name = object_name(self._bucket.config.prefix, key)
        # A file that is left, though the clean was followed, came later, by a wrong clock.
        stored = max(status.st_mtime_ns, clean.time + 1)
        is_new = record.mark is None and begun - stored / 1e9 < NEW_SECONDS
        newer = None if is_new or not key.kind.refers else self._newer(name, stored)
        if newer is None:
            self._bucket.put(name, buffer, {SHA256: record.digest.hex(), STORED: str(stored)})
        put = begun if newer is None else newer
        with suppress(PermissionError):  # it is pushed again by the next walk
            write_checksum(fd, replace(record, mark=Mark(put, self._target)))
        return Pushed.DONE if not key.kind.refers or _is_still(path, status) else None

    def _newer(self, name: str, stored: int) -> int | None:
        """When the version of an entry that the bucket has was put, in seconds since the epoch.

        None if it was not stored later than `stored`, on another node, if nobody puts it again, or
        if no node can use it.
        """
        found = self._bucket.get(name)
        if found is None or found.last_modified < time.time() - REFRESH_SECONDS:
            return None
        try:
            described = description(found.metadata, found.last_modified)
        except Unusable:
            return None
        return int(described.put) if described.stored > stored else None

    def _push_artifacts(self, entry: Key, body: bytes, oldest: float) -> bool:
        """Push the artifacts that an entry refers to, and return whether they are in the bucket.

        Those that are marked recently enough are left alone. One that is here under both spellings
        is pushed under both, since a client may ask for either.
        """
        for target in targets_in(body):
            pushed = [
                self.push(Key(entry.project, target.kind, each), oldest) for each in target.ids
            ]
            if Pushed.DONE not in pushed or not set(pushed) <= {Pushed.DONE, Pushed.GONE}:
                return False
        return True


def _content(
    fd: int, size: int, record: StoredChecksum | None
) -> tuple[StoredChecksum, Any] | None:
    """The bytes of the open file `fd`, with their record; None if they are not the recorded ones.

    Many bytes are mapped rather than read, so that they take none of the process's own memory.

    Raises:
        OSError: the disk failed.
    """
    digest, at, kept = hashlib.sha256(), 0, []
    while at < size and (piece := os.pread(fd, min(_READ_BYTES, size - at), at)):
        digest.update(piece)
        at += len(piece)
        if size <= SMALL_BYTES:
            kept.append(piece)
    found = digest.digest()
    if at != size or (record is not None and record.digest != found):
        return None
    data = b"".join(kept) if kept else mmap.mmap(fd, size, access=mmap.ACCESS_READ)
    return record or StoredChecksum(found, size), data


def _is_still(path: Path, status: os.stat_result) -> bool:
    """Whether the file with `status` still has the name `path`, or no file has."""
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    return found.st_ino == status.st_ino and found.st_dev == status.st_dev
