"""Reception of an upload: in memory if it is small, else in a temporary file.

However many clients send at once, and however slowly, the bytes in memory stay within one limit, of
which each project and each of its clients has a share (`supervision/shares.py`). A small upload
waits for memory before its body is read, since the uploads ahead of it are soon stored. Memory that
was reserved for bytes which do not arrive is taken back when other uploads need it. If the wait
exceeds `PATIENCE`, because the uploads ahead come from slow clients, the upload goes to a temporary
file, as large uploads do. Large uploads use free memory only to write in larger pieces, and are
read no faster than they are written. A thread that has written a piece reads on by itself for as
long as the client keeps up, since the way to a thread costs as much as to hash 200 KiB.
"""

from __future__ import annotations

import hashlib
import threading
import time
from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

import trio

from cache_actors.supervision import Holding

from .disk_threads import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterable

    from cache_actors.metrics.registry import Metrics
    from cache_actors.storage.files.store import FileStore
    from cache_actors.storage.files.temporary import TemporaryFile, TemporaryFolder
    from cache_actors.storage.layout import Key
    from cache_actors.supervision import Owner, Shares

SMALL_BYTES = 256 * 1024
"""Largest upload that stays in memory, in bytes; larger ones are written in pieces of this size."""

READ_ON_SECONDS = 0.01
"""Longest time that a thread reads on by itself, in seconds; then other uploads have a turn."""

PATIENCE = 1.0
"""Longest time that a small upload waits for memory, in seconds, before it goes to a file."""


class EmptyUpload(ValueError):
    """The body of an upload is empty."""


class WrongDigest(ValueError):
    """The body of an upload does not match the digest that the client declared."""


@runtime_checkable
class ReadableInThread(Protocol):
    """A body that a thread can read from, while nobody iterates over its chunks."""

    def read_in_thread(self, buffer: memoryview) -> int:
        """Read the next bytes into `buffer`, if they come soon; return their number.

        0 says nothing of the rest: iterating finds out.
        """


class _Thread(threading.local):
    """A buffer for each thread: to make one for each trip would cost more than to fill it."""

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(SMALL_BYTES))


_thread = _Thread()


class _Memory(Holding):
    """Memory for an upload, of which `needed` bytes hold data that has arrived."""

    needed = 0

    def let_go(self) -> None:
        """Give back memory that was reserved for bytes which have not arrived."""
        self.give_back(max(0, self.amount - self.needed))


