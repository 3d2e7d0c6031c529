"""Uploads in parts, for module artifacts, which are larger than one request should be.

Received parts are on disk, so that any worker can receive the next one
(`storage/files/unfinished.py`). A part is received like any other upload; the disk writer publishes
the artifact in the end, which keeps the writes of one id in order.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

from cache_actors.storage.errors import StorageLocked
from cache_actors.storage.files.unfinished import UnknownUpload

from .disk_threads import in_thread
from .upload import ReadableInThread, WrongDigest

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
    from typing import Protocol, TypeVar

    from cache_actors.storage.files.store import FileStore, Published
    from cache_actors.storage.files.temporary import TemporaryFile
    from cache_actors.storage.files.unfinished import OpenUpload, UnfinishedUploads
    from cache_actors.storage.layout import Key, Project
    from cache_actors.supervision import Owner

    from .upload import Upload

    Result = TypeVar("Result")

    class Publisher(Protocol):
        """The disk writer's client, as far as uploads in parts use it."""

        def upload(self, owner: Owner) -> Upload:
            """An upload that takes its memory from the share of `owner`."""

        async def publish(self, key: Key, source: TemporaryFile, owner: Owner) -> Published:
            """Publish a file from `FileStore.prepare`."""


LOCK_SECONDS = 20.0
"""Longest wait for another request to the same upload, in seconds; completing a large one takes a
few."""

RETRY_SECONDS = 0.02
"""Interval in seconds between attempts to lock an upload. No thread waits for the lock, since its
holder may need one of the same threads."""

NOTED_SECONDS = 60.0
"""Interval in seconds at which a part that is being received restarts its upload's idle time."""


class _NotedChunks:
    """The chunks of a part; `note` is called about every `NOTED_SECONDS` while they arrive."""

    def __init__(self, chunks: AsyncIterable[bytes], note: Callable[[], Awaitable[object]]) -> None:
        self._body = chunks
        self._chunks = aiter(chunks)
        self._note = note
        self._noted = trio.current_time()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        chunk = await anext(self._chunks)
        if trio.current_time() - self._noted >= NOTED_SECONDS:
            await self._note()
            self._noted = trio.current_time()
        return chunk

    def read_in_thread(self, buffer: memoryview) -> int:
        """As `ReadableInThread.read_in_thread`; 0 if the body cannot do that."""
        return self._body.read_in_thread(buffer) if isinstance(self._body, ReadableInThread) else 0


class PartUploads:
    """Receives parts, and stores the artifacts that they make.

    Args:
        unfinished: the unfinished uploads.
        store: the file store.
        writer: receives parts and publishes artifacts.
        threads: limit on threads for disk access.
    """

    def __init__(
        self,
        unfinished: UnfinishedUploads,
        store: FileStore,
        writer: Publisher,
        threads: trio.CapacityLimiter,
    ) -> None:
        self._unfinished = unfinished
        self._store = store
        self._writer = writer
        self._threads = threads

    async def start(self, key: Key) -> str | None:
        """Start an upload of the artifact `key`; return the upload's id, or None if `key` exists.

        Raises:
            TooManyUploads: the project, or all together, have too many unfinished uploads.
            StorageError: the disk is full, or failed.
        """
        path = key.path(self._store.root)
        if await in_thread(self._store.exists, path, threads=self._threads):
            return None
        return await in_thread(self._unfinished.start, key, threads=self._threads)

    async def put(
        self,
        upload_id: str,
        project: Project,
        number: int,
        chunks: AsyncIterable[bytes],
        expected_size: int | None,
        expected_digest: bytes | None,
        owner: Owner,
    ) -> None:
        """Receive part `number` of an upload of `project`.

        Raises:
            UnknownUpload: the project has no such upload.
            ModuleTooLarge, TooManyUploads: the part would take too much room.
            EmptyUpload, WrongDigest, StorageError: as `DiskWriterClient.store`.
        """
        note = partial(in_thread, self._unfinished.key, upload_id, project, threads=self._threads)
        await note()
        async with self._writer.upload(owner) as upload:
            noted = _NotedChunks(chunks, note)
            await upload.receive(None, noted, expected_size, expected_digest)
            with trio.CancelScope(shield=True):  # a thread reads the received bytes
                source = upload.source()
                await self._when_free(self._unfinished.put, upload_id, project, number, source)

    async def complete(
        self,
        upload_id: str,
        project: Project,
        numbers: Sequence[int],
        expected_digest: bytes | None,
        owner: Owner,
    ) -> Published | None:
        """Store the module of the parts `numbers`; None if these completed the upload before.

        Raises:
            UnknownUpload: the project has no such upload.
            WrongParts: `numbers` are not those of the received parts.
            WrongDigest: the module's SHA-256 is not `expected_digest`; the parts stay.
            StorageError, ActorError: as `DiskWriterClient.store`; the call may be repeated.
        """
        try:
            upload = await self._when_free(self._unfinished.open, upload_id, project)
        except UnknownUpload:
            digest = await in_thread(
                self._unfinished.completed, upload_id, project, numbers, threads=self._threads
            )
            _check_digest(digest, expected_digest)
            return None
        with upload:
            return await self._publish(upload, numbers, expected_digest, owner)

    async def _when_free(self, action: Callable[..., Result], *arguments: object) -> Result:
        """Call `action(*arguments)` once no other request has locked the upload.

        Raises:
            StorageLocked: another request held the lock for `LOCK_SECONDS`.
        """
        until = trio.current_time() + LOCK_SECONDS
        while True:
            try:
                return await in_thread(action, *arguments, threads=self._threads)
            except StorageLocked:
                if trio.current_time() >= until:
                    raise
            await trio.sleep(RETRY_SECONDS)

    async def _publish(
        self,
        upload: OpenUpload,
        numbers: Sequence[int],
        expected_digest: bytes | None,
        owner: Owner,
    ) -> Published:
        with trio.CancelScope(shield=True):  # finishes even if the client leaves
            file = await in_thread(upload.assembled, numbers, threads=self._threads)
            try:
                _check_digest(file.digest(), expected_digest)
                file = await in_thread(self._store.prepare, file, threads=self._threads)
                published = await self._writer.publish(upload.key, file, owner)
                await in_thread(upload.finish, file, threads=self._threads)
            finally:
                await in_thread(file.discard, threads=self._threads)
        return published


def _check_digest(digest: bytes, expected: bytes | None) -> None:
    if expected not in (None, digest):
        raise WrongDigest("The artifact does not match the digest that was declared")
