"""Blocking disk access in threads, with errors translated to `StorageError`."""

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
    """Call `action(*arguments)` in a thread, and return its result.

    It can be cancelled while it waits for a thread. A call that has begun cannot: its result is
    returned, and the caller is cancelled at its next checkpoint.

    Args:
        action: the blocking function.
        arguments: its arguments.
        threads: limit on the number of calls that run at once; others wait for one to end.

    Raises:
        StorageError: the call raised an `OSError`.
    """
    try:
        return await trio.to_thread.run_sync(action, *arguments, limiter=threads)
    except OSError as error:
        raise storage_error(error) from error
