"""A client of Bazel's Remote Execution API, its cache part, on Google's client of gRPC."""

import hashlib
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from buildstream._protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from buildstream._protos.google.bytestream import bytestream_pb2 as bytestream

from .grpc_client import GrpcClient, grpc_client

API = "/build.bazel.remote.execution.v2"
ACTIONS = f"{API}.ActionCache"
BLOBS = f"{API}.ContentAddressableStorage"
CAPABILITIES = f"{API}.Capabilities/GetCapabilities"
STREAM = "/google.bytestream.ByteStream"

PIECE_BYTES = 256 * 1024
"""Size of the pieces in which a blob is streamed, in bytes."""

EMPTY = reapi.Digest(hash=hashlib.sha256().hexdigest(), size_bytes=0)


def digest_of(blob: bytes) -> Any:
    """The digest of a blob."""
    return reapi.Digest(hash=hashlib.sha256(blob).hexdigest(), size_bytes=len(blob))


@dataclass(frozen=True)
class RemoteCache:
    """The calls of one instance, with a token. Each may raise `GrpcError`.

    Attributes:
        account: the account, told as Tuist's clients do.
    """

    client: GrpcClient
    instance: str = "acme/app"
    token: str | None = "token"
    account: str | None = None

    def as_(self, instance: str | None = None, token: str | None = None) -> "RemoteCache":
        """The same for another instance or token."""
        return replace(self, instance=instance or self.instance, token=token or self.token)

    @property
    def metadata(self) -> list[tuple[str, str]]:
        """The metadata of each call."""
        token = [] if self.token is None else [("authorization", f"Bearer {self.token}")]
        return token + ([("x-tuist-account-handle", self.account)] if self.account else [])

    @property
    def _prefix(self) -> str:
        return f"{self.instance}/" if self.instance else ""

    def capabilities(self) -> Any:
        """What the server can do."""
        request = reapi.GetCapabilitiesRequest(instance_name=self.instance)
        return self.ask(CAPABILITIES, request, reapi.ServerCapabilities)

    def missing(self, *digests: Any) -> list[Any]:
        """The digests of which there is no blob."""
        request = reapi.FindMissingBlobsRequest(instance_name=self.instance, blob_digests=digests)
        path = f"{BLOBS}/FindMissingBlobs"
        return list(self.ask(path, request, reapi.FindMissingBlobsResponse).missing_blob_digests)

    def store(self, *blobs: bytes) -> None:
        """Store blobs in one batch."""
        assert self.store_as([(digest_of(blob), blob) for blob in blobs]) == [0] * len(blobs)

    def store_as(self, blobs: Sequence[tuple[Any, bytes]]) -> list[int]:
        """Store blobs under digests in one batch; the code of each."""
        items = [
            reapi.BatchUpdateBlobsRequest.Request(digest=digest, data=data)
            for digest, data in blobs
        ]
        request = reapi.BatchUpdateBlobsRequest(instance_name=self.instance, requests=items)
        path = f"{BLOBS}/BatchUpdateBlobs"
        answer = self.ask(path, request, reapi.BatchUpdateBlobsResponse)
        codes = {each.digest.hash: each.status.code for each in answer.responses}
        assert len(codes) == len(answer.responses)
        return [codes[digest.hash] for digest, _ in blobs]

    def blobs(self, *digests: Any) -> list[bytes | int]:
        """Blobs in one batch; for each the blob, or its code."""
        request = reapi.BatchReadBlobsRequest(instance_name=self.instance, digests=digests)
        answer = self.ask(f"{BLOBS}/BatchReadBlobs", request, reapi.BatchReadBlobsResponse)
        found = {each.digest.hash: each.status.code or each.data for each in answer.responses}
        assert len(found) == len(answer.responses)
        return [found[digest.hash] for digest in digests]

    def action(self, digest: Any, **how: Any) -> Any:
        """The result of an action."""
        request = reapi.GetActionResultRequest(
            instance_name=self.instance, action_digest=digest, **how
        )
        return self.ask(f"{ACTIONS}/GetActionResult", request, reapi.ActionResult)

    def store_action(self, digest: Any, result: Any) -> Any:
        """Store the result of an action."""
        request = reapi.UpdateActionResultRequest(
            instance_name=self.instance, action_digest=digest, action_result=result
        )
        return self.ask(f"{ACTIONS}/UpdateActionResult", request, reapi.ActionResult)

    def tree(self, digest: Any) -> list[Any]:
        """The folders below one, itself included."""
        request = reapi.GetTreeRequest(instance_name=self.instance, root_digest=digest)
        answers = self.client.receive(
            f"{BLOBS}/GetTree", request.SerializeToString(), metadata=self.metadata
        )
        return [
            each
            for answer in answers
            for each in reapi.GetTreeResponse.FromString(answer).directories
        ]

    def name_of(self, digest: Any, kind: str = "blobs") -> str:
        """The name under which a blob is read."""
        return f"{self._prefix}{kind}/{digest.hash}/{digest.size_bytes}"

    def new_upload(self, digest: Any, kind: str = "blobs") -> str:
        """A new name under which a blob is written."""
        upload = f"uploads/{uuid.uuid4()}/{kind}"
        return f"{self._prefix}{upload}/{digest.hash}/{digest.size_bytes}"

    def read(self, digest: Any, offset: int = 0, limit: int = 0) -> bytes:
        """A blob, as a stream."""
        return b"".join(self.pieces(self.name_of(digest), offset, limit))

    def pieces(self, name: str, offset: int = 0, limit: int = 0) -> Iterator[bytes]:
        """The pieces of a stream, as they come."""
        request = bytestream.ReadRequest(
            resource_name=name, read_offset=offset, read_limit=limit
        ).SerializeToString()
        for answer in self.client.receive(f"{STREAM}/Read", request, metadata=self.metadata):
            yield bytes(bytestream.ReadResponse.FromString(answer).data)

    def write(self, blob: bytes, name: str | None = None, start: int = 0) -> int:
        """Write a blob as a stream, from an offset on; how much of it is stored."""
        name = name or self.new_upload(digest_of(blob))
        return self.send(pieces_of(name, blob, start))

    def send(self, requests: Iterable[Any]) -> int:
        """Send requests of a write; how many bytes are stored."""
        messages = (each.SerializeToString() for each in requests)
        answer = self.client.send(f"{STREAM}/Write", messages, metadata=self.metadata)
        return int(bytestream.WriteResponse.FromString(answer).committed_size)

    def write_status(self, name: str) -> Any:
        """How much of an upload is there."""
        request = bytestream.QueryWriteStatusRequest(resource_name=name)
        path = f"{STREAM}/QueryWriteStatus"
        return self.ask(path, request, bytestream.QueryWriteStatusResponse)

    def ask(self, path: str, request: Any, answer: Any) -> Any:
        """The answer to one request, as a message of the type `answer`."""
        said = self.client.call(path, request.SerializeToString(), metadata=self.metadata)
        return answer.FromString(said)


def pieces_of(name: str, blob: bytes, start: int = 0) -> Iterator[Any]:
    """The requests that write a blob from an offset on."""
    for offset in range(start, len(blob) or 1, PIECE_BYTES):
        data = blob[offset : offset + PIECE_BYTES]
        is_last = offset + len(data) == len(blob)
        yield bytestream.WriteRequest(
            resource_name=name if offset == start else "",
            write_offset=offset,
            data=data,
            finish_write=is_last,
        )


@contextmanager
def remote_cache(port: int, certificate: Path | None = None, **how: str) -> Iterator[RemoteCache]:
    """The cache at a port of loopback; `how` are attributes of `RemoteCache`."""
    with grpc_client(port, certificate) as client:
        yield RemoteCache(client, **how)
