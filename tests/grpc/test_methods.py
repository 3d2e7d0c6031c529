"""Each method does what the API says."""

import os
from collections.abc import Iterator

import pytest
from google.protobuf.message import Message

from cache_actors.grpc.messages_pb2 import (
    ActionResult,
    BatchUpdateBlobsRequest,
    BatchUpdateBlobsResponse,
    Digest,
    Directory,
    DirectoryNode,
    FileNode,
    GetActionResultRequest,
    GetCapabilitiesRequest,
    GetTreeRequest,
    GetTreeResponse,
    OutputDirectory,
    OutputFile,
    QueryWriteStatusRequest,
    QueryWriteStatusResponse,
    ServerCapabilities,
    Tree,
)
from cache_actors.grpc.status import Code
from tests.support.service import Service
from tests.support.waiting import eventually

from .client import INSTANCE, GrpcConnection, blob_name, digest_of, upload_name, zstd
from .conftest import LIMITS

SMALL, LARGE = 1000, 3_000_000


@pytest.fixture
def blob() -> bytes:
    return os.urandom(SMALL)


def test_capabilities_are_what_the_service_does(client: GrpcConnection) -> None:
    reply = client.call("GetCapabilities", GetCapabilitiesRequest(instance_name=INSTANCE))
    cache = reply.one(ServerCapabilities).cache_capabilities
    assert list(cache.digest_functions) == [1]
    assert cache.action_cache_update_capabilities.update_enabled
    assert cache.max_cas_blob_size_bytes == int(LIMITS["MAX_BLOB_BYTES"])
    assert 0 < cache.max_batch_total_size_bytes <= int(LIMITS["GRPC_MAX_CAS_BYTES"])


# Blobs in batches.


def test_batch_is_found_and_read_once_it_is_stored(client: GrpcConnection, blob: bytes) -> None:
    other = os.urandom(LARGE)
    digests = [digest_of(blob), digest_of(other), digest_of(b"")]
    assert client.find_missing(*digests, digests[0]) == digests[:2]
    assert client.update(blob, other, b"") == [0, 0, 0]
    assert client.find_missing(*digests) == []
    found = client.read_batch(digests[1], digest_of(b"never"), *digests)
    assert found == [(0, other), (Code.NOT_FOUND, b""), (0, blob), (0, other), (0, b"")]


def test_bytes_that_are_not_the_digests_are_not_stored_and_hurt_no_others(
    client: GrpcConnection, blob: bytes
) -> None:
    wrong = digest_of(os.urandom(SMALL))
    short = Digest(hash=digest_of(b"abc").hash, size_bytes=2)
    requests = [
        BatchUpdateBlobsRequest.Request(digest=wrong, data=blob),
        BatchUpdateBlobsRequest.Request(digest=digest_of(blob), data=blob),
        BatchUpdateBlobsRequest.Request(digest=short, data=b"abc"),
        BatchUpdateBlobsRequest.Request(digest=digest_of(b""), data=b"x"),
        BatchUpdateBlobsRequest.Request(digest=digest_of(b"y"), data=b"y", compressor=2),
    ]
    message = BatchUpdateBlobsRequest(instance_name=INSTANCE, requests=requests)
    answer = client.call("BatchUpdateBlobs", message).one(BatchUpdateBlobsResponse)
    assert [each.digest for each in answer.responses] == [each.digest for each in requests]
    assert [each.status.code for each in answer.responses] == [3, 0, 3, 3, 3]
    assert client.find_missing(wrong, digest_of(blob), short) == [wrong, short]


@pytest.mark.nightly
@pytest.mark.parametrize(("number", "size"), [(10_000, 100), (3_900, 2_000)])
def test_batch_of_many_small_blobs_has_the_memory_that_it_takes(
    client: GrpcConnection, number: int, size: int
) -> None:
    blobs = [os.urandom(size) for _ in range(number)]
    assert set(client.update(*blobs)) == {0}


