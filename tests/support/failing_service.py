"""`cache-actors serve` in which the key-value store cannot be started, ever.

Run as `python -m tests.support.failing_service`.
"""

from __future__ import annotations

import sys

from cache_actors.actors.kv_store import KeyValueStore
from cache_actors.process import run_process
from cache_actors.settings import load_settings


async def failing_init(_: KeyValueStore) -> None:
    raise RuntimeError("no start")


if __name__ == "__main__":
    KeyValueStore.init = failing_init  # type: ignore[method-assign]
    sys.exit(run_process(load_settings()))
