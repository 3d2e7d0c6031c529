"""Waits for conditions: the only place in the tests that polls.

The limits end a test that hangs; no test depends on the duration of a wait.
"""

import time
from collections.abc import Callable

import trio

LIMIT = 60.0
"""Seconds until a wait counts as hanging; a busy machine needs a few."""

PAUSE = 0.01
"""Seconds between two checks of a condition, at first."""

MAX_PAUSE = 0.1
"""The same, in the end: checks that are not needed take the CPU from what they wait for."""


def eventually(is_so: Callable[[], object], within: float = LIMIT) -> None:
    """Return once `is_so()` is true.

    Raises:
        AssertionError: the condition is still false after `within` seconds.
    """
    began = time.monotonic()
    while not is_so():
        waited = time.monotonic() - began
        assert waited < within, f"not so within {within} s"
        time.sleep(_pause_after(waited))


async def eventually_async(is_so: Callable[[], object], within: float = LIMIT) -> None:
    """Return once `is_so()` is true, while other trio tasks run.

    Raises:
        trio.TooSlowError: the condition is still false after `within` seconds.
    """
    with trio.fail_after(within):
        began = trio.current_time()
        while not is_so():  # noqa: ASYNC110
            await trio.sleep(_pause_after(trio.current_time() - began))


def _pause_after(waited: float) -> float:
    """A fifth of the time that has been waited, so that little is waited in vain."""
    return min(max(PAUSE, waited / 5), MAX_PAUSE)
