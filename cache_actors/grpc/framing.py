"""Messages in the body of a request, each after five bytes: a flag, and the message's length.

The memory for a message is taken before it is received, and more for one of many small parts before
it is decoded. One that is large is not received before its client is known to have access, which is
why the name of the instance is looked for at its start.
"""

from __future__ import annotations

import struct
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import trio
from google.protobuf.message import DecodeError

from cache_actors.http.errors import overloaded
from cache_actors.supervision import Holding

from .status import CallFailed, Code, invalid
from .wire import Field, fields

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from cache_actors.http.request import RequestBody
    from cache_actors.supervision import Owner, Shares

_HEAD = struct.Struct(">BI")

UNKNOWN_BYTES = 64 * 1024
"""Largest message that is received from a client whose access is not known yet, in bytes."""

UNHELD_BYTES = 256 * 1024
"""Largest memory of a message that is not taken from the shares, in bytes."""

COPIES = 2
"""Memory that a message takes, in its own size: it is there as bytes and decoded."""

ROOM = COPIES + 0.25
"""Memory that is taken for a message before it is received, in its own size: with some for the
objects in it, as much as they take if its blobs are not small. So a call seldom has to wait for
memory while it holds some, which others may wait for."""

DENSE_ROOM = COPIES + 12.5
"""The same for a message of digests and nothing else."""

SENT_BYTES = 64 * 1024
"""Size of a piece, in bytes, from which it is not worth copying it to send it with others."""

PATIENCE = 20.0
"""Longest wait for the memory of a message, in seconds."""

NAMED_WITHIN = 4096
"""Start of a large message within which the instance has to be named, in bytes."""

_NAME = Field()


def framed(message: bytes) -> bytes:
    """A message with its head."""
    return framing_head(len(message)) + message


def framing_head(size: int) -> bytes:
    """The head of a message of `size` bytes."""
    return _HEAD.pack(0, size)


