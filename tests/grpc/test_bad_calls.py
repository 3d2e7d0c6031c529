"""What is wrong is answered with its status, and nothing of it stays; the connection goes on."""

import os
import threading
from collections.abc import Callable
from functools import partial

import pytest

from cache_actors.access.grants import UNPAID
from cache_actors.grpc.digests import resource_in
from cache_actors.grpc.messages_pb2 import (
    ActionResult,
    BatchReadBlobsRequest,
    BatchUpdateBlobsRequest,
    BatchUpdateBlobsResponse,
    Digest,
    Directory,
    FileNode,
    FindMissingBlobsRequest,
    GetActionResultRequest,
    GetCapabilitiesRequest,
    GetTreeRequest,
    OutputDirectory,
    OutputFile,
    ReadRequest,
    Tree,
    UpdateActionResultRequest,
    WriteRequest,
)
from cache_actors.grpc.status import CallFailed, Code
from cache_actors.grpc.trees import MAX_TREE_BYTES
from tests.support.service import Service
from tests.support.waiting import eventually

from .client import (
    INSTANCE,
    UUID,
    GrpcConnection,
    Reply,
    blob_name,
    digest_of,
    framed,
    path_of,
    upload_name,
    zstd,
)
from .conftest import LIMITS

GOOD = GetCapabilitiesRequest(instance_name=INSTANCE)
HASH = "ab" * 32


def left_behind(service: Service) -> list[str]:
    """All files that are stored, and whether something is on its way."""
    stored = [str(each) for each in service.storage.glob("acme/app/*/*/*")]
    lines = service.up("/metrics").text.splitlines()
    return sorted(stored) + [each for each in lines if "_temporary_files " in each]


def expect(client: GrpcConnection, service: Service, code: Code, call: Callable[[], Reply]) -> None:
    """A call is answered with `code`, leaves nothing behind, and the connection goes on.

    It ends if the answer has come before the body, and says so.
    """
    before = left_behind(service)
    reply = call()
    assert (reply.status, reply.messages) == (code, []), reply.text
    if reply.headers.get("connection") != "close":
        assert client.call("GetCapabilities", GOOD).status == 0
    eventually(lambda: left_behind(service) == before)


# Frames and heads.


@pytest.mark.parametrize(
    ("pieces", "code"),
    [
        ([], Code.INVALID_ARGUMENT),
        ([b"\0"], Code.INVALID_ARGUMENT),
        ([b"\0\0\0\0"], Code.INVALID_ARGUMENT),
        ([framed(GOOD)[:-1]], Code.INVALID_ARGUMENT),
        ([framed(GOOD), b"\0"], Code.INVALID_ARGUMENT),
        ([framed(GOOD), framed(GOOD)], Code.INVALID_ARGUMENT),
        ([framed(GOOD, flag=1)], Code.INTERNAL),
        ([framed(GOOD, flag=2)], Code.INTERNAL),
        ([b"\0\xff\xff\xff\xff"], Code.RESOURCE_EXHAUSTED),
        ([framed(b"\xff\xff\xff")], Code.INVALID_ARGUMENT),
        ([framed(b"\x0a\x02\xff\xfe")], Code.INVALID_ARGUMENT),
    ],
)
def test_bad_frames(
    client: GrpcConnection, service: Service, pieces: list[bytes], code: Code
) -> None:
    expect(client, service, code, lambda: client.call("GetCapabilities", pieces=pieces))


