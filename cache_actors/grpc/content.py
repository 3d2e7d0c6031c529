"""ContentAddressableStorage: finding, reading and storing blobs in batches, and trees."""

from __future__ import annotations

import hashlib
from contextlib import aclosing
from typing import TYPE_CHECKING

import trio

from cache_actors.kinds import Kind
from cache_actors.storage.actions import EMPTY_BLOB, BlobReference
from cache_actors.storage.errors import StorageError
from cache_actors.storage.layout import Key

from .blobs import contents, is_here
from .compression import decompressed_at_once
from .digests import BLOBS_AT_ONCE, READ_AT_ONCE, ZSTD, blob_of, check_function, paced
from .framing import framed, varint
from .messages_pb2 import (
    BatchReadBlobsRequest,
    BatchUpdateBlobsRequest,
    BatchUpdateBlobsResponse,
    Digest,
    FindMissingBlobsRequest,
    FindMissingBlobsResponse,
    GetTreeRequest,
    GetTreeResponse,
    Status,
)
from .status import CallFailed, Code, failure, invalid
from .trees import directories_below

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from cache_actors.storage.files.store import Published

    from .context import CallContext
    from .framing import MessageMemory

_RESPONSE, _DIRECTORY = b"\x0a", b"\x0a"  # tags of what is encoded here
_DIGEST, _DATA, _STATUS = b"\x0a", b"\x12", b"\x1a"  # in a response

CHECKED_HERE = 64 * 1024
"""Largest batch, in bytes, whose digests are checked without a thread: that takes less time."""

PAGE_DIRECTORIES = 1_000
PAGE_BYTES = 1 << 20
"""Largest page of a tree: directories, and bytes, unless a single directory has more."""


async def find_missing_blobs(context: CallContext, message: FindMissingBlobsRequest) -> bytes:
    """`FindMissingBlobs`: the digests of blobs that do not exist; all others are in use now."""
    check_function(message.digest_function)
    found: dict[BlobReference, None] = {}
    async with aclosing(paced(message.blob_digests)) as parts:
        async for digests in parts:
            found.update(dict.fromkeys(map(blob_of, digests)))
    blobs = list(found)
    missing = await context.services.reader.missing(context.project, blobs)
    return FindMissingBlobsResponse(
        missing_blob_digests=[_digest(blobs[place]) for place in missing]
    ).SerializeToString()


async def batch_read_blobs(context: CallContext, message: BatchReadBlobsRequest) -> list[bytes]:
    """`BatchReadBlobs`: the bytes of blobs, uncompressed, or what is wrong with each."""
    check_function(message.digest_function)
    blobs: list[BlobReference] = []
    failed: dict[int, CallFailed] = {}
    async with aclosing(paced(message.digests)) as parts:
        async for digests in parts:
            for digest in digests:
                try:
                    blobs.append(blob_of(digest))
                except CallFailed as error:
                    failed[len(blobs)] = _alone(error)
                    blobs.append(EMPTY_BLOB)
    total, most = sum(blob.size for blob in blobs), context.settings.grpc_max_cas_bytes
    if total > most:
        raise invalid(f"A batch of {total} bytes is larger than {most} bytes")
    await context.hold(total)
    answer: list[bytes] = []  # a BatchReadBlobsResponse: encoded here, no blob is copied
    for start, end in _slices(blobs):
        found = await contents(context, blobs[start:end])
        for place, (digest, data) in enumerate(
            zip(message.digests[start:end], found, strict=True), start
        ):
            if not isinstance(data, bytes):
                failed[place] = _reason(data)
            answer += _read_response(digest, data, failed.get(place))
    codes = [failed[place].code if place in failed else Code.OK for place in range(len(blobs))]
    _count(context, "BatchReadBlobs", codes)
    return answer


async def batch_update_blobs(context: CallContext, message: BatchUpdateBlobsRequest) -> bytes:
    """`BatchUpdateBlobs`: store blobs whose bytes are what their digests say; a status for each."""
    check_function(message.digest_function)
    outcomes: list[CallFailed | None] = [None] * len(message.requests)
    to_store: list[tuple[int, Key, bytes]] = []
    memory = context.memory()
    place = -1
    async with aclosing(paced(message.requests)) as parts:
        async for requests in parts:
            for request in requests:
                place += 1
                try:
                    key, data = await _blob_in(context, request, memory)
                except CallFailed as error:
                    outcomes[place] = _alone(error)
                else:
                    to_store.append((place, key, data))
    for place in await _wrong(to_store):
        outcomes[place] = invalid("The bytes are not those of the digest")
    right = [each for each in to_store if outcomes[each[0]] is None and each[2]]
    for start, end in _slices([BlobReference(key.id, len(data)) for _, key, data in right]):
        some = right[start:end]
        batch = [(key, data) for _, key, data in some]
        published = await context.services.writer.publish_batch(batch, context.owner)
        for (place, _, _), outcome in zip(some, published, strict=True):
            outcomes[place] = _reason(outcome) if isinstance(outcome, StorageError) else None
    answer = BatchUpdateBlobsResponse()
    for request, failed in zip(message.requests, outcomes, strict=True):
        response = answer.responses.add(digest=request.digest, status=Status())
        if failed is not None:
            _set(response.status, failed)
    _count(context, "BatchUpdateBlobs", [each.status.code for each in answer.responses])
    return answer.SerializeToString()


