"""zstd, within bounds: what comes out is limited by what was announced, and memory by a window."""

from __future__ import annotations

import sys
from contextlib import aclosing
from typing import TYPE_CHECKING

from .status import invalid

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

PIECE_BYTES = 256 * 1024
"""Largest piece that comes out of one step, in bytes, which takes less than a millisecond."""

MAX_FRAMES = 64
"""Largest number of frames that a blob may consist of: each costs a copy of all bytes after it."""

WINDOW_BYTES = 8 << 20
"""Largest window of a frame, in bytes, which takes as much memory; as RFC 8878 recommends."""

_OPTIONS: dict[int, int] = {
    zstd.DecompressionParameter.window_log_max: WINDOW_BYTES.bit_length() - 1
}


async def decompressed(
    pieces: AsyncGenerator[bytes, None], size: int
) -> AsyncGenerator[bytes, None]:
    """Decompress `pieces`, which have to become `size` bytes.

    Raises:
        CallFailed: INVALID_ARGUMENT: they are not zstd, are cut short, or become more.
    """
    decoder = Decoder(size)
    async with aclosing(pieces):
        async for piece in pieces:
            for each in decoder.decode(piece):
                yield each
    decoder.end()


class Decoder:
    """Decompresses frames, one after the other, to at most `size` bytes."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._frame = zstd.ZstdDecompressor(options=_OPTIONS)
        self._has_begun = False
        self._frames = 1

    def decode(self, data: bytes) -> Iterator[bytes]:
        """The bytes that come of `data`, in pieces; each is made when it is asked for.

        Raises:
            CallFailed: INVALID_ARGUMENT: `data` is not zstd, or more than `size` bytes come of it.
        """
        while data or not (self._frame.needs_input or self._frame.eof):
            if self._frame.eof:
                self._frame = zstd.ZstdDecompressor(options=_OPTIONS)
                self._frames += 1
                if self._frames > MAX_FRAMES:
                    raise invalid(f"There are more than {MAX_FRAMES} frames of zstd")
            self._has_begun = True
            try:
                piece = self._frame.decompress(data, PIECE_BYTES)
            except zstd.ZstdError:
                raise invalid("The bytes are not compressed by zstd") from None
            data = self._frame.unused_data if self._frame.eof else b""
            self._left -= len(piece)
            if self._left < 0:
                raise invalid("There are more bytes than the digest says")
            if piece:
                yield piece

    def end(self) -> None:
        """Check that the last frame is complete.

        Raises:
            CallFailed: INVALID_ARGUMENT: it is cut short.
        """
        if self._has_begun and not self._frame.eof:
            raise invalid("The compressed bytes are cut short")


def decompressed_at_once(data: bytes, size: int) -> bytes:
    """Decompress `data` to at most `size` bytes; there may be fewer, which the caller looks at.

    Raises:
        CallFailed: INVALID_ARGUMENT: `data` is not zstd, is cut short, or becomes more.
    """
    decoder = Decoder(size)
    whole = b"".join(decoder.decode(data))
    decoder.end()
    return whole


async def compressed(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Compress `pieces` to one frame, at a level that costs less time than it saves."""
    encoder = zstd.ZstdCompressor(level=1)
    async with aclosing(pieces):
        async for piece in pieces:
            if data := encoder.compress(piece):
                yield data
    yield encoder.flush()
