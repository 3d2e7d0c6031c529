"""Recovery: what logs of before a power cut hold, and the disk does not, is stored again.

The head of `files/write_ahead_log.py` says why that may be needed, and why nobody reads meanwhile.

A file is *whole* if its bytes have the checksum that is recorded for it. A record of the log is
stored again unless there is a whole file of its name; of an entry, one that is as new. No record is
stored again whose project has been cleaned since: its folder is gone, or another one. But a file of
its name that is not whole is removed, as it was being stored at the same time. A write that
was logged and never acknowledged may be stored by that: its client heard an error, or nothing, and
had to expect either.

Of several records of an entry the newest counts, whichever process logged it. An entry is removed
if an artifact of it is lost even so: it would break the build that finds it. A recovery that is cut
short is begun again, as the logs stay until all is on the disk.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

from .entries import EntryWrite, EntryWriter, MissingArtifact, artifact_is_there
from .files.folders import identity_of, is_same_folder
from .files.store import FileStore, Replacement
from .files.write_ahead_log import (
    LogRecord,
    abandoned_logs,
    boot_id,
    checkpoint,
    is_damaged,
    read,
)
from .integrity.checksum import read_checksum
from .integrity.validation import Fault, open_or_fault
from .layout import LOGS, Key, key_at
from .locks import FolderLock
from .references import references_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from .files.temporary import TemporaryFolder

_BATCH = 64  # records that are stored together


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a recovery has done.

    Attributes:
        stored: number of files that were stored again.
        removed: number of entries that were removed, as an artifact of theirs is lost.
        failed: number of files that could not be stored again; the logs are kept then.
    """

    stored: int = 0
    removed: int = 0
    failed: int = 0


def recover(
    root: Path,
    temporary: TemporaryFolder,
    *,
    require_artifacts: bool,
    damaged: Path | None = None,
) -> Recovered:
    """Store again what logs hold and the disk does not, then remove those logs.

    It waits for another process that does the same.

    Args:
        root: the storage folder.
        temporary: where files are written that are stored again.
        require_artifacts: whether entries without their artifacts are removed.
        damaged: the folder of a log of which a checkpoint has failed, if that could not be noted.

    Raises:
        OSError: the logs cannot be read, or the disk failed.
    """
    if not (root / LOGS).exists():
        return Recovered()
    with ExitStack() as locks:
        locks.enter_context(FolderLock(root / LOGS, until=math.inf))
        recovery = _Recovery(FileStore(root, temporary, durable=False), require_artifacts)
        logs = [log for log in abandoned_logs(root, locks) if recovery.take_in(log, log == damaged)]
        if not logs:
            return Recovered()
        recovered = recovery.run()
        checkpoint(root)
        for log in [] if recovered.failed else logs:
            shutil.rmtree(log)
        return recovered


class _Recovery:
    """One recovery into `store`, which need not sync."""

    def __init__(self, store: FileStore, require_artifacts: bool) -> None:
        self._store = store
        self._require_artifacts = require_artifacts
        self._entries = EntryWriter(store, require_artifacts=require_artifacts)
        self._records: dict[Key, LogRecord] = {}  # the newest of each key
        self._cleaned: set[Key] = set()
        self._doubtful: set[Key] = set()  # the disk may lack what the kernel shows
        self._stored = self._removed = self._failed = 0

    def take_in(self, log: Path, is_doubtful: bool) -> bool:
        """Take in the records of a log, if it needs recovery; return whether it does."""
        is_doubtful |= is_damaged(log)
        segments = [(boot, records) for boot, records in read(log)]
        if not is_doubtful and all(boot == boot_id() for boot, _ in segments):
            return False
        for _, records in segments:
            for record in records:
                key = key_at(PurePath(record.place).parts)
                if key is None:
                    continue
                if not self._is_of_today(key, record):
                    self._cleaned.add(key)
                else:
                    known = self._records.setdefault(key, record)
                    if known.time < record.time:
                        self._records[key] = record
                    if is_doubtful:
                        self._doubtful.add(key)
        return True

    def run(self) -> Recovered:
        """Store again what is missing: artifacts first, then the entries, which refer to them."""
        for key in self._cleaned - self._records.keys():
            if self._whole(key) is None:
                key.path(self._store.root).unlink(missing_ok=True)
        lost = [key for key in self._records if not key.kind.refers and self._kept(key) is None]
        for keys in _batches(lost):
            self._publish(keys)
        for keys in _batches([key for key in self._records if key.kind.refers]):
            self._settle_entries(keys)
        return Recovered(self._stored, self._removed, self._failed)

    def _is_of_today(self, key: Key, record: LogRecord) -> bool:
        """Whether the project has not been cleaned since the record was logged."""
        return is_same_folder(record.project, identity_of(key.project.path(self._store.root)))

    def _kept(self, key: Key) -> bytes | None:
        """The bytes of the file of `key`, if it is to stay as it is."""
        record, path = self._records[key], key.path(self._store.root)
        if key.kind.refers or key in self._doubtful:
            with suppress(FileNotFoundError):
                written = path.lstat().st_mtime_ns
                is_newer = key.kind.refers and written > record.time
                if not is_newer and (written < record.time or key in self._doubtful):
                    return None
        return self._whole(key)

    def _whole(self, key: Key) -> bytes | None:
        """The bytes of the file of `key`, if it is whole."""
        fd = open_or_fault(key.path(self._store.root))
        if fd is None or isinstance(fd, Fault):
            return None
        with open(fd, "rb") as file:  # noqa: PTH123
            recorded = read_checksum(fd)
            data = file.read()
        is_whole = recorded is not None and hashlib.sha256(data).digest() == recorded.digest
        return data if is_whole else None

    def _publish(self, keys: Sequence[Key]) -> None:
        """Store artifacts in the place of what is there."""
        outcomes = self._store.replace(
            [
                Replacement(key.path(self._store.root), self._data(key), self._records[key].time)
                for key in keys
            ]
        )
        for key, outcome in zip(keys, outcomes, strict=True):
            self._count(key, outcome)

    def _settle_entries(self, keys: Sequence[Key]) -> None:
        """Store entries in the place of what is there, or remove what refers to what is lost."""
        lost: list[EntryWrite] = []
        for key in keys:
            found = self._kept(key)
            if found is None:
                body = self._data(key)
                lost.append(EntryWrite(key, body, references_in(body), self._records[key].time))
            elif self._require_artifacts and not self._has_artifacts(key, found):
                self._remove(key)
        for write, outcome in zip(lost, self._entries.put(lost), strict=True):
            if isinstance(outcome, MissingArtifact):
                self._remove(write.key)
            else:
                self._count(write.key, outcome)

    def _count(self, key: Key, outcome: object) -> None:
        """Count a file that was stored again, or could not be: then none that is torn stays."""
        if not isinstance(outcome, OSError):
            self._stored += 1
            return
        self._failed += 1
        self._doubtful.discard(key)  # better what the kernel shows than nothing
        if self._kept(key) is None:
            key.path(self._store.root).unlink(missing_ok=True)

    def _has_artifacts(self, key: Key, body: bytes) -> bool:
        return all(
            artifact_is_there(self._store, key.project, each) for each in references_in(body)
        )

    def _remove(self, key: Key) -> None:
        key.path(self._store.root).unlink(missing_ok=True)
        self._removed += 1

    def _data(self, key: Key) -> bytes:
        return b"".join(self._records[key].pieces)


def _batches(keys: Sequence[Key]) -> Iterator[Sequence[Key]]:
    for start in range(0, len(keys), _BATCH):
        yield keys[start : start + _BATCH]
