"""Digests, and the names of resources that have them. No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import trio

from cache_actors.storage.actions import EMPTY_BLOB, BlobReference

from .status import invalid

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from .messages_pb2 import Digest

SHA256, ZSTD = 1, 1
"""Numbers of a digest function and of a compressor, in the API's enumerations."""

MAX_BLOBS = 100_000
"""Largest number of blobs that one message may name."""

BLOBS_AT_ONCE = 256
"""Largest number of blobs that one call of a thread reads, checks or publishes."""

READ_AT_ONCE = 1 << 20
"""Largest number of bytes that one call of a thread reads, if there is more than one blob."""

PACE = 500
"""Number of blobs that are looked at without a pause: that takes a millisecond."""

_HASH = re.compile("[0-9a-f]{64}")
_SIZE = re.compile("0|[1-9][0-9]{0,18}", re.ASCII)
_RESOURCE = re.compile(
    r"(?:(?P<instance>[^\0]*?)/)??(?:(?P<uploads>uploads)/(?P<uuid>[^/]{1,100})/)?"
    r"(?:blobs|compressed-blobs/(?P<compressor>[^/]*))/(?P<hash>[^/]*)/(?P<size>[^/]*)"
    r"(?P<more>/.*)?",
    re.DOTALL,
)


Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Resource:
    """What a resource's name says: the instance, the blob, and whether it comes compressed."""

    instance: str
    blob: BlobReference
    is_compressed: bool


def blob_of(digest: Digest) -> BlobReference:
    """The blob with that digest.

    Raises:
        CallFailed: INVALID_ARGUMENT, that is no digest.
    """
    return _blob(digest.hash, digest.size_bytes)


async def paced(
    items: Sequence[Item], most: int = MAX_BLOBS
) -> AsyncGenerator[Sequence[Item], None]:
    """The items of a message, a few at a time, with pauses in which others have their turn.

    Raises:
        CallFailed: INVALID_ARGUMENT, there are more than `most`.
    """
    if len(items) > most:
        raise invalid(f"There are more than {most} blobs in one message")
    for start in range(0, len(items), PACE):
        if start:
            await trio.lowlevel.checkpoint()
        yield items[start : start + PACE]


def check_function(number: int) -> None:
    """Check the digest function of a request; 0 leaves it to the length of the digests.

    Raises:
        CallFailed: INVALID_ARGUMENT, it is not SHA-256.
    """
    if number not in (0, SHA256):
        raise invalid("The only digest function is SHA256")


def resource_in(name: str, *, is_upload: bool) -> Resource:
    """The resource with that name, of an upload or of a blob that is there.

    Raises:
        CallFailed: INVALID_ARGUMENT, that is no name of one.
    """
    match = _RESOURCE.fullmatch(name)
    if match is None or (match["uploads"] is not None) != is_upload:
        form = "[<instance>/]uploads/<uuid>/" if is_upload else "[<instance>/]"
        raise invalid(f"The resource's name is not {form}blobs/<hash>/<size>")
    if match["compressor"] not in (None, "zstd"):
        raise invalid("The only compressor is zstd")
    _check_hash(match["hash"])  # before what follows, which a digest function in its place moves
    if match["more"] and not is_upload:
        raise invalid("There is something behind the size in the resource's name")
    if _SIZE.fullmatch(match["size"]) is None:
        raise invalid("The size of a digest is invalid")
    blob = _blob(match["hash"], int(match["size"]))
    return Resource(match["instance"] or "", blob, match["compressor"] is not None)


def instance_of_blob(name: str) -> str:
    """The instance name in the resource name of a blob to read."""
    return resource_in(name, is_upload=False).instance


def instance_of_upload(name: str) -> str:
    """The instance name in the resource name of an upload."""
    return resource_in(name, is_upload=True).instance


def _check_hash(digest: str) -> None:
    if _HASH.fullmatch(digest) is None:
        raise invalid("The hash of a digest is not 64 characters of 0-9 a-f")


def _blob(digest: str, size: int) -> BlobReference:
    _check_hash(digest)
    if not 0 <= size < 1 << 63:
        raise invalid("The size of a digest is invalid")
    blob = BlobReference(digest, size)
    if (blob.id == EMPTY_BLOB.id) != (size == 0):
        raise invalid(
            "Hash and size of the digest do not match: only the empty blob has the size 0"
        )
    return blob
