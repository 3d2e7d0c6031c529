"""`python -m tests.bench.durability [FOLDER]`: what it costs to store a small file durably.

Artifacts of 10 KiB are published in batches, by the store alone: without a sync, with a sync of
each file and each folder, and with the write-ahead log. The folder lies on the disk in question.
"""

import os
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from cache_actors.storage.files.store import FileStore, Publication
from cache_actors.storage.files.temporary import TemporaryFolder
from cache_actors.storage.files.write_ahead_log import SEGMENT_BYTES, LogRecord, WriteAheadLog
from cache_actors.storage.layout import TEMPORARY

FILES = 3200
ROUNDS = 5
BATCHES = (4, 16, 64)
WAYS = ("relaxed", "each synced", "log")
DATA = os.urandom(10 * 1024)


def microseconds(way: str, batch: int) -> tuple[float, float]:
    """Wall time and CPU time of one file."""
    with TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        root = Path(folder)
        temporary = TemporaryFolder(root / TEMPORARY)
        log = WriteAheadLog(root, _ignore, _ignore) if way == "log" else None
        store = FileStore(root, temporary, durable=way != "relaxed", log=log)
        paths = [_path(root, number) for number in range(FILES)]
        store.publish(
            [Publication(str(_path(root, FILES + shard)), [b"x"]) for shard in range(256)]
        )
        if log is not None:
            _use_both_segments(log)
        began, cpu = time.monotonic(), time.process_time()
        for start in range(0, FILES, batch):
            store.publish([Publication(str(path), [DATA]) for path in paths[start : start + batch]])
        wall, used = time.monotonic() - began, time.process_time() - cpu
        if log is not None:
            log.close()
        temporary.remove()
    return wall / FILES * 1e6, used / FILES * 1e6


def _use_both_segments(log: WriteAheadLog) -> None:
    """Let the log grow: later appends overwrite what is there, as in a service that has run."""
    piece = LogRecord("filler", 0, b"", b"", [bytes(1 << 20)])
    for _ in range(2 * SEGMENT_BYTES >> 20):
        log.append([piece])


def _path(root: Path, number: int) -> Path:
    shard = f"{number % 256:02x}"
    return root / "acme" / "app" / "cas" / shard / f"AB{shard}{number:08}"


def _ignore(_: object) -> None:
    """Nobody wants to know."""


def main() -> None:
    """Measure in rounds, so that all ways meet the same noise, and print the medians."""
    print(f"{'batch':>5}  {'way':12} {'wall, us':>9} {'of relaxed':>10} {'CPU, us':>8}")
    for batch in BATCHES:
        found = [{way: microseconds(way, batch) for way in WAYS} for _ in range(ROUNDS)]
        for way in WAYS:
            wall, cpu = (median(each[way][place] for each in found) for place in (0, 1))
            ratio = median(each[way][0] / each["relaxed"][0] for each in found)
            print(f"{batch:5}  {way:12} {wall:9.0f} {ratio:10.2f} {cpu:8.0f}")


if __name__ == "__main__":
    main()
