"""Tests of the lifecycle of a process."""

import gc
from collections.abc import Iterator
from typing import cast

import pytest
import structlog
import trio

from cache_actors.runtime.lifecycle import run_until_stopped
from cache_actors.supervision import Started, Supervisor


class ShortTree:
    """A tree that starts, and ends before its supervisor is over."""

    class _Supervisor:
        async def wait_over(self) -> None:
            await trio.sleep_forever()

    supervisor = cast("Supervisor", _Supervisor())

    async def run(self, stop: trio.Event, started: Started) -> None:
        """Start."""
        assert not stop.is_set()
        started()


@pytest.fixture
def _nothing_frozen() -> Iterator[None]:
    gc.unfreeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("_nothing_frozen")
async def test_a_collection_of_garbage_leaves_out_what_is_there_once_the_tree_runs() -> None:
    silence = structlog.wrap_logger(structlog.ReturnLogger())
    counts: list[int] = []
    await run_until_stopped(ShortTree(), silence, lambda: counts.append(gc.get_freeze_count()))
    assert counts[0] > 10_000
