"""Uploads in parts: of modules, which are larger than one request should be.

What has come lies on the disk, where any worker may go on with it
(`storage/files/unfinished.py`). A part is received like any other upload; the disk writer publishes
the artifact in the end, so that those of one id stay in order.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

from cache_actors.storage.errors import StorageLocked

from .disk_threads import in_thread
from .upload import WrongDigest

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
        """Who receives parts, and publishes: the disk writer's client."""

        def upload(self, owner: Owner) -> Upload:
            """An upload that takes its memory from the share of `owner`."""

        async def publish(self, key: Key, source: TemporaryFile, owner: Owner) -> Published:
            """Publish a file from `FileStore.prepare`."""


LOCK_SECONDS = 20.0
"""Longest wait for another request to the same upload, in seconds: the end of a large one takes
some."""

RETRY_SECONDS = 0.02
"""Interval in seconds at which is looked whether that is over. It is no thread that waits: the one
who is waited for needs one of the same."""

NOTED_SECONDS = 60.0
"""Interval in seconds at which a part that is still coming keeps its upload from being idle."""


class _NotedChunks:
    """The pieces of a part; while they come, `note` is called every `NOTED_SECONDS`."""

    def __init__(self, chunks: AsyncIterable[bytes], note: Callable[[], Awaitable[object]]) -> None:
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


class PartUploads:
    """Takes parts, and makes artifacts of them.

    Args:
        unfinished: where parts lie.
        store: where artifacts go.
        writer: receives and publishes.
        threads: how many may be at the disk at once for it.
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
        """Begin an upload of `key`, and return its id; None if `key` is stored already.

        Raises:
            TooManyUploads: there are too many.
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
        """Take in part `number` of an upload of `project`.

        Raises:
            UnknownUpload: there is no such upload.
            ArtifactTooLarge, TooManyUploads: it would take too much room.
            EmptyUpload, WrongDigest, StorageError: as `DiskWriterClient.store`.
        """
        note = partial(in_thread, self._unfinished.key, upload_id, project, threads=self._threads)
        await note()
        async with self._writer.upload(owner) as upload:
            noted = _NotedChunks(chunks, note)
            await upload.receive(None, noted, expected_size, expected_digest)
            with trio.CancelScope(shield=True):  # a thread reads what was received
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
        """Store the artifact whose parts are `numbers`; None if that was done before.

        Raises:
            UnknownUpload: there is no such upload.
            WrongParts: other parts have come.
            WrongDigest: their SHA-256 is not the one expected.
            StorageError, ActorError: as `DiskWriterClient.store`; it may be tried again.
        """
        upload = await self._when_free(self._unfinished.open, upload_id, project)
        with upload:
            if upload.is_done:
                return None
            with trio.CancelScope(shield=True):  # a half is of no use to anybody
                published = await self._publish(upload, numbers, expected_digest, owner)
                await in_thread(upload.finish, threads=self._threads)
            return published

    async def _when_free(self, action: Callable[..., Result], *arguments: object) -> Result:
        """The result of `action(*arguments)`, called once no other request has the upload.

        Raises:
            StorageLocked: another has had it for `LOCK_SECONDS`.
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
        file = await in_thread(upload.assembled, numbers, threads=self._threads)
        try:
            if expected_digest is not None and expected_digest != file.digest():
                raise WrongDigest("The artifact does not match the digest that was declared")
            file = await in_thread(self._store.prepare, file, threads=self._threads)
            return await self._writer.publish(upload.key, file, owner)
        finally:
            file.close()
