"""An upload on its way in: small ones in memory, large ones in a temporary file.

However many clients send at once, and however slowly, the bytes held in memory stay within one
budget. An upload for which there is no room left there does not wait for others, who may be slow;
it goes to its temporary file, piece by piece, as large ones do. The client is read from only as
fast as that file is written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, TypeVar

import trio

from cache_actors.storage.errors import storage_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable
    from pathlib import Path

    from cache_actors.storage.files import FileStore
    from cache_actors.storage.temporary import TemporaryFile, TemporaryFolder
    from cache_actors.supervision import Budget

Argument = TypeVar("Argument")
Result = TypeVar("Result")

SMALL_BYTES = 256 * 1024
"""Up to this size an artifact stays in memory; larger ones are written in pieces of this size."""


class EmptyUpload(ValueError):
    """The body of an upload had no bytes."""


class Upload:
    """Receives one upload. As a context manager it releases in the end whatever it holds."""

    def __init__(
        self,
        store: FileStore,
        temporary: TemporaryFolder,
        memory: Budget,
        threads: trio.CapacityLimiter,
    ) -> None:
        self._store = store
        self._temporary = temporary
        self._memory = memory
        self._threads = threads
        self._pieces: list[bytes] = []
        self._buffered = 0  # bytes in pieces
        self._reserved = 0  # bytes of them taken from the budget
        self._file: TemporaryFile | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._drop_pieces()
        if self._file is not None:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._file.discard, limiter=self._threads)

    async def receive(
        self, path: Path, chunks: AsyncIterable[bytes], expected_size: int | None
    ) -> bool:
        """Take in all `chunks`, or none if they are many and `path` exists already.

        Returns whether they have been taken in.

        Raises:
            EmptyUpload: there was not one byte.
            StorageError: the temporary file could not be written.
        """
        if (expected_size or 0) > SMALL_BYTES and not await self._spill(path):
            return False
        async for chunk in chunks:
            roomy = self._buffer(chunk)
            if self._file is None:
                if (self._buffered > SMALL_BYTES or not roomy) and not await self._spill(path):
                    return False
            elif self._buffered >= SMALL_BYTES or not roomy:
                await self._write()
        if self._file is None:
            if not self._buffered:
                raise EmptyUpload("The body is empty")
        elif self._pieces:
            await self._write()
        return True

    def source(self) -> bytes | TemporaryFile:
        """What has been received."""
        if self._file is not None:
            return self._file
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)

    def _buffer(self, chunk: bytes) -> bool:
        """Keep `chunk` in memory, and say whether it may stay there."""
        self._pieces.append(chunk)
        self._buffered += len(chunk)
        try:
            self._memory.take_nowait(len(chunk))
        except trio.WouldBlock:
            return False
        self._reserved += len(chunk)
        return True

    async def _spill(self, path: Path) -> bool:
        """Go on in a temporary file, unless `path` exists: then say no."""
        self._file = await self._in_thread(self._open, path)
        if self._file is None:
            return False
        if self._pieces:
            await self._write()
        return True

    def _open(self, path: Path) -> TemporaryFile | None:
        return None if self._store.exists(path) else self._temporary.create()

    async def _write(self) -> None:
        assert self._file is not None, "only an upload that has been spilled is written"  # noqa: S101
        await self._in_thread(self._file.write, self._pieces)
        self._drop_pieces()

    def _drop_pieces(self) -> None:
        self._memory.give_back(self._reserved)
        self._pieces, self._buffered, self._reserved = [], 0, 0

    async def _in_thread(self, action: Callable[[Argument], Result], argument: Argument) -> Result:
        try:
            return await trio.to_thread.run_sync(action, argument, limiter=self._threads)
        except OSError as error:
            raise storage_error(error) from error
