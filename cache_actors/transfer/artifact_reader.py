"""Reads of artifacts, without an actor: once published, an artifact never changes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cache_actors.kinds import Kind
from cache_actors.storage.actions import EMPTY_BLOB
from cache_actors.storage.entries import target_is_there
from cache_actors.storage.errors import StorageError, storage_error
from cache_actors.storage.known_cleans import known_clean
from cache_actors.storage.layout import Key
from cache_actors.storage.references import blob_target

from .disk_threads import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    import trio

    from cache_actors.storage.actions import BlobReference
    from cache_actors.storage.files.open_file import OpenFile
    from cache_actors.storage.files.store import FileStore
    from cache_actors.storage.layout import Project

FOUND_AT_ONCE = 256
"""Largest number of blobs that one call of a thread looks for."""

READ_BYTES = 1 << 20
"""Largest number of bytes that one call of a thread reads."""


class Artifact:
    """An artifact that is open for reading, and has to be closed after use."""

    def __init__(self, file: OpenFile, threads: trio.CapacityLimiter) -> None:
        self._file = file
        self._threads = threads

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self._file.size

    @property
    def mtime(self) -> int:
        """Modification time, in whole seconds since the epoch."""
        return self._file.mtime

    @property
    def digest(self) -> bytes | None:
        """SHA-256; None if none is recorded."""
        return self._file.digest

    async def read(self, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """Yield the bytes from `start` up to, but not including, `end`.

        Raises:
            StorageError: the disk failed, or the file is shorter than it was. If its bytes are
                lost, the file has been moved to quarantine, and the next read is a miss.
        """
        while start < end:
            wanted = min(READ_BYTES, end - start)
            piece = await in_thread(self._file.read, start, wanted, threads=self._threads)
            start += len(piece)
            yield piece

    def close(self) -> None:
        """Close the artifact; further calls do nothing."""
        self._file.close()


class ArtifactReader:
    """Opens artifacts, in at most as many threads at once as `threads` allows."""

    def __init__(self, store: FileStore, threads: trio.CapacityLimiter) -> None:
        self._store = store
        self._threads = threads

    async def find(self, key: Key) -> bool:
        """Whether the artifact `key` exists and is not broken; if so, that is a use (a touch).

        Raises:
            StorageError: the disk failed.
        """
        path = key.path(self._store.root)
        return await in_thread(self._store.touch, path, time.time_ns(), threads=self._threads)

    async def missing(
        self, project: Project, blobs: Sequence[BlobReference], *, to_stay: bool = True
    ) -> list[int]:
        """The places in `blobs` of those that do not exist; all others are in use from now on.

        Args:
            project: their project.
            blobs: which blobs.
            to_stay: whether those count as missing that a clean of another node is about to take.

        Raises:
            StorageError: the disk failed.
        """
        found: list[int] = []
        for start in range(0, len(blobs), FOUND_AT_ONCE):
            some = blobs[start : start + FOUND_AT_ONCE]
            absent = await in_thread(self._missing, project, some, to_stay, threads=self._threads)
            found += [start + place for place in absent]
        return found

    def _missing(
        self, project: Project, blobs: Sequence[BlobReference], to_stay: bool
    ) -> list[int]:
        going = known_clean(self._store.root, project).going if to_stay else 0
        return [
            place
            for place, blob in enumerate(blobs)
            if blob != EMPTY_BLOB
            and not target_is_there(self._store, project, blob_target(blob), going)
        ]

    async def contents(
        self, project: Project, blobs: Sequence[BlobReference]
    ) -> list[bytes | StorageError | None]:
        """The bytes of each of `blobs`; None for those that do not exist, or the disk's error."""
        return await in_thread(self._contents, project, blobs, threads=self._threads)

    def _contents(
        self, project: Project, blobs: Sequence[BlobReference]
    ) -> list[bytes | StorageError | None]:
        now = time.time_ns()
        found: list[bytes | StorageError | None] = []
        for blob in blobs:
            if blob == EMPTY_BLOB:
                found.append(b"")
                continue
            place = Key(project, Kind.BLOB, blob.id).place
            try:
                found.append(self._store.content(f"{self._store.root}/{place}", now, blob.size))
            except OSError as error:
                found.append(storage_error(error))
        return found

    async def open(self, key: Key) -> Artifact | None:
        """Open the artifact `key`; None if it does not exist.

        Raises:
            StorageError: the disk failed.
        """
        path = key.path(self._store.root)
        file = await in_thread(self._store.open, path, threads=self._threads)
        return None if file is None else Artifact(file, self._threads)
