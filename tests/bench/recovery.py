"""How long a start takes after a power cut.

The logs are those of a service with two workers that was as busy as it can be: each disk writer has
filled both segments of its log with artifacts of 10 KiB, and each key-value store has logged
entries for twice the age at which a segment is checkpointed. None of the files is on the disk, and
the machine has been started anew. The logs themselves are still in the kernel's memory.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from cache_actors.kinds import Kind
from cache_actors.storage.entries import EntryWrite, EntryWriter
from cache_actors.storage.files import write_ahead_log
from cache_actors.storage.files.store import FileStore, Publication
from cache_actors.storage.files.temporary import TemporaryFolder
from cache_actors.storage.files.write_ahead_log import (
    MAX_AGE_SECONDS,
    SEGMENT_BYTES,
    WriteAheadLog,
    boot_id,
)
from cache_actors.storage.layout import LOGS, TEMPORARY, Key

from .contestants import scratch_folder, storage_in
from .figures import spread
from .machine import describe
from .names import PROJECT, SMALL
from .plan import Plan
from .results import Recovery
from .scale import seconds_to_start

WORKERS = 2
BATCH = 32
ARTIFACT = os.urandom(SMALL)
ARTIFACTS = 2 * SEGMENT_BYTES // (len(ARTIFACT) + 200)
"""Artifacts of a full log; beside each lies its record's head."""

ENTRY = b'{"entries":[{"value":"%b"}]}' % (b"x" * 150)
ENTRIES = int(2 * MAX_AGE_SECONDS * 1_000)
"""Entries of a log: 1,000 in a second for twice the age at which a segment is checkpointed."""


def measure_recovery(plan: Plan, say: Callable[[str], None]) -> Recovery:
    """Measure a start after each of several power cuts, and one without."""
    starts: list[float] = []
    usual: list[float] = []
    for _ in range(plan.recoveries):
        say("filling logs, and cutting the power")
        with scratch_folder() as scratch:
            root = storage_in(scratch, "cas")
            for worker in range(WORKERS):
                fill(root, worker)
            size = cut_the_power(root)
            os.sync()
            starts.append(seconds_to_start(root, WORKERS))
            usual.append(seconds_to_start(root, WORKERS))
    return Recovery(
        describe(),
        WORKERS * ARTIFACTS,
        WORKERS * ENTRIES,
        size,
        spread(starts),
        spread(usual),
    )


@contextmanager
def unfinished_log(root: Path) -> Iterator[FileStore]:
    """A store with a log that is never checkpointed, and stays when the context ends."""
    temporary = TemporaryFolder(root / TEMPORARY)
    with (
        patch.object(write_ahead_log, "SEGMENT_BYTES", 3 * SEGMENT_BYTES),
        patch.object(write_ahead_log, "MAX_AGE_SECONDS", float("inf")),
    ):
        log = WriteAheadLog(root, lambda _: None, lambda _: None)
        yield FileStore(root, temporary, durable=True, log=log)
        assert log._open is not None
        log._open.release()
    temporary.remove()


def fill(root: Path, worker: int) -> None:
    """Store what one worker has stored lately."""
    with unfinished_log(root) as store:
        for some in batches(Kind.CAS, worker, ARTIFACTS):
            store.publish([Publication(str(key.path(root)), [ARTIFACT]) for key in some])
    with unfinished_log(root) as store:
        writer = EntryWriter(store, require_artifacts=True)
        for some in batches(Kind.KEYVALUE, worker, ENTRIES):
            writer.put([EntryWrite(key, ENTRY, frozenset()) for key in some])


def batches(kind: Kind, worker: int, number: int) -> Iterator[list[Key]]:
    """So many keys, as they are stored together."""
    for start in range(0, number, BATCH):
        places = range(start, min(start + BATCH, number))
        yield [Key(PROJECT, kind, f"{worker}A{place % 256:02X}{place:08}") for place in places]


def cut_the_power(root: Path) -> int:
    """Have no file survive, and the machine start anew; return the bytes of the logs."""
    for path in (root / PROJECT.account).rglob("*"):
        if path.is_file():
            os.truncate(path, 0)
    size = 0
    for segment in (root / LOGS).glob("*/*"):
        data = segment.read_bytes()
        size += len(data)
        segment.write_bytes(data.replace(boot_id(), b"f" * 36, 1))
    return size