def test_frames_may_come_in_any_pieces(client: GrpcConnection) -> None:
    data = framed(GOOD)
    pieces = [data[place : place + 1] for place in range(len(data))]
    assert client.call("GetCapabilities", pieces=pieces).status == 0
    large = BatchReadBlobsRequest(
        instance_name=INSTANCE, digests=[digest_of(b"%d" % n) for n in range(2000)]
    )
    data = framed(large)
    assert client.call("BatchReadBlobs", pieces=[data[:50_000], data[50_000:]]).status == 0


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"grpc-encoding": "gzip"}, Code.UNIMPLEMENTED),
        ({"Content-Type": "application/grpc+json"}, Code.UNIMPLEMENTED),
        ({"Content-Type": "application/grpc-web"}, Code.UNIMPLEMENTED),
        ({"grpc-timeout": "0m"}, Code.DEADLINE_EXCEEDED),
        ({"grpc-timeout": "1n"}, Code.DEADLINE_EXCEEDED),
        ({"grpc-timeout": "-1S"}, Code.INVALID_ARGUMENT),
        ({"grpc-timeout": "123456789S"}, Code.INVALID_ARGUMENT),
        ({"Authorization": None}, Code.UNAUTHENTICATED),
        ({"Authorization": "Bearer unknown"}, Code.UNAUTHENTICATED),
        ({"Authorization": "Bearer nobody"}, Code.PERMISSION_DENIED),
        ({"Authorization": "Bearer reader"}, Code.PERMISSION_DENIED),
        ({"Authorization": "Bearer " + "x" * 16_500}, Code.UNAUTHENTICATED),
    ],
)
def test_bad_heads(
    client: GrpcConnection, service: Service, headers: dict[str, str | None], code: Code
) -> None:
    expect(client, service, code, lambda: client.call("GetCapabilities", GOOD, headers=headers))


def test_call_that_waits_for_a_word_is_answered_with_trailers_too(client: GrpcConnection) -> None:
    client.begin(path_of("GetCapabilities"), {"Expect": "100-continue"})
    interim = client._received.readline() + client._received.readline()
    assert interim == b"HTTP/1.1 100 \r\n\r\n"
    client.send(framed(GOOD))
    client.end()
    assert client.reply().status == 0
    assert client.call("GetCapabilities", GOOD).status == 0


@pytest.mark.parametrize(
    "path",
    ["/", "/build.bazel.remote.execution.v2.Execution/Execute", path_of("Read") + "/", "/x/Read"],
)
def test_unknown_methods(client: GrpcConnection, service: Service, path: str) -> None:
    expect(client, service, Code.UNIMPLEMENTED, lambda: client.call(path, GOOD))


@pytest.mark.parametrize(
    ("instance", "code"),
    [
        ("", Code.PERMISSION_DENIED),
        ("lib", Code.PERMISSION_DENIED),  # of two accounts
        ("nothing", Code.PERMISSION_DENIED),
        ("other/app", Code.PERMISSION_DENIED),
        ("../app", Code.INVALID_ARGUMENT),
        ("acme/..", Code.INVALID_ARGUMENT),
        ("acme/app/more", Code.INVALID_ARGUMENT),
        ("acme/", Code.INVALID_ARGUMENT),
        (".tmp", Code.INVALID_ARGUMENT),
        ("acme/" + "a" * 101, Code.INVALID_ARGUMENT),
        ("acme/\u212apple", Code.INVALID_ARGUMENT),
    ],
)
def test_bad_instances(client: GrpcConnection, service: Service, instance: str, code: Code) -> None:
    message = FindMissingBlobsRequest(instance_name=instance)
    expect(client, service, code, lambda: client.call("FindMissingBlobs", message))


def test_message_for_an_instance_says_what_to_configure(client: GrpcConnection) -> None:
    reply = client.call("FindMissingBlobs", FindMissingBlobsRequest(instance_name="lib"))
    assert "GRPC_ACCOUNT" in reply.text
    assert "account/project" in reply.text


def test_project_alone_is_that_of_the_token_in_any_case(client: GrpcConnection) -> None:
    data = os.urandom(10)
    assert client.update(data, instance="APP") == [0]
    assert client.find_missing(digest_of(data), instance="Acme/App") == []
    assert client.find_missing(digest_of(data), instance="acme/lib") == [digest_of(data)]