def test_compressed_batch_is_stored_as_it_was_before(client: GrpcConnection, blob: bytes) -> None:
    def request(digest: Digest, data: bytes) -> BatchUpdateBlobsRequest.Request:
        return BatchUpdateBlobsRequest.Request(digest=digest, data=data, compressor=1)

    bomb = digest_of(b"bomb")
    requests = [
        request(digest_of(blob), zstd.compress(blob)),
        request(bomb, zstd.compress(bytes(5_000_000))),
        request(digest_of(b"cut"), zstd.compress(b"cut")[:-1]),
        request(digest_of(b"none"), b"none"),
    ]
    message = BatchUpdateBlobsRequest(instance_name=INSTANCE, requests=requests)
    answer = client.call("BatchUpdateBlobs", message).one(BatchUpdateBlobsResponse)
    assert [each.status.code for each in answer.responses] == [0, 3, 3, 3]
    assert client.read_batch(digest_of(blob)) == [(0, blob)]


def test_ten_thousand_digests_are_looked_for_at_once(client: GrpcConnection, blob: bytes) -> None:
    client.update(blob)
    absent = [digest_of(b"absent %d" % number) for number in range(10_000)]
    assert client.find_missing(*absent[:5000], digest_of(blob), *absent[5000:]) == absent


def test_empty_batches_are_answered(client: GrpcConnection) -> None:
    assert client.find_missing() == []
    assert client.update() == []
    assert client.read_batch() == []


# Actions.


def result_of(*files: bytes, **fields: object) -> ActionResult:
    outputs = [
        OutputFile(path=f"out/{number}", digest=digest_of(data))
        for number, data in enumerate(files)
    ]
    return ActionResult(output_files=outputs, **fields)  # type: ignore[arg-type]


def test_result_is_answered_as_it_came_and_can_be_replaced(
    client: GrpcConnection, blob: bytes
) -> None:
    action = digest_of(b"action of " + blob)
    assert client.get_action(action).status == Code.NOT_FOUND
    client.update(blob)
    result = result_of(blob, b"", exit_code=3, stderr_raw=b"warning")
    unknown = ActionResult.FromString(result.SerializeToString() + b"\x9a\x06\x03new")
    assert client.put_action(action, unknown).one(ActionResult) == unknown
    assert client.get_action(action).messages == [unknown.SerializeToString()]
    assert client.put_action(action, result_of()).one(ActionResult) == result_of()
    assert client.get_action(action).messages == [b""]


def directory(
    files: dict[str, bytes], directories: dict[str, Directory] | None = None
) -> Directory:
    below = (directories or {}).items()
    return Directory(
        files=[FileNode(name=name, digest=digest_of(data)) for name, data in files.items()],
        directories=[DirectoryNode(name=n, digest=digest_of(encoded(d))) for n, d in below],
    )


def encoded(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)


def results_with_one_blob(blob: bytes) -> Iterator[tuple[str, ActionResult, list[bytes]]]:
    """Results that refer to `blob` in one way each, and the other blobs that they need."""
    inner = directory({"file": blob})
    tree = encoded(Tree(root=directory({}, {"inner": inner}), children=[inner]))
    outer = directory({}, {"inner": inner})
    yield "file", result_of(blob), []
    yield "stdout", ActionResult(stdout_digest=digest_of(blob)), []
    yield "stderr", ActionResult(stderr_digest=digest_of(blob)), []
    in_tree = OutputDirectory(path="d", tree_digest=digest_of(tree))
    yield "tree", ActionResult(output_directories=[in_tree]), [tree]
    in_root = OutputDirectory(path="d", root_directory_digest=digest_of(encoded(outer)))
    directories = [encoded(outer), encoded(inner)]
    yield "root", ActionResult(output_directories=[in_root]), directories


