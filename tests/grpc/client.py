"""A client of calls by gRPC over HTTP/1.1, as nginx passes them on; it sends what it is told to."""

import hashlib
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self, TypeVar

from google.protobuf.message import Message

from cache_actors.grpc.messages_pb2 import (
    ActionResult,
    BatchReadBlobsRequest,
    BatchReadBlobsResponse,
    BatchUpdateBlobsRequest,
    BatchUpdateBlobsResponse,
    Digest,
    FindMissingBlobsRequest,
    FindMissingBlobsResponse,
    GetActionResultRequest,
    ReadRequest,
    ReadResponse,
    UpdateActionResultRequest,
    WriteRequest,
    WriteResponse,
)

if sys.version_info >= (3, 14):
    from compression import zstd as zstd
else:
    from backports import zstd as zstd

TIMEOUT = 60.0
INSTANCE = "acme/app"
TOKEN = "Bearer token"
UUID = "6f9619ff-8b86-4011-b42d-00cf4fc964ff"

SERVICES = {
    "GetCapabilities": "build.bazel.remote.execution.v2.Capabilities",
    "GetActionResult": "build.bazel.remote.execution.v2.ActionCache",
    "UpdateActionResult": "build.bazel.remote.execution.v2.ActionCache",
    "Read": "google.bytestream.ByteStream",
    "Write": "google.bytestream.ByteStream",
    "QueryWriteStatus": "google.bytestream.ByteStream",
}
CAS = "build.bazel.remote.execution.v2.ContentAddressableStorage"

AnyMessage = TypeVar("AnyMessage", bound=Message)


def framed(message: Message | bytes, flag: int = 0) -> bytes:
    data = message if isinstance(message, bytes) else message.SerializeToString()
    return struct.pack(">BI", flag, len(data)) + data


