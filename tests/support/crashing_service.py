"""`cache-actors serve` in which the key-value store crashes when it is to store an entry CRASH.

Run as `python -m tests.support.crashing_service`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from cache_actors.actors.kv_store import KeyValueStore, Put
from cache_actors.process import run_process
from cache_actors.settings import load_settings

if TYPE_CHECKING:
    from cache_actors.supervision import Envelope

handle = KeyValueStore.handle


async def crashing_handle(store: KeyValueStore, batch: list[Envelope]) -> None:
    for envelope in batch:
        if isinstance(envelope.message, Put) and envelope.message.entry.id == "CRASH":
            raise RuntimeError("injected")
    await handle(store, batch)


if __name__ == "__main__":
    KeyValueStore.handle = crashing_handle  # type: ignore[assignment, method-assign]
    sys.exit(run_process(load_settings()))
