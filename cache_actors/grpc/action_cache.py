"""ActionCache: the results of actions, which are answered only if all their blobs are here."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

import trio
from google.protobuf.message import DecodeError

from cache_actors.actors.kv_store import CHECKED_AT_ONCE
from cache_actors.kinds import Kind
from cache_actors.storage.actions import BlobReference, packed_action, unpacked_action
from cache_actors.storage.errors import StorageError
from cache_actors.storage.layout import Key

from .content import directories_below
from .decoding import decoded
from .digests import blob_of, check_function
from .framing import COPIES
from .messages_pb2 import (
    ActionResult,
    Digest,
    GetActionResultRequest,
    Tree,
    UpdateActionResultRequest,
)
from .status import CallFailed, Code, invalid

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .context import CallContext
    from .framing import MessageMemory

INLINE_BYTES = 1 << 20
"""Largest number of bytes that are put into a result, instead of being fetched on their own."""

MAX_REFERENCES = 200_000
"""Largest number of blobs that an action may refer to, with all that is in its trees."""


async def get_action_result(context: CallContext, message: GetActionResultRequest) -> bytes:
    """`GetActionResult`: an action's result, if all its blobs are here; they are in use now."""
    check_function(message.digest_function)
    key = Key(context.project, Kind.ACTION, blob_of(message.action_digest).id)
    content = await context.services.keyvalue.get_action(key)
    if content is None:
        raise _not_found()
    blobs, result = unpacked_action(content)
    rest = blobs[CHECKED_AT_ONCE:]
    if rest and await context.services.reader.missing(context.project, rest):
        raise _not_found()
    if message.inline_stdout or message.inline_stderr or message.inline_output_files:
        return await _with_inlined(context, message, result)
    return result


async def update_action_result(context: CallContext, message: UpdateActionResultRequest) -> bytes:
    """`UpdateActionResult`: store the result of an action, all of whose blobs have to be here."""
    check_function(message.digest_function)
    key = Key(context.project, Kind.ACTION, blob_of(message.action_digest).id)
    result = message.action_result.SerializeToString()
    blobs = await _references(context, message.action_result)
    await context.services.keyvalue.put_action(key, packed_action(blobs, result), context.owner)
    return result


async def _with_inlined(
    context: CallContext, message: GetActionResultRequest, data: bytes
) -> bytes:
    """A result with what the client wants to have in it, as far as that is little."""
    result = await decoded(ActionResult(), data)
    wanted = set(message.inline_output_files)
    places: list[tuple[str, int, Digest]] = []
    if message.inline_stdout and not result.stdout_raw:
        places.append(("stdout", 0, result.stdout_digest))
    if message.inline_stderr and not result.stderr_raw:
        places.append(("stderr", 0, result.stderr_digest))
    for number, file in enumerate(result.output_files if wanted else ()):
        if file.path in wanted and not file.contents:
            places.append(("file", number, file.digest))
    left, fitting = INLINE_BYTES, []
    for place in places:
        size = place[2].size_bytes
        if 0 < size <= left:
            left -= size
            fitting.append((place, blob_of(place[2])))
    found = await context.services.reader.contents(context.project, [b for _, b in fitting])
    for ((what, number, _), _), content in zip(fitting, found, strict=True):
        if not isinstance(content, bytes):
            continue
        match what:
            case "stdout":
                result.stdout_raw = content
            case "stderr":
                result.stderr_raw = content
            case _:
                result.output_files[number].contents = content
    return result.SerializeToString()


async def _references(context: CallContext, result: ActionResult) -> set[BlobReference]:
    """All blobs that a result refers to, also from within the trees of its output directories.

    Raises:
        CallFailed: INVALID_ARGUMENT, a digest or a tree is invalid; FAILED_PRECONDITION, a tree
            does not exist.
    """
    blobs: set[BlobReference] = set()
    memory = context.memory()
    await _add(blobs, (file.digest for file in result.output_files))
    for name in "stdout_digest", "stderr_digest":
        if result.HasField(name):
            await _add(blobs, [getattr(result, name)])
    for output in result.output_directories:
        if not (output.HasField("tree_digest") or output.HasField("root_directory_digest")):
            raise invalid("An output directory has no digest")
        if output.HasField("tree_digest"):
            await _add(blobs, [output.tree_digest])
            memory.give_back()  # that of the tree before
            tree = await _tree(context, memory, blob_of(output.tree_digest))
            for directory in (tree.root, *tree.children):
                await _add(blobs, (file.digest for file in directory.files))
            del tree
        if output.HasField("root_directory_digest"):
            await _add_directories(context, blobs, blob_of(output.root_directory_digest))
    return blobs


async def _add(blobs: set[BlobReference], digests: Iterable[Digest]) -> None:
    """Add the blobs with those digests, and let others have their turn."""
    for digest in digests:
        blobs.add(blob_of(digest))
        if len(blobs) % 1000 == 0:
            await trio.lowlevel.checkpoint()
        if len(blobs) > MAX_REFERENCES:
            raise invalid(f"The action refers to more than {MAX_REFERENCES} blobs")


async def _tree(context: CallContext, memory: MessageMemory, blob: BlobReference) -> Tree:
    most = context.settings.grpc_max_cas_bytes
    if blob.size > most:
        raise invalid(f"A tree of {blob.size} bytes is larger than {most} bytes")
    await memory.reserve(COPIES * blob.size)
    [data] = await context.services.reader.contents(context.project, [blob])
    if isinstance(data, StorageError):
        raise data
    if data is None:
        raise _missing(blob)
    try:
        return await decoded(Tree(), data)
    except DecodeError:
        raise invalid("The tree of an output directory is none") from None


async def _add_directories(
    context: CallContext, blobs: set[BlobReference], root: BlobReference
) -> None:
    """Add a directory, all below it, and what they hold; those missing are found when it is
    stored."""
    blobs.add(root)
    async with aclosing(directories_below(context, [root])) as found:
        async for _, directory in found:
            await _add(blobs, (node.digest for node in directory.directories))
            await _add(blobs, (file.digest for file in directory.files))


def _not_found() -> CallFailed:
    return CallFailed(Code.NOT_FOUND, "The action has no result here")


def _missing(blob: BlobReference) -> CallFailed:
    return CallFailed(Code.FAILED_PRECONDITION, f"Blob {blob} does not exist")
