"""`cache-actors serve` with faults or changed constants, controlled by environment variables.

    CONSTANTS     a JSON object of numbers, each for a constant of a module of `cache_actors`:
                  `{"actor_process.client.END_SECONDS": 0.5}`
    SLOW_PUBLISH  seconds by which each publication is delayed, as by a slow disk; the delay ends
                  early if the parent process does
    CRASH_AT      the id of an entry; when it is to be stored, the key-value store crashes
    CANNOT_START  if set, the key-value store crashes at every start
    HELD          a file; at SIGUSR1 the numbers of requests in flight, of shares taken, and of
                  waiters for shares are written to it

Run as `python -m tests.support.changed_service`.
"""

import gc
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from cache_actors.actors.kv_store import KeyValueStore, Put
from cache_actors.http.server.in_flight import InFlight
from cache_actors.storage.files.store import FileStore, Publication, Published
from cache_actors.supervision import Actor, Envelope, Shares

from .workers import run_as_writer_process_if_asked, run_service

MODULE = "tests.support.changed_service"

_publish, _handle = FileStore.publish, KeyValueStore.handle


def slow_publish(self: FileStore, batch: Sequence[Publication]) -> list[Published | OSError]:
    parent, until = os.getppid(), time.monotonic() + float(os.environ["SLOW_PUBLISH"])
    while (left := until - time.monotonic()) > 0 and os.getppid() == parent:
        time.sleep(min(left, 0.1))
    return _publish(self, batch)


async def crashing_handle(store: KeyValueStore, batch: list[Envelope]) -> None:
    for envelope in batch:
        message = envelope.message
        if isinstance(message, Put) and message.key.id == os.environ["CRASH_AT"]:
            raise RuntimeError("injected")
    await _handle(store, batch)


async def failing_run(_: Actor) -> None:
    raise RuntimeError("no start")


def tell_what_is_held(*_: object) -> None:
    gc.unfreeze()  # or the service's objects would not be among them
    gc.collect()
    objects = gc.get_objects()
    shares = [each for each in objects if isinstance(each, Shares)]
    held = {
        "requests": sum(len(each) for each in objects if isinstance(each, InFlight)),
        "allowances": len(shares),
        "taken": sum(share.taken for share in shares),
        "holdings": sum(len(share._holdings) for share in shares),
        "owners": sum(len(share._held) for share in shares),
        "waiting": sum(len(share._waiting) for share in shares),
    }
    answer = Path(os.environ["HELD"])
    new = answer.with_suffix(".new")
    new.write_text(json.dumps(held))
    new.rename(answer)


def change_constants(values: dict[str, float]) -> None:
    for path, value in values.items():
        module, _, name = path.rpartition(".")
        changed = import_module(f"cache_actors.{module}")
        getattr(changed, name)  # fails if there is no such constant
        setattr(changed, name, value)


if __name__ == "__main__":
    if "SLOW_PUBLISH" in os.environ:
        FileStore.publish = slow_publish  # type: ignore[method-assign]
        run_as_writer_process_if_asked(MODULE)
    if "CRASH_AT" in os.environ:
        KeyValueStore.handle = crashing_handle  # type: ignore[assignment, method-assign]
    if "CANNOT_START" in os.environ:
        KeyValueStore.run = failing_run  # type: ignore[assignment, method-assign]
    if "HELD" in os.environ:
        signal.signal(signal.SIGUSR1, tell_what_is_held)
    change_constants(json.loads(os.environ.get("CONSTANTS", "{}")))
    sys.exit(run_service(MODULE))
