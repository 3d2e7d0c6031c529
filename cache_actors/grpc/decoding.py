"""Decoding of messages without keeping others waiting."""

from __future__ import annotations

from typing import TypeVar

import trio
from google.protobuf.message import Message

DECODED_HERE = 256 * 1024
"""Largest message, in bytes, that is decoded without a thread."""

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