def digest_of(data: bytes) -> Digest:
    return Digest(hash=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def path_of(method: str) -> str:
    return f"/{SERVICES.get(method, CAS)}/{method}"


@dataclass(frozen=True, slots=True)
class Reply:
    """What a call was answered with: its status, its message for people, and its messages.

    One without a body has its trailers among its headers.
    """

    status: int
    text: str
    messages: list[bytes]
    headers: dict[str, str]
    trailers: dict[str, str]

    def one(self, kind: type[AnyMessage]) -> AnyMessage:
        """The only message, of a call that went well."""
        assert (self.status, self.text, len(self.messages)) == (0, "", 1)
        return kind.FromString(self.messages[0])


class GrpcConnection:
    """One connection; as a context manager, closed in the end."""

    def __init__(self, port: int, token: str | None = TOKEN) -> None:
        self._token = token
        self.socket = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._received.close()
        self.socket.close()

    def begin(self, path: str, headers: dict[str, str | None] | None = None) -> None:
        """Send the head of a call; a header with None is left out."""
        usual: dict[str, str | None] = {
            "Host": "cache.example",
            "Content-Type": "application/grpc",
            "TE": "trailers",
            "Transfer-Encoding": "chunked",
            "Authorization": self._token,
            **(headers or {}),
        }
        lines = [f"{name}: {value}\r\n" for name, value in usual.items() if value is not None]
        self.socket.sendall(f"POST {path} HTTP/1.1\r\n{''.join(lines)}\r\n".encode())

    def send(self, data: bytes) -> None:
        """Send a piece of the body."""
        self.socket.sendall(b"%x\r\n%s\r\n" % (len(data), data))

    def end(self) -> None:
        """Send the end of the body."""
        self.socket.sendall(b"0\r\n\r\n")

    def reply(self) -> Reply:
        """Receive an answer."""
        head = self._received.readline()
        assert head.startswith(b"HTTP/1.1 200 "), head
        headers = self._headers()
        assert headers["content-type"] == "application/grpc"
        body = bytearray()
        if "content-length" in headers:
            return Reply(int(headers["grpc-status"]), headers["grpc-message"], [], headers, headers)
        while size := int(self._received.readline(), 16):
            body += self._received.read(size)
            assert self._received.read(2) == b"\r\n"
        trailers = self._headers()
        status = int(trailers["grpc-status"])
        messages = list(_messages(bytes(body)))
        return Reply(status, trailers.get("grpc-message", ""), messages, headers, trailers)

    def _headers(self) -> dict[str, str]:
        lines = iter(self._received.readline, b"\r\n")
        pairs = (line.decode().rstrip("\r\n").partition(": ") for line in lines)
        return {name.lower(): value for name, _, value in pairs}

    def call(
        self,
        method: str,
        *messages: Message | bytes,
        headers: dict[str, str | None] | None = None,
        pieces: Iterable[bytes] | None = None,
    ) -> Reply:
        """Send messages, or any `pieces` of a body, and receive the answer."""
        self.begin(path_of(method) if not method.startswith("/") else method, headers)
        for piece in [framed(each) for each in messages] if pieces is None else pieces:
            self.send(piece)
        self.end()
        return self.reply()

    # What tests do most, and what has to go well.

    def find_missing(self, *digests: Digest, instance: str = INSTANCE) -> list[Digest]:
        message = FindMissingBlobsRequest(instance_name=instance, blob_digests=digests)
        found = self.call("FindMissingBlobs", message).one(FindMissingBlobsResponse)
        return list(found.missing_blob_digests)

    def update(self, *blobs: bytes, instance: str = INSTANCE) -> list[int]:
        requests = [
            BatchUpdateBlobsRequest.Request(digest=digest_of(each), data=each) for each in blobs
        ]
        message = BatchUpdateBlobsRequest(instance_name=instance, requests=requests)
        answer = self.call("BatchUpdateBlobs", message).one(BatchUpdateBlobsResponse)
        return [each.status.code for each in answer.responses]

    def read_batch(self, *digests: Digest, instance: str = INSTANCE) -> list[tuple[int, bytes]]:
        message = BatchReadBlobsRequest(instance_name=instance, digests=digests)
        answer = self.call("BatchReadBlobs", message).one(BatchReadBlobsResponse)
        assert [each.digest for each in answer.responses] == list(digests)
        return [(each.status.code, each.data) for each in answer.responses]

    def put_action(self, action: Digest, result: ActionResult, instance: str = INSTANCE) -> Reply:
        message = UpdateActionResultRequest(
            instance_name=instance, action_digest=action, action_result=result
        )
        return self.call("UpdateActionResult", message)

    def get_action(self, action: Digest, instance: str = INSTANCE) -> Reply:
        message = GetActionResultRequest(instance_name=instance, action_digest=action)
        return self.call("GetActionResult", message)

    def read(self, name: str, offset: int = 0, limit: int = 0) -> tuple[int, bytes]:
        message = ReadRequest(resource_name=name, read_offset=offset, read_limit=limit)
        reply = self.call("Read", message)
        return reply.status, b"".join(ReadResponse.FromString(m).data for m in reply.messages)

    def write(self, name: str, *pieces: bytes, finish: bool = True) -> tuple[int, int]:
        """Write pieces, and return the status and the committed size."""
        messages, at = [], 0
        for number, piece in enumerate(pieces):
            is_last = number == len(pieces) - 1
            messages.append(
                WriteRequest(
                    resource_name=name if not number else "",
                    write_offset=at,
                    data=piece,
                    finish_write=finish and is_last,
                )
            )
            at += len(piece)
        reply = self.call("Write", *messages)
        if reply.status:
            return reply.status, 0
        return 0, reply.one(WriteResponse).committed_size


def blob_name(data: bytes, instance: str = INSTANCE) -> str:
    digest = digest_of(data)
    return f"{instance}/blobs/{digest.hash}/{digest.size_bytes}"


def upload_name(data: bytes, instance: str = INSTANCE) -> str:
    digest = digest_of(data)
    return f"{instance}/uploads/{UUID}/blobs/{digest.hash}/{digest.size_bytes}"


def _messages(body: bytes) -> Iterator[bytes]:
    while body:
        flag, length = struct.unpack_from(">BI", body)
        assert flag == 0
        assert len(body) >= 5 + length
        yield body[5 : 5 + length]
        body = body[5 + length :]