class Upload:
    """Receives one upload. As a context manager, releases its memory and its file on exit."""

    def __init__(
        self,
        store: FileStore,
        temporary: TemporaryFolder,
        memory: Shares,
        owner: Owner,
        threads: trio.CapacityLimiter,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._temporary = temporary
        self._memory = _Memory(memory, owner)
        self._threads = threads
        self._metrics = metrics
        self._pieces: list[bytes] = []
        self._file: TemporaryFile | None = None
        self._is_to_be_synced = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._drop_pieces()
        if self._file is not None:
            self._metrics.temporary_files.dec()
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._file.discard, limiter=self._threads)

    async def receive(
        self,
        key: Key | None,
        chunks: AsyncIterable[bytes],
        expected_size: int | None,
        expected_digest: bytes | None,
    ) -> bool:
        """Receive all of `chunks`; a large upload whose `key` exists already is not received.

        Returns whether the chunks were received.

        Raises:
            EmptyUpload: the body is empty.
            WrongDigest: the SHA-256 of the body is not `expected_digest`.
            StorageError: the temporary file could not be written. If there is no room for
                `expected_size` bytes, this is raised before the first chunk is read.
        """
        if expected_size is not None and not (
            await self._reserve(expected_size) or await self._spill(key, chunks, expected_size)
        ):
            return False
        async for chunk in chunks:
            if self._keep(chunk):
                continue
            if self._file is not None:
                await self._write(self._file, chunks)
            elif not await self._spill(key, chunks):
                return False
        if self._file is not None:
            await self._write(self._file, chunks)
        elif not self._memory.needed:
            raise EmptyUpload("The body is empty")
        if expected_digest is not None and expected_digest != self._digest():
            raise WrongDigest("The body does not match the digest that was declared")
        return True

    async def prepare(self) -> None:
        """Seal and sync a large upload, so that it can be published.

        Raises:
            StorageError: the file could not be synced.
        """
        if self._file is not None:
            self._file = await in_thread(self._store.prepare, self._file, threads=self._threads)

    def source(self) -> tuple[bytes, ...] | TemporaryFile:
        """The received bytes, or the file that holds them."""
        return self._file or tuple(self._pieces)

    async def _reserve(self, size: int) -> bool:
        """Reserve memory for `size` bytes; return False if that is too much or takes too long."""
        if size > SMALL_BYTES:
            return False
        try:
            self._memory.take_nowait(size)
        except trio.WouldBlock:
            with trio.move_on_after(PATIENCE) as patience:
                await self._memory.take(size)
            return not patience.cancelled_caught
        return True

    def _keep(self, chunk: bytes) -> bool:
        """Add `chunk` to those in memory; return False if they must be written to a file now."""
        self._pieces.append(chunk)
        self._memory.needed += len(chunk)
        self._memory.move()
        missing = self._memory.needed - self._memory.amount
        if missing > 0:
            try:
                self._memory.take_nowait(missing)
            except trio.WouldBlock:
                return False
        return self._memory.needed <= SMALL_BYTES

    def _digest(self) -> bytes:
        if self._file is not None:
            return self._file.digest()
        digest = hashlib.sha256()
        for piece in self._pieces:
            digest.update(piece)
        return digest.digest()

    async def _spill(self, key: Key | None, chunks: AsyncIterable[bytes], size: int = 0) -> bool:
        """Switch to a temporary file for `size` bytes; return False if `key` exists already."""
        self._file = await in_thread(self._begin_file, key, chunks, size, threads=self._threads)
        if self._file is None:
            return False
        self._drop_pieces()
        self._metrics.temporary_files.inc()
        return True

    def _begin_file(
        self, key: Key | None, chunks: AsyncIterable[bytes], size: int
    ) -> TemporaryFile | None:
        """A file with what has come so far; None if `key` exists already."""
        if key is not None and self._store.exists(key.path(self._store.root)):
            return None
        self._store.capacity.check_room(size)
        file = self._temporary.create()
        stays = key is not None and self._store.can_link(file)  # else it is going to be copied
        self._is_to_be_synced = stays and self._store.durable
        try:
            if size > 0:  # only an attempt shows a quota; bytes that may not arrive hold no room
                file.reserve(min(size, SMALL_BYTES))
                file.release()
            self._append(file, chunks)
        except OSError:
            file.discard()
            raise
        return file

    async def _write(self, file: TemporaryFile, chunks: AsyncIterable[bytes]) -> None:
        if self._pieces:
            await in_thread(self._append, file, chunks, threads=self._threads)
            self._drop_pieces()

    def _append(self, file: TemporaryFile, chunks: AsyncIterable[bytes]) -> None:
        """Write the chunks in memory, and what comes at once behind them.

        All is written only if the disk has room for it in excess of the reserve.
        """
        if self._pieces:
            with self._store.capacity.reserve(self._memory.needed):
                file.write(self._pieces)
        if isinstance(chunks, ReadableInThread):
            end = time.monotonic() + READ_ON_SECONDS
            buffer = _thread.buffer
            while time.monotonic() < end and (size := chunks.read_in_thread(buffer)):
                with self._store.capacity.reserve(size):
                    file.write([buffer[:size]])
        if self._is_to_be_synced:
            file.start_sync()

    def _drop_pieces(self) -> None:
        self._pieces, self._memory.needed = [], 0
        self._memory.give_back()
