"""Waiting for what others do: the only place in the tests that polls.

The limits end a test that hangs. Nothing is concluded from how long something takes.
"""

import time
from collections.abc import Callable

import trio

LIMIT = 60.0
"""Seconds until a wait counts as hanging; a busy machine needs a few."""

PAUSE = 0.01
"""Seconds between two looks."""


def eventually(is_so: Callable[[], object], within: float = LIMIT) -> None:
    """Return once `is_so()` is true.

    Raises:
        AssertionError: it is still not true after `within` seconds.
    """
    deadline = time.monotonic() + within
    while not is_so():
        assert time.monotonic() < deadline, f"not so within {within} s"
        time.sleep(PAUSE)


async def eventually_async(is_so: Callable[[], object], within: float = LIMIT) -> None:
    """The same, in a trio task: others run meanwhile.

    Raises:
        trio.TooSlowError: it is still not true after `within` seconds.
    """
    with trio.fail_after(within):
        while not is_so():  # noqa: ASYNC110
            await trio.sleep(PAUSE)
