"""The form of messages between an actor and its process: MessagePack, each after its length."""

from __future__ import annotations

import select
import struct
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

if TYPE_CHECKING:
    import socket

LENGTH = struct.Struct(">I")
"""Length of a message in bytes, sent before each."""

_encoder = msgspec.msgpack.Encoder()


def framed(message: Any) -> bytearray:
    """`message` after its length, in one buffer."""
    buffer = bytearray(LENGTH.size)
    _encoder.encode_into(message, buffer, LENGTH.size)
    LENGTH.pack_into(buffer, 0, len(buffer) - LENGTH.size)
    return buffer


def next_message(stream: BinaryIO) -> bytes | None:
    """The next message, without its length; None if its sender is gone."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (size,) = LENGTH.unpack(head)
    message = stream.read(size)
    return message if len(message) == size else None


def is_connected(channel: socket.socket | int) -> bool:
    """Whether somebody is at the other end. May be called by several threads at once.

    `channel` is the socket or its descriptor.
    """
    end = select.poll()
    end.register(channel, 0)  # tells of nothing but the end
    return not end.poll(0)
