"""Messages as they travel, looked at before they are decoded. No I/O.

A decoded message may take forty times its size: two bytes are enough for an empty message in a list
of them. So its fields are counted first, with those of all messages in it, and memory is taken for
what they come to; and of a tree, which may be large, nothing is decoded but one node at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from google.protobuf.descriptor import Descriptor

OBJECT_BYTES = 80
"""Largest memory that a message in another one takes, beside its bytes; also a text in a list, or a
field that nobody knows. Measured with the parser of `protobuf` 7."""

VALUE_BYTES = 8
"""Largest memory that any other field takes beside its bytes, or one number in a list."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # types on the wire


@dataclass(frozen=True, slots=True)
class Field:
    """What a field of a message is.

    Attributes:
        kind: the name of the message that it holds, or an empty text.
        each: memory that it takes beside its bytes, in bytes.
        per_byte: memory that each of its bytes takes beside itself, in bytes.
        below: the fields of the message that it holds, by their numbers.
    """

    kind: str = ""
    each: int = OBJECT_BYTES
    per_byte: int = 0
    below: Mapping[int, Field] | None = None


_UNKNOWN = Field()
_TEXTS = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)


@cache
def fields_of(message: Descriptor) -> Mapping[int, Field]:
    """The fields of a message, by their numbers."""
    found = {}
    for field in message.fields:
        if field.message_type is not None:
            below = fields_of(field.message_type)
            found[field.number] = Field(field.message_type.name, below=below)
        elif field.type not in _TEXTS:
            found[field.number] = Field(each=VALUE_BYTES, per_byte=VALUE_BYTES)
        elif not field.is_repeated:
            found[field.number] = Field(each=VALUE_BYTES)
    return found


def fields(data: bytes, known: Mapping[int, Field]) -> Iterator[tuple[Field, int, int, int]]:
    """All fields of a message, and of the messages in it, in order.

    Args:
        data: the message.
        known: the fields that it may have, by their numbers.

    Yields:
        What a field is, how many messages it is inside of, and where its value begins and ends.

    Raises:
        DecodeError: that is no message.
    """
    at, end = 0, len(data)
    around: list[tuple[int, Mapping[int, Field]]] = []
    try:
        while True:
            while at == end and around:
                end, known = around.pop()
            if at == end:
                return
            tag = data[at]
            at += 1
            if tag >= 0x80:
                tag, at = _varint(data, at - 1)
            field, wire_type = known.get(tag >> 3, _UNKNOWN), tag & 7
            start = at
            if wire_type == _BYTES:
                at += 1 + data[at]
                start += 1
                if data[start - 1] >= 0x80:
                    length, start = _varint(data, start - 1)
                    at = start + length
            elif wire_type == _VARINT:
                while data[at] >= 0x80:
                    at += 1
                at += 1
            elif wire_type in (_FIXED64, _FIXED32):
                at += 8 if wire_type == _FIXED64 else 4
            else:
                raise DecodeError("Groups are not for this version of the language")
            if at > end:
                raise DecodeError("A field is longer than its message")
            yield field, len(around), start, at
            if wire_type == _BYTES and field.below is not None:
                around.append((end, known))
                at, end, known = start, at, field.below
    except IndexError:
        raise DecodeError("The message is cut short") from None


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, and where it ends.

    Raises:
        DecodeError: it is longer than one of 64 bits.
        IndexError: it is cut short.
    """
    number = data[at]
    at += 1
    if number < 0x80:
        return number, at
    number &= 0x7F
    for shift in range(7, 70, 7):
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise DecodeError("A number is too long")
