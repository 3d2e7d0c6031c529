"""Blobs that calls need: on the disk or, if there is a bucket, pulled from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cache_actors.storage.references import blob_target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cache_actors.storage.actions import BlobReference
    from cache_actors.storage.errors import StorageError

    from .context import CallContext


async def contents(
    context: CallContext, blobs: Sequence[BlobReference]
) -> list[bytes | StorageError | None]:
    """The bytes of each of `blobs`, from the bucket if there is one; None for one that is nowhere.

    In the place of one that the disk cannot read is its error.
    """
    reader, project = context.services.reader, context.project
    found = await reader.contents(project, blobs)
    absent = [blob for blob, data in zip(blobs, found, strict=True) if data is None]
    if not absent or context.services.fetcher is None:
        return found
    await context.services.fetcher.pull_targets(project, map(blob_target, absent))
    pulled = iter(await reader.contents(project, absent))
    return [next(pulled) if data is None else data for data in found]


async def is_here(context: CallContext, blob: BlobReference) -> bool:
    """Whether a blob can be read, perhaps from the bucket; it is in use from now on."""
    reader, project, fetcher = context.services.reader, context.project, context.services.fetcher
    if not await reader.missing(project, [blob], to_stay=False):
        return True
    if fetcher is None:
        return False
    await fetcher.pull_targets(project, [blob_target(blob)])
    return not await reader.missing(project, [blob], to_stay=False)
