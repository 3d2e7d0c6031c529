"""ActionCache: the results of actions, which are answered only if all their blobs are here."""

from __future__ import annotations

from contextlib import aclosing
from itertools import islice
from typing import TYPE_CHECKING

from cache_actors.actors.kv_store import CHECKED_AT_ONCE
from cache_actors.kinds import Kind
from cache_actors.s3.outcome import Outcome
from cache_actors.storage.actions import blobs_in, packed_action, result_in
from cache_actors.storage.entries import MissingArtifact
from cache_actors.storage.layout import Key

from .blobs import contents, pull_blobs
from .decoding import decoded, weight
from .digests import BLOBS_AT_ONCE, blob_of, check_function, paced
from .framing import COPIES
from .messages_pb2 import (
    ActionResult,
    Digest,
    GetActionResultRequest,
    UpdateActionResultRequest,
)
from .status import CallFailed, Code, invalid
from .trees import References, add_directories, add_trees

if TYPE_CHECKING:
    from .context import CallContext

INLINE_BYTES = 1 << 20
"""Largest number of bytes that are put into a result, instead of being fetched on their own."""

MAX_REFERENCES = 200_000
"""Largest number of blobs that an action may refer to, with all that is in its trees."""


async def get_action_result(context: CallContext, message: GetActionResultRequest) -> bytes:
    """`GetActionResult`: an action's result, if all its blobs are here; they are in use now."""
    check_function(message.digest_function)
    key = Key(context.project, Kind.ACTION, blob_of(message.action_digest).id)
    content = await context.services.keyvalue.get_action(key)
    fetcher = context.services.fetcher
    if content is None and fetcher is not None and await fetcher.pull(key) is Outcome.HERE:
        content = await context.services.keyvalue.get_action(key)
    if content is None:
        raise _not_found()
    await context.hold(COPIES * len(content))
    rest = blobs_in(content, CHECKED_AT_ONCE)
    while some := list(islice(rest, BLOBS_AT_ONCE)):
        if await context.services.reader.missing(context.project, some):
            raise _not_found()
    result = result_in(content)
    if message.inline_stdout or message.inline_stderr or message.inline_output_files:
        return await _with_inlined(context, message, result)
    return result


async def update_action_result(context: CallContext, message: UpdateActionResultRequest) -> bytes:
    """`UpdateActionResult`: store the result of an action, all of whose blobs have to be here."""
    check_function(message.digest_function)
    key = Key(context.project, Kind.ACTION, blob_of(message.action_digest).id)
    result = message.action_result.SerializeToString()
    blobs = await references(context, message.action_result)
    content = packed_action(blobs.packed, result)
    keyvalue = context.services.keyvalue
    try:
        await keyvalue.put_action(key, content, context.owner)
    except MissingArtifact:
        if context.services.fetcher is None:
            raise
        await pull_blobs(context, blobs_in(content))
        await keyvalue.put_action(key, content, context.owner)
    return result


async def _with_inlined(
    context: CallContext, message: GetActionResultRequest, data: bytes
) -> bytes:
    """A result with what the client wants to have in it, as far as that is little."""
    objects = await weight(ActionResult, data, context.services.call_memory.limit)
    await context.hold(COPIES * len(data) + objects)
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
    await context.hold(COPIES * (INLINE_BYTES - left))
    found = await contents(context, [blob for _, blob in fitting])
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


async def references(context: CallContext, result: ActionResult) -> References:
    """All blobs that a result refers to, also from within the trees of its output directories.

    Raises:
        CallFailed: INVALID_ARGUMENT, a digest or a tree is invalid, or there are too many of them;
            FAILED_PRECONDITION, a tree does not exist.
    """
    found = References(context, MAX_REFERENCES, "The action refers to")
    trees: set[bytes] = set()
    roots: set[bytes] = set()
    async with aclosing(paced(result.output_files, MAX_REFERENCES)) as parts:
        async for files in parts:
            for file in files:
                await found.add(blob_of(file.digest))
    for name in "stdout_digest", "stderr_digest":
        if result.HasField(name):
            await found.add(blob_of(getattr(result, name)))
    async with aclosing(paced(result.output_directories, MAX_REFERENCES)) as parts:
        async for outputs in parts:
            for output in outputs:
                has_tree = output.HasField("tree_digest")
                has_root = output.HasField("root_directory_digest")
                if not (has_tree or has_root):
                    raise invalid("An output directory has no digest")
                if has_tree:
                    trees.add(blob_of(output.tree_digest).packed())
                if has_root:
                    roots.add(blob_of(output.root_directory_digest).packed())
    await add_trees(context, found, trees)
    await add_directories(context, found, roots)
    return found


def _not_found() -> CallFailed:
    return CallFailed(Code.NOT_FOUND, "The action has no result here")
