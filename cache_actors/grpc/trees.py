"""Trees: the directories below others, and all blobs that they refer to.

Each is read once, and none is decoded but one node at a time, so what others have stored as trees
takes little memory. All together they are limited in bytes, since reading them takes time.
"""

from __future__ import annotations

from collections import deque
from contextlib import aclosing
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from cache_actors.storage.actions import BlobReference
from cache_actors.storage.errors import StorageError

from .blobs import contents
from .decoding import digests_in
from .digests import BLOBS_AT_ONCE, READ_AT_ONCE, blob_of
from .framing import COPIES
from .messages_pb2 import Directory, DirectoryNode, FileNode, Tree
from .status import CallFailed, Code, invalid

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from .context import CallContext

MAX_DIRECTORIES = 100_000
"""Largest number of directories in a tree."""

MAX_TREE_BYTES = 64 << 20
"""Largest size of all trees or directories that one call reads, in bytes."""

REFERENCE_BYTES = 160
"""Memory that a packed reference to a blob takes in a set, in bytes."""

_STEP = 1_000  # references; as many are kept without memory of the shares


class References:
    """Blobs, each once, and the memory for them until the call is answered.

    Args:
        context: the call.
        most: their largest number.
        what: the beginning of what is said if there are more.

    Attributes:
        packed: the blobs, as the file of an action names them.
    """

    def __init__(self, context: CallContext, most: int, what: str) -> None:
        self.packed: set[bytes] = set()
        self._memory = context.memory()
        self._most = most
        self._what = what

    async def add(self, blob: BlobReference) -> bool:
        """Add a blob, and return whether it is new.

        Raises:
            CallFailed: INVALID_ARGUMENT, there are too many.
            HttpError: 429, there is no memory for it.
        """
        packed = blob.packed()
        if packed in self.packed:
            return False
        if len(self.packed) >= self._most:
            raise invalid(f"{self._what} more than {self._most} blobs")
        if len(self.packed) % _STEP == _STEP - 1:
            await self._memory.reserve(_STEP * REFERENCE_BYTES)
        self.packed.add(packed)
        return True


async def add_trees(context: CallContext, found: References, trees: Iterable[bytes]) -> None:
    """Add `trees`, which are blobs with messages of the kind Tree, packed, and all files in them.

    Raises:
        CallFailed: INVALID_ARGUMENT, they are too large, or one is none; FAILED_PRECONDITION, one
            does not exist.
    """
    async with aclosing(_read(context, deque(trees))) as blobs:
        async for blob, data in blobs:
            await found.add(blob)
            if data is None:
                raise CallFailed(Code.FAILED_PRECONDITION, f"Blob {blob} does not exist")
            try:
                async with aclosing(digests_in(Tree, data, FileNode)) as digests:
                    async for digest in digests:
                        await found.add(blob_of(digest))
            except DecodeError:
                raise invalid("The tree of an output directory is none") from None


async def add_directories(context: CallContext, found: References, roots: Iterable[bytes]) -> None:
    """Add the directories `roots`, packed, all below them, and their files. Those missing are found
    when the action is stored.

    Raises:
        CallFailed: INVALID_ARGUMENT, they are too many or too large, or one is none.
    """
    async with aclosing(directories_below(context, roots, found)) as directories:
        async for data in directories:
            async with aclosing(digests_in(Directory, data, FileNode)) as digests:
                async for digest in digests:
                    await found.add(blob_of(digest))


async def directories_below(
    context: CallContext, roots: Iterable[bytes], found: References | None = None
) -> AsyncGenerator[bytes, None]:
    """The directories `roots` and all below them that exist, each once.

    Args:
        context: the call.
        roots: where to begin, packed.
        found: where all of them are added to, also those that do not exist.

    Raises:
        CallFailed: INVALID_ARGUMENT, they are too many or too large, or one is none.
    """
    seen = References(context, MAX_DIRECTORIES, "The tree has more directories than")
    todo: deque[bytes] = deque()
    for root in roots:
        if await seen.add(BlobReference.unpacked(root)):
            todo.append(root)
    async with aclosing(_read(context, todo)) as blobs:
        async for blob, data in blobs:
            if found is not None:
                await found.add(blob)
            if data is None:
                continue
            try:
                async with aclosing(digests_in(Directory, data, DirectoryNode)) as digests:
                    async for digest in digests:
                        below = blob_of(digest)
                        if await seen.add(below):
                            todo.append(below.packed())
            except DecodeError:
                raise invalid("A blob in the tree is no directory") from None
            yield data


async def _read(
    context: CallContext, todo: deque[bytes]
) -> AsyncGenerator[tuple[BlobReference, bytes | None], None]:
    """The blobs of `todo`, which may grow meanwhile, and their bytes; None if one does not exist.

    Raises:
        CallFailed: INVALID_ARGUMENT, all together are too large.
        StorageError: the disk failed.
    """
    memory, left = context.memory(), MAX_TREE_BYTES
    while todo:
        some: list[BlobReference] = []
        size = 0
        while todo and len(some) < BLOBS_AT_ONCE:
            blob = BlobReference.unpacked(todo[0])
            if some and size + blob.size > READ_AT_ONCE:
                break
            del todo[0]
            some.append(blob)
            size += blob.size
        left -= size
        if left < 0:
            raise invalid(f"The trees together are larger than {MAX_TREE_BYTES} bytes")
        memory.give_back()  # that of those before
        await memory.reserve(COPIES * size)
        found = await contents(context, some)
        for blob, data in zip(some, found, strict=True):
            if isinstance(data, StorageError):
                raise data
            yield blob, data
