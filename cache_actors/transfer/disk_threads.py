"""Trips to a thread: where blocking calls on the disk are made, and their errors get a meaning."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import trio

from cache_actors.storage.errors import storage_error

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")


async def in_thread(
    action: Callable[..., Result], *arguments: object, threads: trio.CapacityLimiter
) -> Result:
    """The result of `action(*arguments)`, called in one of `threads`.

    Raises:
        StorageError: the disk is full, or failed.
    """
    try:
        return await trio.to_thread.run_sync(action, *arguments, limiter=threads)
    except OSError as error:
        raise storage_error(error) from error
