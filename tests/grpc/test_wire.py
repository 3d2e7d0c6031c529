"""What a message takes is known before it is decoded."""

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import given
from hypothesis import strategies as st

from cache_actors.grpc.framing import leading_name, varint
from cache_actors.grpc.messages_pb2 import (
    BatchReadBlobsRequest,
    BatchUpdateBlobsRequest,
    Digest,
    Directory,
    DirectoryNode,
    FileNode,
    FindMissingBlobsRequest,
    GetActionResultRequest,
    Tree,
    UpdateActionResultRequest,
)
from cache_actors.grpc.wire import fields, fields_of


def field(number: int, value: bytes = b"") -> bytes:
    return bytes([number << 3 | 2]) + varint(len(value)) + value


MANY = 50_000

HEAVY: dict[str, tuple[type[Message], bytes]] = {
    "digests": (FindMissingBlobsRequest, field(2) * MANY),
    "digests with an unknown field": (FindMissingBlobsRequest, field(2, b"\x78\1") * MANY),
    "texts in a digest": (FindMissingBlobsRequest, field(2, field(1, b"a") * MANY)),
    "requests": (BatchUpdateBlobsRequest, field(2, field(1)) * MANY),
    "files": (UpdateActionResultRequest, field(3, field(2, field(2)) * MANY)),
    "outputs": (UpdateActionResultRequest, field(3, field(3, field(3) + field(5)) * MANY)),
    "directories": (Tree, field(2, field(1) + field(2)) * MANY),
    "texts": (GetActionResultRequest, field(5, b"a") * MANY),
    "numbers": (BatchReadBlobsRequest, field(3, b"\1" * MANY)),
}

GROWTH = """
import sys
from cache_actors.grpc import messages_pb2

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

message, data = getattr(messages_pb2, sys.argv[1])(), sys.stdin.buffer.read()
before = resident()
message.ParseFromString(data)
print(resident() - before)
"""


@pytest.mark.parametrize("case", HEAVY)
def test_message_takes_no_more_memory_than_its_bytes_and_its_fields_weigh(case: str) -> None:
    kind, data = HEAVY[case]
    weight = sum(
        found.each + found.per_byte * (end - start)
        for found, _, start, end in fields(data, fields_of(kind.DESCRIPTOR))
    )
    program = [sys.executable, "-c", GROWTH, kind.DESCRIPTOR.name]
    root = Path(__file__).parents[2]
    said = subprocess.run(program, input=data, stdout=subprocess.PIPE, check=True, cwd=root)
    assert int(said.stdout) <= len(data) + weight + 500_000


names = st.text(max_size=5)
digests = st.builds(Digest, hash=names, size_bytes=st.integers(-(2**63), 2**63 - 1))
directories = st.builds(
    Directory,
    files=st.lists(st.builds(FileNode, name=names, digest=digests), max_size=3),
    directories=st.lists(st.builds(DirectoryNode, name=names, digest=digests), max_size=3),
)
trees = st.builds(Tree, root=directories, children=st.lists(directories, max_size=3))


@given(trees)
def test_messages_within_a_message_are_found_where_they_are(tree: Tree) -> None:
    data = tree.SerializeToString()
    found = [
        FileNode.FromString(data[start:end])
        for each, _, start, end in fields(data, fields_of(Tree.DESCRIPTOR))
        if each.kind == "FileNode"
    ]
    assert found == [file for each in (tree.root, *tree.children) for file in each.files]


def is_refused(data: bytes) -> bool:
    try:
        list(fields(data, fields_of(Tree.DESCRIPTOR)))
    except DecodeError:
        return True
    return False


@given(trees, st.data())
def test_what_is_cut_short_is_no_message(tree: Tree, data: st.DataObject) -> None:
    whole = tree.SerializeToString()
    cut = whole[: data.draw(st.integers(0, len(whole)))]
    if is_refused(cut):
        with pytest.raises(DecodeError):
            Tree.FromString(cut)


@given(st.binary(max_size=30))
def test_what_a_parser_takes_is_looked_through_or_refused(data: bytes) -> None:
    if not is_refused(data):
        ends = [end for _, depth, _, end in fields(data, {}) if not depth]
        assert ends[-1:] == ([len(data)] if data else [])


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"", ""),
        (field(1, b"acme/app"), "acme/app"),
        (b"\x28\1" + field(2, b"other") + field(1, b"acme/app") + b"\x12", "acme/app"),
        (field(2, b"other"), ""),
        (field(1, b"acme/app")[:-1], ""),
        (field(1, b"a" * 300), "a" * 300),
        (b"\x12\xff\xff\xff\xff", ""),
        (b"\x0b", ""),
    ],
)
def test_name_is_found_at_the_start_of_a_message(start: bytes, name: str) -> None:
    assert leading_name(start) == name
