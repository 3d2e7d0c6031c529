"""`cache-actors serve` in which the key-value store cannot be started, ever.

Run as `python -m tests.support.failing_service`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from cache_actors.actors.kv_store import KeyValueStore

from .workers import run_service

if TYPE_CHECKING:
    from cache_actors.supervision import Actor


async def failing_init(_: Actor) -> None:
    raise RuntimeError("no start")


if __name__ == "__main__":
    KeyValueStore.init = failing_init  # type: ignore[assignment, method-assign]
    sys.exit(run_service("tests.support.failing_service"))
