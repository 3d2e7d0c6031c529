"""ByteStream: reading and writing a single blob of any size, as it is or compressed by zstd.

A blob is stored whole or not at all: of an upload that ends early nothing is kept, so that it is
begun again from its start, which is what `QueryWriteStatus` says.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from cache_actors.kinds import Kind
from cache_actors.storage.actions import EMPTY_BLOB
from cache_actors.storage.errors import StorageError
from cache_actors.storage.files.store import Published
from cache_actors.storage.layout import Key
from cache_actors.transfer.upload import SMALL_BYTES, EmptyUpload

from .blobs import contents, is_here
from .compression import WINDOW_BYTES, compressed, decompressed
from .digests import resource_in
from .framing import framing_head, put_together, varint
from .messages_pb2 import (
    QueryWriteStatusRequest,
    QueryWriteStatusResponse,
    ReadRequest,
    WriteRequest,
    WriteResponse,
)
from .status import CallFailed, Code, invalid

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from .context import CallContext
    from .digests import Resource


_DATA = b"\x52"  # the tag of a ReadResponse's data: encoded here, they are copied once


class _Unfinished(Exception):
    """The client has ended its stream without `finish_write`."""


async def read(context: CallContext, message: ReadRequest) -> AsyncGenerator[bytes, None]:
    """`Read`: the bytes of a blob, or a range of them."""
    resource = resource_in(message.resource_name, is_upload=False)
    blob, start, limit = resource.blob, message.read_offset, message.read_limit
    if limit < 0 or (limit and resource.is_compressed):
        raise invalid("read_limit is negative, or given for compressed bytes")
    if not 0 <= start <= blob.size:
        raise CallFailed(Code.OUT_OF_RANGE, "read_offset is not within the blob")
    end = min(blob.size, start + limit) if limit else blob.size
    if blob.size <= SMALL_BYTES:
        [data] = await contents(context, [blob])
        if isinstance(data, StorageError):
            raise data
        if data is None:
            raise _not_found()
        pieces = _one(data[start:end])
    else:
        if not await is_here(context, blob):
            raise _not_found()
        artifact = await context.services.reader.open(Key(context.project, Kind.BLOB, blob.id))
        if artifact is None:
            raise _not_found()
        context.resources.callback(artifact.close)
        pieces = artifact.read(start, end)
    return _responses(compressed(pieces) if resource.is_compressed else pieces)


async def write(context: CallContext) -> bytes:
    """`Write`: store a blob, unless it exists already: then the rest need not come."""
    first = await _next(context)
    if first is None:
        raise invalid("There is no message")
    resource = resource_in(first.resource_name, is_upload=True)
    await context.authorise(resource.instance)
    blob, most = resource.blob, context.settings.max_blob_bytes
    if blob.size > most:
        raise invalid(f"A blob of {blob.size} bytes is larger than {most} bytes")
    written = _Written(context, first)
    if resource.is_compressed:
        await context.memory().reserve(min(blob.size, WINDOW_BYTES))
    try:
        async with aclosing(_content(written, resource)) as pieces:
            if blob == EMPTY_BLOB:
                async for _ in pieces:
                    pass  # it has no bytes, or that is an error
            else:
                published = await context.services.writer.store(
                    Key(context.project, Kind.BLOB, blob.id),
                    pieces,
                    blob.size,
                    bytes.fromhex(blob.id),
                    context.owner,
                )
                await _check_existing(context, resource, published)
    except EmptyUpload:
        raise invalid(f"There are no bytes, and the digest says {blob.size}") from None
    except _Unfinished:
        return WriteResponse(committed_size=0).SerializeToString()
    if resource.is_compressed:
        size = written.received if written.is_finished else -1
    else:
        size = blob.size
    return WriteResponse(committed_size=size).SerializeToString()


async def query_write_status(context: CallContext, message: QueryWriteStatusRequest) -> bytes:
    """`QueryWriteStatus`: all of a blob that exists has been written, and else nothing."""
    resource = resource_in(message.resource_name, is_upload=True)
    missing = await context.services.reader.missing(context.project, [resource.blob])
    if missing:
        return QueryWriteStatusResponse().SerializeToString()
    size = -1 if resource.is_compressed else resource.blob.size
    return QueryWriteStatusResponse(committed_size=size, complete=True).SerializeToString()


class _Written:
    """The bytes of an upload, as the client sends them, message by message.

    Attributes:
        received: bytes so far.
        is_finished: whether the client has said that these are all.
    """

    def __init__(self, context: CallContext, first: WriteRequest) -> None:
        self._context = context
        self._message: WriteRequest | None = first
        self._name = first.resource_name
        self.received = 0
        self.is_finished = False

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The pieces, as they come.

        Raises:
            CallFailed: the message does not follow the one before.
            _Unfinished: there are no more, although the client has not said that it is finished.
        """
        while not self.is_finished:
            message = self._message or await _next(self._context)
            self._message = None
            if message is None:
                raise _Unfinished
            if message.resource_name not in ("", self._name):
                raise invalid("The resource's name changes within a stream")
            if message.write_offset != self.received:
                raise invalid(
                    f"write_offset is {message.write_offset}, and {self.received} bytes have come"
                )
            self.received += len(message.data)
            self.is_finished = message.finish_write
            if self.is_finished and not await self._context.messages.is_at_end():
                raise invalid("A message follows the last one")
            if message.data:
                yield message.data


async def _content(written: _Written, resource: Resource) -> AsyncGenerator[bytes, None]:
    """The bytes of a blob that is being written, which have to be as many as its digest says."""
    size = resource.blob.size
    left = size
    sent = written.pieces()
    async with aclosing(decompressed(sent, size) if resource.is_compressed else sent) as pieces:
        async for piece in pieces:
            left -= len(piece)
            if left < 0:
                raise invalid(f"There are more bytes than the {size} that the digest says")
            yield piece
    if left:
        raise invalid(f"There are {size - left} bytes, and the digest says {size}")


async def _next(context: CallContext) -> WriteRequest | None:
    data = await context.messages.next()
    if data is None:
        return None
    try:
        return WriteRequest.FromString(data)
    except DecodeError:
        raise invalid("A message is not a WriteRequest") from None


async def _check_existing(context: CallContext, resource: Resource, published: Published) -> None:
    """Check that a blob which existed already has the size that was declared."""
    if published is Published.EXISTS:
        context.request.duplicate = True
        reader = context.services.reader
        if await reader.missing(context.project, [resource.blob], to_stay=False):
            raise invalid("The size of the digest is not that of the blob")


async def _one(data: bytes) -> AsyncGenerator[bytes, None]:
    if data:
        yield data


async def _responses(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(pieces):
        async for piece in pieces:
            head = _DATA + varint(len(piece))
            for part in put_together((framing_head(len(head) + len(piece)), head, piece)):
                yield part


def _not_found() -> CallFailed:
    return CallFailed(Code.NOT_FOUND, "The blob does not exist")
