"""Decoding of messages within bounds, and without keeping others waiting."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import trio
from google.protobuf.message import Message

from .wire import fields, fields_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from .messages_pb2 import Digest, DirectoryNode, FileNode

DECODED_HERE = 256 * 1024
"""Largest message, in bytes, that is decoded without a thread."""

PACE = 2_000
"""Number of fields that are looked at without a pause: that takes a millisecond."""

ITEM_BYTES = 768
"""Memory that one item of a request takes, such as a digest, with the objects that are made of it
and what is answered to it, in bytes."""

AnyMessage = TypeVar("AnyMessage", bound=Message)


async def decoded(message: AnyMessage, data: bytes) -> AnyMessage:
    """`message`, decoded from `data`, which may take longer than others should wait.

    Raises:
        DecodeError: that is no such message.
    """
    if len(data) <= DECODED_HERE:
        message.ParseFromString(data)
    else:
        await trio.to_thread.run_sync(message.ParseFromString, data)
    return message


async def weight(kind: type[Message], data: bytes, most: int) -> int:
    """The memory that a message takes once it is decoded, beside its bytes, in bytes.

    Counting ends when it is clear that they are more than `most`.

    Raises:
        DecodeError: that is no such message.
    """
    total, known = 0, fields_of(kind.DESCRIPTOR)
    for number, (field, depth, start, end) in enumerate(fields(data, known), 1):
        total += field.each + field.per_byte * (end - start)
        if field.kind and not depth:
            total += ITEM_BYTES
        if number % PACE == 0:
            await trio.lowlevel.checkpoint()
            if total > most:
                break
    return total


async def digests_in(
    kind: type[Message], data: bytes, node: type[FileNode | DirectoryNode]
) -> AsyncGenerator[Digest, None]:
    """The digests in all messages of the kind `node` within another one, decoded one at a time.

    Raises:
        DecodeError: that is no message of that `kind`.
    """
    name, known = node.DESCRIPTOR.name, fields_of(kind.DESCRIPTOR)
    for number, (field, _, start, end) in enumerate(fields(data, known), 1):
        if field.kind == name:
            yield node.FromString(data[start:end]).digest
        if number % PACE == 0:
            await trio.lowlevel.checkpoint()
