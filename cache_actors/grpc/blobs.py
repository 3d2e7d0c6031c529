"""Blobs that calls need: on the disk or, if there is a bucket, pulled from it."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import trio

from cache_actors.actors.fetcher import ARTIFACT_SECONDS
from cache_actors.storage.references import blob_target

from .digests import BLOBS_AT_ONCE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

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


async def pull_blobs(context: CallContext, blobs: Iterable[BlobReference]) -> None:
    """Look in the bucket for those of `blobs` that are not here, as long as for one."""
    reader, project, fetcher = context.services.reader, context.project, context.services.fetcher
    assert fetcher is not None, "there is no bucket"  # noqa: S101
    rest = iter(blobs)
    with trio.move_on_after(ARTIFACT_SECONDS):
        while some := list(islice(rest, BLOBS_AT_ONCE)):
            missing = await reader.missing(project, some)
            await fetcher.pull_targets(project, [blob_target(some[place]) for place in missing])
