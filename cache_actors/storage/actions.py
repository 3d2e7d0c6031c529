"""Actions on disk: what the result of a build's action refers to, then the result itself.

The references come first, and are complete: also what is inside the trees of output directories,
which are blobs themselves. So eviction and recovery need not understand results, nor read trees. A
file is `ACTION_MARK`, the number of references, the SHA-256 and size of each, and the result's
bytes.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple, Self

from cache_actors.kinds import ACTION_MARK

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_HEAD = struct.Struct(">4sI")
_REFERENCE = struct.Struct(">32sQ")


class BlobReference(NamedTuple):
    """A blob: its id, which is the SHA-256 of its bytes, and its size in bytes."""

    id: str
    size: int

    def __str__(self) -> str:
        return f"{self.id}/{self.size}"

    def packed(self) -> bytes:
        """The blob as the file of an action names it, which takes a third of the memory."""
        return _REFERENCE.pack(bytes.fromhex(self.id), self.size)

    @classmethod
    def unpacked(cls, record: bytes | memoryview) -> Self:
        """The blob that the file of an action names like this."""
        digest, size = _REFERENCE.unpack(record)
        return cls(digest.hex(), size)


EMPTY_BLOB = BlobReference("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", 0)
"""The blob without bytes, which always exists and is never stored."""


def packed_action(references: Iterable[bytes], result: bytes) -> bytes:
    """The content of the file of an action with that `result`, which refers to `references`, each
    packed."""
    records = sorted({*references} - {EMPTY_BLOB.packed()})
    return b"".join((_HEAD.pack(ACTION_MARK, len(records)), *records, result))


def packed_size(references: int, result: int) -> int:
    """Bytes of the file of an action whose result has `result` bytes, with so many references."""
    return _HEAD.size + references * _REFERENCE.size + result


def blobs_in(content: bytes, first: int = 0) -> Iterator[BlobReference]:
    """The references of an action, from number `first` on, in the content of its file.

    Raises:
        ValueError: that is no action.
    """
    end = _end_of_references(content)
    with memoryview(content) as whole:
        for at in range(_HEAD.size + first * _REFERENCE.size, end, _REFERENCE.size):
            yield BlobReference.unpacked(whole[at : at + _REFERENCE.size])


def result_in(content: bytes) -> bytes:
    """The result of an action, in the content of its file.

    Raises:
        ValueError: that is no action.
    """
    return content[_end_of_references(content) :]


def _end_of_references(content: bytes) -> int:
    if len(content) < _HEAD.size:
        raise ValueError("no action")
    mark, number = _HEAD.unpack_from(content)
    end: int = _HEAD.size + number * _REFERENCE.size
    if mark != ACTION_MARK or len(content) < end:
        raise ValueError("no action")
    return end
