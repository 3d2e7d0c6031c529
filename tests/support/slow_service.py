"""`cache-actors serve` with a slow disk: each publication takes `SLOW_PUBLISH` seconds longer.

One that takes long ends with the process that has started its own.
`LONGEST_STOP` is how many seconds a stop may take.

Run as `python -m tests.support.slow_service`.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from cache_actors import lifetime
from cache_actors.storage.files import FileStore

from .workers import run_as_disk_process_if_asked, run_service

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cache_actors.storage.files import Publication, Published

_publish = FileStore.publish


def slow_publish(self: FileStore, batch: Sequence[Publication]) -> list[Published | OSError]:
    parent, until = os.getppid(), time.monotonic() + float(os.environ["SLOW_PUBLISH"])
    while (left := until - time.monotonic()) > 0 and os.getppid() == parent:
        time.sleep(min(left, 0.1))
    return _publish(self, batch)


if __name__ == "__main__":
    FileStore.publish = slow_publish  # type: ignore[method-assign]
    run_as_disk_process_if_asked("tests.support.slow_service")
    lifetime.LONGEST_STOP = float(os.environ.get("LONGEST_STOP", lifetime.LONGEST_STOP))
    sys.exit(run_service("tests.support.slow_service"))
