"""The messages between an actor and its process: MessagePack, each after its length."""

from __future__ import annotations

import errno
import os
import struct
from typing import Any, TypeAlias

import msgspec

from cache_actors.kinds import Kind
from cache_actors.storage.errors import NoRoom, Shortage
from cache_actors.storage.recovery import Recovered

LENGTH = struct.Struct(">I")
"""Length of a message in bytes, sent before each."""


class WriterConfig(msgspec.Struct, frozen=True):
    """The configuration of the process; JSON, in its command line.

    Attributes:
        channel: the descriptor of its end of the socket.
        root: the storage folder.
        durable: whether to sync before anything is reported done.
        max_bytes: what the storage folder may take, if that is limited.
        require_artifacts: whether an entry is refused if an artifact of it is missing.
    """

    channel: int
    root: str
    durable: bool
    max_bytes: int | None = None
    require_artifacts: bool = True


class ArtifactItem(msgspec.Struct, frozen=True, array_like=True):
    """An artifact to publish at `path`: its pieces."""

    path: str
    pieces: tuple[bytes, ...]


class EntryItem(msgspec.Struct, frozen=True, array_like=True):
    """An entry or action to store: its project, its id, its body and an entry's artifacts.

    `folder` is that of its kind (`Kind.folder`).
    """

    account: str
    project: str
    id: str
    body: bytes
    artifacts: tuple[str, ...]
    folder: str = Kind.KEYVALUE.folder


class PublishRequest(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Publish `files`, beside what has been stored and what is reserved, both in bytes."""

    files: list[ArtifactItem]
    stored: int
    reserved: int


class PutRequest(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Store entries."""

    lines: list[EntryItem]


class Done(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """It was done: `text` is how an artifact was published, or an entry's missing artifact."""

    text: str | None = None


class Missing(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """An entry was refused, as an artifact of it is missing."""

    artifact_id: str


class Failed(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The disk failed, or is full: then `shortage` says what it lacks, if that is known."""

    number: int
    reason: str
    shortage: Shortage | None = None

    @classmethod
    def of(cls, error: OSError) -> Failed:
        """The failure that stands for `error`, without its path, which callers do not need."""
        number = error.errno or errno.EIO
        shortage = error.shortage if isinstance(error, NoRoom) else None
        return cls(number, error.strerror or os.strerror(number), shortage)

    def error(self) -> OSError:
        """The error that it was."""
        return NoRoom(self.shortage) if self.shortage else OSError(self.number, self.reason)


Outcome: TypeAlias = Done | Missing | Failed


class CommitResponse(msgspec.Struct, frozen=True, array_like=True):
    """The outcome of a batch, item by item, and the seconds that each sync took.

    `recovered` is what a recovery has done before the batch, after a checkpoint that failed.
    """

    outcomes: list[Outcome]
    syncs: list[float]
    recovered: Recovered = Recovered()


_encoder = msgspec.msgpack.Encoder()
decode_batch = msgspec.msgpack.Decoder(PublishRequest | PutRequest).decode
decode_recovered = msgspec.msgpack.Decoder(Recovered).decode
"""Decodes the process's first message: it is ready, after a recovery with that outcome."""

decode_response = msgspec.msgpack.Decoder(CommitResponse).decode


def framed(message: Any) -> bytearray:
    """`message` after its length, in one buffer."""
    buffer = bytearray(LENGTH.size)
    _encoder.encode_into(message, buffer, LENGTH.size)
    LENGTH.pack_into(buffer, 0, len(buffer) - LENGTH.size)
    return buffer