@pytest.mark.parametrize("way", ["file", "stdout", "stderr", "tree", "root"])
def test_action_is_neither_stored_nor_answered_without_a_blob(
    client: GrpcConnection, service: Service, blob: bytes, way: str
) -> None:
    [(_, result, others)] = [each for each in results_with_one_blob(blob) if each[0] == way]
    action = digest_of(way.encode() + blob)
    for needed in others, [blob]:
        reply = client.put_action(action, result)
        assert reply.status == Code.FAILED_PRECONDITION
        assert client.get_action(action).status == Code.NOT_FOUND
        client.update(*needed)
    assert client.put_action(action, result).one(ActionResult) == result
    assert client.get_action(action).one(ActionResult) == result
    for lost in blob, *others:
        digest = digest_of(lost).hash
        (service.storage / "acme/app/blob" / digest[2:4] / digest).unlink()
        assert client.get_action(action).status == Code.NOT_FOUND
        client.update(lost)
        assert client.get_action(action).status == 0


def test_blob_of_another_size_is_none_of_an_action(
    client: GrpcConnection, service: Service, blob: bytes
) -> None:
    client.update(blob)
    hash_ = digest_of(blob).hash
    result = ActionResult(stdout_digest=Digest(hash=hash_, size_bytes=SMALL + 1))
    reply = client.put_action(digest_of(b"size" + blob), result)
    assert reply.status == Code.FAILED_PRECONDITION

    def lines() -> list[dict[str, object]]:
        request_id = reply.headers["x-request-id"]
        missing = service.logged("artifact_missing")
        return [line for line in missing if line["request_id"] == request_id]

    eventually(lines)
    [line] = lines()
    assert (line["artifact"], line["stored"]) == (f"{hash_}/{SMALL + 1}", False)
    assert line["project"] == "acme/app"


def test_action_with_more_blobs_than_are_looked_for_at_once_needs_the_last(
    client: GrpcConnection, service: Service
) -> None:
    blobs = [b"%d of many" % number for number in range(200)]
    client.update(*blobs)
    action = digest_of(b"many")
    client.put_action(action, result_of(*blobs)).one(ActionResult)
    assert client.get_action(action).status == 0
    last = max(digest_of(each).hash for each in blobs)
    (service.storage / "acme/app/blob" / last[2:4] / last).unlink()
    assert client.get_action(action).status == Code.NOT_FOUND


def test_small_outputs_are_inlined_if_they_are_asked_for(
    client: GrpcConnection, blob: bytes
) -> None:
    large = os.urandom(LARGE)
    client.update(blob, large, b"out")
    action = digest_of(b"inlined" + blob)
    result = result_of(blob, large, stdout_digest=digest_of(b"out"))
    client.put_action(action, result)
    request = GetActionResultRequest(
        instance_name=INSTANCE,
        action_digest=action,
        inline_stdout=True,
        inline_stderr=True,
        inline_output_files=["out/0", "out/1", "none"],
    )
    found = client.call("GetActionResult", request).one(ActionResult)
    assert found.stdout_raw == b"out"
    assert [file.contents for file in found.output_files] == [blob, b""]


# Trees.


def tree_pages(client: GrpcConnection, **fields: object) -> list[GetTreeResponse]:
    reply = client.call("GetTree", GetTreeRequest(instance_name=INSTANCE, **fields))  # type: ignore[arg-type]
    assert reply.status == 0
    return [GetTreeResponse.FromString(each) for each in reply.messages]