async def _blob_in(
    context: CallContext, request: BatchUpdateBlobsRequest.Request, memory: MessageMemory
) -> tuple[Key, bytes]:
    """The blob in one request of a batch: its key, and as many bytes as its digest says.

    Raises:
        CallFailed: INVALID_ARGUMENT, there are more or fewer, or they are too many.
    """
    blob = blob_of(request.digest)
    most = context.settings.max_blob_bytes
    if blob.size > most:
        raise invalid(f"A blob of {blob.size} bytes is larger than {most} bytes")
    data = request.data
    if request.compressor:
        if request.compressor != ZSTD:
            raise invalid("The only compressor is zstd")
        if memory.amount + blob.size > context.settings.grpc_max_cas_bytes:
            raise invalid("The batch is too large")
        await memory.reserve(blob.size)
        data = decompressed_at_once(data, blob.size)
        await trio.lowlevel.checkpoint()
    if len(data) != blob.size:
        raise invalid(f"There are {len(data)} bytes, and the digest says {blob.size}")
    return Key(context.project, Kind.BLOB, blob.id), data


async def get_tree(context: CallContext, message: GetTreeRequest) -> AsyncGenerator[bytes, None]:
    """`GetTree`: all directories below one, each once, in pages; those that are missing left out.

    The token of a page is the number of directories before it.
    """
    check_function(message.digest_function)
    root = blob_of(message.root_digest)
    if message.page_size < 0:
        raise invalid("page_size is negative")
    size = min(message.page_size or PAGE_DIRECTORIES, PAGE_DIRECTORIES)
    token = message.page_token
    if token and not (token.isascii() and token.isdigit() and len(token) <= 6):
        raise invalid("page_token is invalid")
    if not await is_here(context, root):
        raise CallFailed(Code.NOT_FOUND, "The directory does not exist")
    return _pages(context, root, int(token or 0), size)


async def _pages(
    context: CallContext, root: BlobReference, skipped: int, size: int
) -> AsyncGenerator[bytes, None]:
    page: list[bytes] = []  # a GetTreeResponse: encoded here, no directory need be decoded
    page_bytes, number = 0, 0
    async with aclosing(directories_below(context, [root.packed()])) as found:
        async for data in found:
            number += 1
            if number <= skipped:
                continue
            if page and (len(page) >= size or page_bytes + len(data) > PAGE_BYTES):
                token = GetTreeResponse(next_page_token=str(number - 1)).SerializeToString()
                yield framed(b"".join((*page, token)))
                page, page_bytes = [], 0
            page.append(b"".join((_DIRECTORY, varint(len(data)), data)))
            page_bytes += len(data)
    yield framed(b"".join(page))


def _read_response(
    digest: Digest, data: bytes | StorageError | None, failed: CallFailed | None
) -> tuple[bytes, ...]:
    """A response of a `BatchReadBlobsResponse`, encoded, with its tag."""
    named = digest.SerializeToString()
    status = b""
    if failed is not None:
        status = Status(code=failed.code, message=failed.message).SerializeToString()
    fields = [_DIGEST, varint(len(named)), named, _STATUS, varint(len(status)), status]
    if not isinstance(data, bytes) or not data:
        head = b"".join(fields)
        return (_RESPONSE, varint(len(head)), head)
    head = b"".join((*fields, _DATA, varint(len(data))))
    return (_RESPONSE, varint(len(head) + len(data)), head, data)


def _slices(blobs: Sequence[BlobReference]) -> list[tuple[int, int]]:
    """Slices of `blobs` that are handled at once, each as its start and end."""
    slices, start, size = [], 0, 0
    for place, blob in enumerate(blobs):
        if place > start and (size + blob.size > READ_AT_ONCE or place - start >= BLOBS_AT_ONCE):
            slices.append((start, place))
            start, size = place, 0
        size += blob.size
    return [*slices, (start, len(blobs))] if blobs else []


async def _wrong(blobs: Sequence[tuple[int, Key, bytes]]) -> list[int]:
    """The first members of those blobs whose bytes are not what their ids say."""

    def wrong() -> list[int]:
        return [place for place, key, data in blobs if hashlib.sha256(data).hexdigest() != key.id]

    if sum(len(data) for _, _, data in blobs) <= CHECKED_HERE:
        return wrong()
    return await trio.to_thread.run_sync(wrong)


def _digest(blob: BlobReference) -> Digest:
    return Digest(hash=blob.id, size_bytes=blob.size)


def _reason(outcome: StorageError | Published | None) -> CallFailed:
    """The status of a blob that is not there, or of a disk that failed."""
    if isinstance(outcome, StorageError):
        return failure(outcome) or CallFailed(Code.INTERNAL, str(outcome))
    return CallFailed(Code.NOT_FOUND, "The blob does not exist")


def _alone(error: CallFailed) -> CallFailed:
    """A failure without its traceback, which would keep much else."""
    return CallFailed(error.code, error.message)


def _set(status: Status, error: CallFailed) -> None:
    status.code, status.message = error.code, error.message


def _count(context: CallContext, method: str, codes: Sequence[int]) -> None:
    for code in set(codes):
        blobs = context.metrics.batch_blobs.labels(method, Code(code).name)
        blobs.inc(sum(each == code for each in codes))