def test_refusal_of_an_account_over_its_plan_says_so_to_tuists_clients(service: Service) -> None:
    message = FindMissingBlobsRequest(instance_name="acme/unpaid")
    with GrpcConnection(service.port, "Bearer unpaid") as client:
        reply = client.call("FindMissingBlobs", message)
    assert (reply.status, reply.text) == (Code.PERMISSION_DENIED, UNPAID)
    assert reply.trailers["tuist-refusal-reason"] == "payment_required"


def test_call_whose_trailers_would_be_lost_is_answered_without_any(
    client: GrpcConnection, service: Service
) -> None:
    expect(
        client,
        service,
        Code.UNIMPLEMENTED,
        lambda: client.call("GetCapabilities", GOOD, headers={"TE": None}),
    )


# Digests and names.

BAD_DIGESTS = [
    Digest(),
    Digest(hash=HASH, size_bytes=-1),
    Digest(hash=HASH, size_bytes=-(2**63)),
    Digest(hash=HASH, size_bytes=0),
    Digest(hash=HASH.upper(), size_bytes=1),
    Digest(hash=HASH[:-1], size_bytes=1),
    Digest(hash=HASH + "a", size_bytes=1),
    Digest(hash=HASH[:-1] + "\n", size_bytes=1),
    Digest(hash="../" * 21 + "a", size_bytes=1),
    Digest(hash=digest_of(b"").hash, size_bytes=1),
]


@pytest.mark.parametrize("digest", BAD_DIGESTS, ids=range(len(BAD_DIGESTS)))
def test_bad_digests(client: GrpcConnection, service: Service, digest: Digest) -> None:
    result = ActionResult(output_files=[OutputFile(path="x", digest=digest)])
    tree = ActionResult(output_directories=[OutputDirectory(path="x", tree_digest=digest)])
    action = digest_of(b"bad")
    for method, message in [
        (
            "FindMissingBlobs",
            FindMissingBlobsRequest(instance_name=INSTANCE, blob_digests=[digest]),
        ),
        (
            "GetActionResult",
            GetActionResultRequest(instance_name=INSTANCE, action_digest=digest),
        ),
        ("GetTree", GetTreeRequest(instance_name=INSTANCE, root_digest=digest)),
        *(
            (
                "UpdateActionResult",
                UpdateActionResultRequest(
                    instance_name=INSTANCE, action_digest=one, action_result=other
                ),
            )
            for one, other in [(digest, ActionResult()), (action, result), (action, tree)]
        ),
    ]:
        reply = client.call(method, message)
        assert (method, reply.status) == (method, Code.INVALID_ARGUMENT)
    assert client.read_batch(digest) == [(Code.INVALID_ARGUMENT, b"")]
    request = BatchUpdateBlobsRequest.Request(digest=digest, data=b"x")
    message = BatchUpdateBlobsRequest(instance_name=INSTANCE, requests=[request])
    assert b"\x08\x03" in client.call("BatchUpdateBlobs", message).messages[0]