def put_together(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces of a message as they are sent: small ones are copied into one, large ones not."""
    small: list[bytes] = []
    size = 0
    for piece in pieces:
        if len(piece) >= SENT_BYTES or size >= SENT_BYTES:
            if small:
                yield b"".join(small)
            small, size = [], 0
        if len(piece) >= SENT_BYTES:
            yield piece
        else:
            small.append(piece)
            size += len(piece)
    if small:
        yield b"".join(small)


def varint(number: int) -> bytes:
    """A number as messages have it."""
    pieces = bytearray()
    while number >= 0x80:
        pieces.append(number & 0x7F | 0x80)
        number >>= 7
    pieces.append(number)
    return bytes(pieces)


def leading_name(start: bytes) -> str:
    """The text in field 1 of a message whose `start` this is; an empty one if it is not in there.

    In each message that may be large that is the name of the instance or of the resource. Nearly
    all encoders write the fields in order, though none has to.
    """
    with suppress(DecodeError):  # as the message goes on
        for field, _, at, end in fields(start, {1: _NAME}):
            if field is _NAME:
                return start[at:end].decode(errors="replace")
    return ""


class CallMemory(Holding):
    """All memory of a call, which is one holding: so the call never waits for its own memory."""

    def __init__(self, shares: Shares, owner: Owner) -> None:
        super().__init__(shares, owner)
        self.receiving: MessageMemory | None = None  # of a message that is incomplete

    async def reserve(self, amount: int) -> None:
        """Wait for `amount` bytes more.

        Raises:
            CallFailed: RESOURCE_EXHAUSTED, there are never as many.
            HttpError: 429, there are none for too long, or all calls that hold some wait for more.
        """
        total, limit = self.amount + amount, self._shares.limit
        if total > limit:
            text = f"The call takes {total} bytes of memory, and all calls have {limit}"
            raise CallFailed(Code.RESOURCE_EXHAUSTED, text)
        try:
            with trio.fail_after(PATIENCE):
                await self.grow(amount)
        except (trio.TooSlowError, trio.WouldBlock):
            raise overloaded("Too many requests at once") from None

    def let_go(self) -> None:
        """Give up a message whose rest does not come."""
        if self.receiving is not None:
            self.receiving.lose()


class MessageMemory:
    """A part of a call's memory: that of a message, or of what is made of it.

    If the client pauses while a message is received, and others need its memory, it is given up.

    Args:
        call: the memory of the call.

    Attributes:
        amount: bytes that are held.
        is_lost: whether they have been given up.
    """

    def __init__(self, call: CallMemory) -> None:
        self._call = call
        self._pieces: list[bytes] = []
        self.amount = 0
        self.is_lost = False

    async def reserve(self, amount: int) -> None:
        """Wait for `amount` bytes more.

        Raises:
            As `CallMemory.reserve`.
        """
        await self._call.reserve(amount)
        self.amount += amount

    def give_back(self) -> None:
        """Return all bytes."""
        amount, self.amount = self.amount, 0
        self._call.give_back(amount)

    @contextmanager
    def receiving(self, pieces: list[bytes]) -> Iterator[None]:
        """Be of a message whose `pieces` are still coming."""
        self._pieces, self._call.receiving = pieces, self
        try:
            yield
        finally:
            self._pieces, self._call.receiving = [], None

    def move(self) -> None:
        """Record progress."""
        self._call.move()

    def lose(self) -> None:
        """Give up the message that is being received."""
        self.is_lost = True
        self._pieces.clear()
        self.give_back()


class MessageReader:
    """Reads the messages of one call.

    Args:
        body: the body of the request.
        most: the largest message, in bytes.
        room: memory that is taken for one, in its own size.
        authorise: called with the leading name of a message that is large.
        memory: called once there is a message that is larger than `UNKNOWN_BYTES`, whose memory is
            held until the next one is asked for.
    """

    def __init__(
        self,
        body: RequestBody,
        most: int,
        room: float,
        authorise: Callable[[str], Awaitable[None]],
        memory: Callable[[], MessageMemory],
    ) -> None:
        self._body = body.limit(1 << 62)
        self._most = most
        self._room = room
        self._authorise = authorise
        self._new_memory = memory
        self._memory: MessageMemory | None = None
        self._pieces: list[bytes] = []
        self._size = 0  # of all pieces, less what has been taken of the first
        self._taken = 0

    async def next(self) -> bytes | None:
        """The next message, or None at the end.

        Raises:
            CallFailed: what has come is no message, or too large a one.
            HttpError: 429, there is no memory for it.
            BodyStalled, ClientDisconnected: the rest does not come.
        """
        self._release()
        if self._size:  # a piece with many messages is no reason for others to wait
            await trio.lowlevel.checkpoint()
        await self._fill(_HEAD.size)
        if not self._size:
            return None
        flag, length = _HEAD.unpack(self._take(_HEAD.size))
        if flag == 1:
            raise CallFailed(Code.INTERNAL, "A message is compressed, which was not announced")
        if flag:
            raise CallFailed(Code.INTERNAL, f"A message has the unknown flag {flag}")
        if length > self._most:
            text = f"A message of {length} bytes is larger than {self._most} bytes"
            raise CallFailed(Code.RESOURCE_EXHAUSTED, text)
        if length <= UNKNOWN_BYTES:
            await self._fill(length)
            return self._take(length)
        await self._fill(min(length, NAMED_WITHIN))
        start = self._joined()
        await self._authorise(leading_name(start[: min(length, NAMED_WITHIN)]))
        memory = self._memory = self._memory or self._new_memory()
        await memory.reserve(int(self._room * length))
        with memory.receiving(self._pieces):
            await self._fill(length, memory)
        return self._take(length)

    async def hold(self, message: bytes, amount: int) -> None:
        """Hold `amount` bytes in all for `message`, the last one, unless that is little.

        Raises:
            CallFailed: its client has no access, or there are never as many bytes.
            HttpError: 429, there are none for too long.
        """
        held = self._memory.amount if self._memory is not None else 0
        if amount <= max(held, UNHELD_BYTES):
            return
        await self._authorise(leading_name(message[:NAMED_WITHIN]))
        self._memory = self._memory or self._new_memory()
        await self._memory.reserve(amount - held)

    def _release(self) -> None:
        """Give back the memory of the last message."""
        if self._memory is not None:
            self._memory.give_back()

    async def is_at_end(self) -> bool:
        """Whether nothing follows."""
        await self._fill(1)
        return not self._size

    async def _fill(self, wanted: int, memory: MessageMemory | None = None) -> None:
        """Receive until there are `wanted` bytes, or none follow."""
        while self._size < wanted:
            try:
                piece = await anext(self._body)
            except StopAsyncIteration:
                if wanted == 1 or not self._size:
                    return
                raise invalid("A message is cut short") from None
            if memory is not None:
                if memory.is_lost:
                    raise overloaded("Too many requests at once")
                memory.move()
            self._pieces.append(piece)
            self._size += len(piece)

    def _take(self, size: int) -> bytes:
        """The next `size` bytes, which have been received."""
        if self._size < size:
            raise invalid("A message is cut short")
        if not size:
            return b""
        first = self._pieces[0]
        if len(first) - self._taken < size:
            first = self._joined()
        end = self._taken + size
        whole = first if size == len(first) else first[self._taken : end]
        self._size -= size
        self._taken = end
        if end == len(first):
            del self._pieces[0]
            self._taken = 0
        return whole

    def _joined(self) -> bytes:
        """All that has come and is not taken, which is one piece then."""
        if self._taken:
            self._pieces[0] = self._pieces[0][self._taken :]
            self._taken = 0
        whole = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces = [whole]
        return whole
