"""Waits for conditions: the only place in the tests that polls.

The limits end a test that hangs; no test depends on the duration of a wait.
"""

import time
from collections.abc import Callable

import trio

LIMIT = 60.0
"""Seconds until a wait counts as hanging; a busy machine needs a few."""

PAUSE = 0.01
"""Seconds between two checks of a condition."""


def eventually(is_so: Callable[[], object], within: float = LIMIT) -> None:
    """Return once `is_so()` is true.

    Raises:
        AssertionError: the condition is still false after `within` seconds.
    """
    deadline = time.monotonic() + within
    while not is_so():
        assert time.monotonic() < deadline, f"not so within {within} s"
        time.sleep(PAUSE)


async def eventually_async(is_so: Callable[[], object], within: float = LIMIT) -> None:
    """Return once `is_so()` is true, while other trio tasks run.

    Raises:
        trio.TooSlowError: the condition is still false after `within` seconds.
    """
    with trio.fail_after(within):
        while not is_so():  # noqa: ASYNC110
            await trio.sleep(PAUSE)