BAD_NAMES = [
    "",
    "blobs",
    f"{INSTANCE}/blobs/{HASH}",
    f"{INSTANCE}/blobs/{HASH}/-1",
    f"{INSTANCE}/blobs/{HASH}/{2**63}",
    f"{INSTANCE}/blobs/{HASH}/1e3",
    f"{INSTANCE}/blobs/{HASH}/0x1",
    f"{INSTANCE}/blobs/{HASH}/01",
    f"{INSTANCE}/blobs/{HASH.upper()}/1",
    f"{INSTANCE}/blobs/{HASH[:10]}/1",
    f"{INSTANCE}/blobs/../../{HASH}/1",
    f"acme/../acme/app/blobs/{HASH}/1",
    f"/{INSTANCE}/blobs/{HASH}/1",
    f"{INSTANCE}/compressed-blobs/deflate/{HASH}/1",
    f"{INSTANCE}/compressed-blobs/{HASH}/1",
    f"{INSTANCE}/blobs/{HASH}/\u0661",
    f"{INSTANCE}/blobs/sha256/{HASH}/1",
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_names_of_resources(client: GrpcConnection, service: Service, name: str) -> None:
    bad = Code.INVALID_ARGUMENT
    expect(client, service, bad, lambda: client.call("Read", ReadRequest(resource_name=name)))
    write = WriteRequest(resource_name=name, data=b"x", finish_write=True)
    expect(client, service, bad, lambda: client.call("Write", write))
    upload = name.replace(f"{INSTANCE}/", f"{INSTANCE}/uploads/{UUID}/", 1)
    write = WriteRequest(resource_name=upload, data=b"x", finish_write=True)
    expect(client, service, bad, lambda: client.call("Write", write))


@pytest.mark.parametrize("uploads", ["", f"uploads/{UUID}/"])
def test_a_digest_function_in_a_name_is_told_as_what_it_is_not(uploads: str) -> None:
    with pytest.raises(CallFailed, match="hash of a digest"):
        resource_in(f"{INSTANCE}/{uploads}blobs/sha256/{HASH}/1", is_upload=bool(uploads))


# Limits.


def test_messages_that_are_too_large_are_refused_from_their_head(
    client: GrpcConnection, service: Service
) -> None:
    for method, limit in (
        ("UpdateActionResult", "GRPC_MAX_AC_BYTES"),
        (
            "BatchUpdateBlobs",
            "GRPC_MAX_CAS_BYTES",
        ),
    ):
        head = b"\0" + (int(LIMITS[limit]) + 1).to_bytes(4, "big")
        code = Code.RESOURCE_EXHAUSTED
        expect(client, service, code, partial(client.call, method, pieces=[head]))


@pytest.mark.parametrize("method", ["FindMissingBlobs", "BatchReadBlobs", "BatchUpdateBlobs"])
def test_message_whose_parts_take_more_memory_than_there_is_is_not_decoded(
    client: GrpcConnection, service: Service, method: str
) -> None:
    name = GetCapabilitiesRequest(instance_name=INSTANCE).SerializeToString()
    message = name + b"\x12\0" * 1_000_000  # field 2, empty: a digest, or a request
    full = Code.RESOURCE_EXHAUSTED
    expect(client, service, full, lambda: client.call(method, message))


def test_digests_at_once_from_several_clients_take_turns(service: Service) -> None:
    """Together they take more memory than there is, and each more than a client's share."""
    digests = [digest_of(b"turn %d" % number) for number in range(20_000)]
    found: list[list[Digest]] = []

    def find() -> None:
        with GrpcConnection(service.port) as client:
            found.append(client.find_missing(*digests))

    threads = [threading.Thread(target=find) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [digests] * 4


def test_trees_of_an_action_are_limited_in_bytes(client: GrpcConnection, service: Service) -> None:
    digest = Digest(hash=HASH, size_bytes=MAX_TREE_BYTES + 1)
    for output in (
        OutputDirectory(tree_digest=digest),
        OutputDirectory(root_directory_digest=digest),
    ):
        result = ActionResult(output_directories=[output])
        limit = Code.INVALID_ARGUMENT
        expect(client, service, limit, partial(client.put_action, digest_of(b"large"), result))


@pytest.mark.parametrize(
    ("before_the_name", "code"),
    [(b"", 0), (b"\x28\1", 0), (b"\x7a\x88\x27" + bytes(5000), Code.INVALID_ARGUMENT)],
)
def test_large_message_may_name_the_instance_anywhere_at_its_start(
    client: GrpcConnection, before_the_name: bytes, code: int
) -> None:
    name = GetCapabilitiesRequest(instance_name=INSTANCE).SerializeToString()
    data = os.urandom(100_000)
    blobs = BatchUpdateBlobsRequest()
    blobs.requests.add(digest=digest_of(data), data=data)
    reply = client.call("BatchUpdateBlobs", before_the_name + name + blobs.SerializeToString())
    assert reply.status == code
    assert code == 0 or "does not name the instance" in reply.text


def test_large_message_is_not_received_without_access(service: Service) -> None:
    with GrpcConnection(service.port, "Bearer reader") as client:
        message = BatchUpdateBlobsRequest(instance_name=INSTANCE)
        message.requests.add(digest=digest_of(b"x"), data=bytes(5_000_000))
        client.begin(path_of("BatchUpdateBlobs"))
        client.send(framed(message)[:10_000])
        assert client.reply().status == Code.PERMISSION_DENIED


def test_batch_of_more_than_fits_into_an_answer_is_refused(
    client: GrpcConnection, service: Service
) -> None:
    sizes = [2**62, 2**62, 1]
    digests = [Digest(hash=HASH, size_bytes=size) for size in sizes]
    message = BatchReadBlobsRequest(instance_name=INSTANCE, digests=digests)
    bad = Code.INVALID_ARGUMENT
    expect(client, service, bad, lambda: client.call("BatchReadBlobs", message))


def test_blob_that_is_too_large_is_refused_before_its_bytes(client: GrpcConnection) -> None:
    size = int(LIMITS["MAX_BLOB_BYTES"]) + 1
    name = f"{INSTANCE}/uploads/{UUID}/blobs/{HASH}/{size}"
    client.begin(path_of("Write"))
    client.send(framed(WriteRequest(resource_name=name, data=b"x")))
    assert client.reply().status == Code.INVALID_ARGUMENT


# Streams.


def stream(*messages: WriteRequest) -> list[bytes]:
    return [framed(each) for each in messages]


DATA = os.urandom(600_000)
NAME = upload_name(DATA)
HALF = len(DATA) // 2
PACKED = NAME.replace("/blobs/", "/compressed-blobs/zstd/")


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        stream(WriteRequest(resource_name=NAME, data=DATA, write_offset=1, finish_write=True)),
        stream(WriteRequest(resource_name=NAME, data=DATA[1:], finish_write=True)),
        stream(WriteRequest(resource_name=NAME, data=DATA + b"x", finish_write=True)),
        stream(WriteRequest(resource_name=NAME, data=DATA[::-1], finish_write=True)),
        stream(WriteRequest(resource_name=NAME, finish_write=True)),
        stream(
            WriteRequest(resource_name=NAME, data=DATA[:HALF]),
            WriteRequest(write_offset=0, data=DATA[HALF:], finish_write=True),
        ),
        stream(
            WriteRequest(resource_name=NAME, data=DATA[:HALF]),
            WriteRequest(resource_name=upload_name(b"other"), write_offset=HALF, data=b"x"),
        ),
        stream(
            WriteRequest(resource_name=NAME, data=DATA, finish_write=True),
            WriteRequest(write_offset=len(DATA), data=b"x"),
        ),
        stream(WriteRequest(resource_name=NAME, data=DATA, finish_write=True))[0][:-1:],
        stream(WriteRequest(resource_name=PACKED, data=DATA, finish_write=True)),
        stream(
            WriteRequest(resource_name=PACKED, data=zstd.compress(DATA)[:-5], finish_write=True)
        ),
        stream(
            WriteRequest(
                resource_name=PACKED, data=zstd.compress(bytes(50_000_000)), finish_write=True
            )
        ),
    ],
    ids=range(13),
)
def test_bad_streams(client: GrpcConnection, service: Service, pieces: list[bytes] | bytes) -> None:
    body = [pieces] if isinstance(pieces, bytes) else pieces
    bad = Code.INVALID_ARGUMENT
    expect(client, service, bad, lambda: client.call("Write", pieces=body))
    assert client.find_missing(digest_of(DATA)) == [digest_of(DATA)]


