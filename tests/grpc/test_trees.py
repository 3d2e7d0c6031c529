"""Trees are read within bounds: each once, a few at a time."""

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
from google.protobuf.message import Message

from cache_actors.grpc.action_cache import references
from cache_actors.grpc.digests import BLOBS_AT_ONCE, blob_of
from cache_actors.grpc.framing import CallMemory, MessageMemory
from cache_actors.grpc.messages_pb2 import (
    ActionResult,
    Directory,
    DirectoryNode,
    FileNode,
    OutputDirectory,
    Tree,
)
from cache_actors.grpc.status import CallFailed, Code
from cache_actors.grpc.trees import REFERENCE_BYTES, References, add_directories, add_trees
from cache_actors.storage.actions import BlobReference
from cache_actors.supervision import Shares

from .client import digest_of


class FakeCall:
    """A call, and the blobs that there are.

    Attributes:
        reads: how often each blob was read.
        at_once: how many were, each time.
    """

    def __init__(self, *blobs: Message, limit: int = 8 << 20) -> None:
        contents = [each.SerializeToString() for each in blobs]
        self._contents = {blob_of(digest_of(each)): each for each in contents}
        self.reads: Counter[BlobReference] = Counter()
        self.at_once: list[int] = []
        self.shares = Shares(limit)
        self.resources = ExitStack()
        self._memory = CallMemory(self.shares, ("project",))
        self.services = SimpleNamespace(reader=self, fetcher=None)
        self.project = "project"

    def memory(self) -> MessageMemory:
        self.resources.callback(self._memory.give_back)
        return MessageMemory(self._memory)

    async def contents(self, project: str, blobs: Sequence[BlobReference]) -> list[bytes | None]:
        assert project == self.project
        self.reads.update(blobs)
        self.at_once.append(len(blobs))
        return [self._contents.get(each) for each in blobs]


def packed(message: Message) -> bytes:
    return blob_of(digest_of(message.SerializeToString())).packed()


def file(name: str) -> FileNode:
    return FileNode(name=name, digest=digest_of(name.encode()))


def below(*directories: Directory) -> Directory:
    nodes = [DirectoryNode(digest=digest_of(each.SerializeToString())) for each in directories]
    return Directory(directories=nodes)


async def found_in(call: Any, add: Any, *roots: Message, most: int = 100_000) -> set[bytes]:
    found = References(call, most, "They are")
    await add(call, found, list(map(packed, roots)))
    return found.packed


def names(*wanted: str) -> set[bytes]:
    return {blob_of(digest_of(each.encode())).packed() for each in wanted}


async def test_trees_are_read_together_and_what_they_name_is_found() -> None:
    trees = [
        Tree(root=Directory(files=[file(f"{number}")]), children=[Directory(files=[file("same")])])
        for number in range(BLOBS_AT_ONCE + 1)
    ]
    call = FakeCall(*trees)
    found = await found_in(call, add_trees, *trees)
    assert found == {*map(packed, trees), *names("same", *map(str, range(BLOBS_AT_ONCE + 1)))}
    assert call.at_once == [BLOBS_AT_ONCE, 1]


async def test_tree_that_many_outputs_share_is_read_once() -> None:
    tree, root = Tree(root=Directory(files=[file("leaf")])), Directory(files=[file("leaf")])
    outputs = [
        OutputDirectory(
            path=f"{number}",
            tree_digest=digest_of(tree.SerializeToString()),
            root_directory_digest=digest_of(root.SerializeToString()),
        )
        for number in range(1_000)
    ]
    call: Any = FakeCall(tree, root)
    found = await references(call, ActionResult(output_directories=outputs))
    assert found.packed == {packed(tree), packed(root), *names("leaf")}
    assert set(call.reads.values()) == {1}


async def test_directory_that_many_share_is_read_once() -> None:
    leaf = Directory(files=[file("leaf")])
    middle = [
        Directory(files=[file(f"{n}")], directories=below(leaf).directories) for n in range(9)
    ]
    roots = [below(*middle[:5]), below(*middle[3:])]
    call = FakeCall(leaf, *middle, *roots)
    found = await found_in(call, add_directories, *roots, roots[0])
    assert found == {*map(packed, (leaf, *middle, *roots)), *names("leaf", *map(str, range(9)))}
    assert set(call.reads.values()) == {1}


async def test_directory_that_is_missing_is_among_what_is_referred_to() -> None:
    lost = Directory(files=[file("lost")])
    root = below(lost)
    assert await found_in(FakeCall(root), add_directories, root) == {packed(root), packed(lost)}


async def test_tree_that_is_missing_is_an_error() -> None:
    with pytest.raises(CallFailed) as failed:
        await found_in(FakeCall(), add_trees, Tree(root=Directory(files=[file("lost")])))
    assert failed.value.code == Code.FAILED_PRECONDITION


async def test_references_are_limited_and_their_memory_is_held_until_the_answer_is_sent() -> None:
    tree = Tree(root=Directory(files=[file(f"{number}") for number in range(3_000)]))
    call = FakeCall(tree)
    with pytest.raises(CallFailed, match="They are more than 2500 blobs"):
        await found_in(call, add_trees, tree, most=2_500)
    call.resources.close()
    await found_in(call, add_trees, tree)
    assert call.shares.taken > 3_000 * 80
    call.resources.close()
    assert call.shares.taken == 0


async def test_call_does_not_wait_for_the_memory_that_it_holds_itself() -> None:
    """The tree and what it names are more than half of all memory, which is a project's share."""
    tree = Tree(root=Directory(files=[file(f"{number}") for number in range(3_000)]))
    call = FakeCall(tree, limit=1_000_000)
    assert 2 * tree.ByteSize() < 500_000
    assert len(await found_in(call, add_trees, tree)) == 3_001
    assert call.shares.taken > 500_000


async def test_call_that_takes_more_than_there_is_says_how_much_that_is() -> None:
    tree = Tree(root=Directory(files=[file(f"{number}") for number in range(5_000)]))
    call = FakeCall(tree, limit=1_000_000)
    taken = 2 * tree.ByteSize() + 2_000 * REFERENCE_BYTES
    with pytest.raises(CallFailed, match=f"takes {taken} bytes of memory, and all calls have 1000"):
        await found_in(call, add_trees, tree)