def test_tree_is_answered_in_pages_each_directory_once(client: GrpcConnection) -> None:
    leaf = directory({"leaf": os.urandom(8)})
    lost = directory({"lost": b"lost"})
    middle = [directory({}, {f"{number}": leaf}) for number in range(5)]
    root = directory({}, {str(n): each for n, each in enumerate([*middle, lost])})
    client.update(*map(encoded, [leaf, *middle, root]))
    digest = digest_of(encoded(root))
    [whole] = tree_pages(client, root_digest=digest)
    assert whole.directories[0] == root
    assert len(whole.directories) == 7
    assert whole.next_page_token == ""
    pages = tree_pages(client, root_digest=digest, page_size=3)
    assert [len(page.directories) for page in pages] == [3, 3, 1]
    token = pages[0].next_page_token
    rest = tree_pages(client, root_digest=digest, page_size=100, page_token=token)
    assert list(rest[0].directories) == list(whole.directories)[3:]
    reply = client.call(
        "GetTree", GetTreeRequest(instance_name=INSTANCE, root_digest=digest_of(encoded(lost)))
    )
    assert reply.status == Code.NOT_FOUND


# Streams.


@pytest.mark.parametrize("size", [1, SMALL, LARGE])
def test_blob_is_read_as_it_was_written_whole_or_in_part(client: GrpcConnection, size: int) -> None:
    data = os.urandom(size)
    half = size // 2
    assert client.read(blob_name(data))[0] == Code.NOT_FOUND
    assert client.write(upload_name(data), data[:half], data[half:]) == (0, size)
    assert client.read(blob_name(data)) == (0, data)
    assert client.read(blob_name(data), half, 0) == (0, data[half:])
    assert client.read(blob_name(data), half, 1) == (0, data[half : half + 1])
    assert client.read(blob_name(data), 0, size + 5) == (0, data)
    assert client.read(blob_name(data), size) == (0, b"")
    for offset in (-1, size + 1):
        assert client.read(blob_name(data), offset)[0] == Code.OUT_OF_RANGE
    assert client.read(blob_name(data), 0, -1)[0] == Code.INVALID_ARGUMENT


def test_empty_blob_is_written_and_read_and_never_stored(
    client: GrpcConnection, service: Service
) -> None:
    assert client.write(upload_name(b""), b"") == (0, 0)
    assert client.read(blob_name(b"")) == (0, b"")
    digest = digest_of(b"").hash
    assert not (service.storage / "acme/app/blob" / digest[2:4] / digest).exists()


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_compressed_stream_is_the_same_blob(client: GrpcConnection, size: int) -> None:
    data = os.urandom(size // 2) + bytes(size - size // 2)
    packed = zstd.compress(data)
    upload = upload_name(data).replace("/blobs/", "/compressed-blobs/zstd/")
    blob = blob_name(data).replace("/blobs/", "/compressed-blobs/zstd/")
    half = len(packed) // 2
    assert client.write(upload, packed[:half], packed[half:]) == (0, len(packed))
    assert client.read(blob_name(data)) == (0, data)
    status, compressed = client.read(blob)
    assert (status, zstd.decompress(compressed)) == (0, data)
    status, compressed = client.read(blob, size - 10)
    assert (status, zstd.decompress(compressed)) == (0, data[-10:])
    assert client.read(blob, 0, 5)[0] == Code.INVALID_ARGUMENT


def test_write_status_is_all_or_nothing(client: GrpcConnection) -> None:
    data = os.urandom(LARGE)

    def status() -> tuple[int, bool]:
        request = QueryWriteStatusRequest(resource_name=upload_name(data))
        answer = client.call("QueryWriteStatus", request).one(QueryWriteStatusResponse)
        return answer.committed_size, answer.complete

    assert status() == (0, False)
    assert client.write(upload_name(data), data[:100], finish=False) == (0, 0)
    assert status() == (0, False)
    assert client.write(upload_name(data), data) == (0, LARGE)
    assert status() == (LARGE, True)


def test_blob_that_exists_is_answered_before_all_of_it_has_come(client: GrpcConnection) -> None:
    data = os.urandom(LARGE)
    assert client.write(upload_name(data), data) == (0, LARGE)
    assert client.write(upload_name(data), data[:1000], data[1000:]) == (0, LARGE)
    # Only a part, and not finished: what is stored already is complete all the same.
    assert client.write(upload_name(data), data[:1000], finish=False) == (0, LARGE)