@pytest.mark.parametrize("size", [1000, 600_000])
def test_client_that_leaves_in_the_middle_leaves_nothing_behind(
    service: Service, client: GrpcConnection, size: int
) -> None:
    data = os.urandom(size)
    before = left_behind(service)
    with GrpcConnection(service.port) as leaving:
        leaving.begin(path_of("Write"))
        leaving.send(framed(WriteRequest(resource_name=upload_name(data), data=data[: size // 2])))
    eventually(lambda: left_behind(service) == before)
    with GrpcConnection(service.port) as leaving:
        leaving.begin(path_of("BatchUpdateBlobs"))
        message = BatchUpdateBlobsRequest(instance_name=INSTANCE)
        message.requests.add(digest=digest_of(data), data=data)
        leaving.send(framed(message)[:-10])
    eventually(lambda: left_behind(service) == before)
    assert client.find_missing(digest_of(data)) == [digest_of(data)]


def test_deadline_ends_a_stream_that_stalls(client: GrpcConnection, service: Service) -> None:
    before = left_behind(service)
    client.begin(path_of("Write"), {"grpc-timeout": "200m"})
    client.send(framed(WriteRequest(resource_name=NAME, data=DATA[:HALF])))
    assert client.reply().status == Code.DEADLINE_EXCEEDED
    eventually(lambda: left_behind(service) == before)


def test_tree_that_is_none_is_refused(client: GrpcConnection, service: Service) -> None:
    data = b"\xff" + os.urandom(20)
    client.update(data)
    result = ActionResult(
        output_directories=[OutputDirectory(path="x", tree_digest=digest_of(data))]
    )
    bad = Code.INVALID_ARGUMENT
    expect(client, service, bad, lambda: client.put_action(digest_of(b"no tree"), result))
    message = GetTreeRequest(instance_name=INSTANCE, root_digest=digest_of(data))
    expect(client, service, bad, lambda: client.call("GetTree", message))
    for fields in {"page_size": -1}, {"page_token": "x"}, {"page_token": "9" * 30}:
        root = Directory().SerializeToString()
        message = GetTreeRequest(
            instance_name=INSTANCE,
            root_digest=digest_of(root),
            **fields,
        )
        expect(client, service, bad, partial(client.call, "GetTree", message))


def test_digest_function_has_to_be_sha256(client: GrpcConnection, service: Service) -> None:
    message = FindMissingBlobsRequest(instance_name=INSTANCE, digest_function=8)
    bad = Code.INVALID_ARGUMENT
    expect(client, service, bad, lambda: client.call("FindMissingBlobs", message))


def test_blob_is_not_to_be_seen_over_http(client: GrpcConnection, service: Service) -> None:
    data = os.urandom(100)
    client.update(data)
    query = "account_handle=acme&project_handle=app"
    assert service.up(f"/api/cache/blob/{digest_of(data).hash}?{query}").status_code == 404
    assert client.read(blob_name(data)) == (0, data)


@pytest.mark.parametrize("frame", [zstd.compress(b""), b"\x50\x2a\x4d\x18\0\0\0\0"])
def test_many_frames_of_zstd_are_refused_before_they_are_all_decoded(
    client: GrpcConnection, service: Service, frame: bytes
) -> None:
    data = os.urandom(100)
    request = BatchUpdateBlobsRequest.Request(
        digest=digest_of(data), data=frame * 100_000, compressor=1
    )
    message = BatchUpdateBlobsRequest(instance_name=INSTANCE, requests=[request])
    before = left_behind(service)
    answer = client.call("BatchUpdateBlobs", message).one(BatchUpdateBlobsResponse)
    assert [each.status.code for each in answer.responses] == [Code.INVALID_ARGUMENT]
    assert left_behind(service) == before


def test_trees_of_one_action_need_not_fit_into_memory_together(client: GrpcConnection) -> None:
    trees = [
        Tree(root=Directory(files=[FileNode(name=f"{number} {each}") for each in range(60_000)]))
        for number in range(2)
    ]
    for tree in trees:
        for file in tree.root.files:
            file.digest.CopyFrom(digest_of(b""))
    contents = [tree.SerializeToString() for tree in trees]
    for content in contents:
        assert client.write(upload_name(content), content) == (0, len(content))
    result = ActionResult(
        output_directories=[OutputDirectory(tree_digest=digest_of(each)) for each in contents]
    )
    assert client.put_action(digest_of(os.urandom(10)), result).status == 0
