"""Recovery: what logs of before a power cut hold, and the disk does not, is stored again.

The head of `files/write_ahead_log.py` says why that may be needed, and why nobody reads meanwhile
at a start. After a checkpoint that failed, the same is done while the service runs.

A file is *whole* if its bytes have the checksum that is recorded for it. A record of the log is
stored again unless there is a whole file of its name. For an entry, that file must also be at least
as new, and for an artifact, be none that a clean is about to take. No record is stored again whose
project has been cleaned since: its folder is gone, or another one, or a clean is known that takes
it (`known_cleans.py`). A torn file at its path is removed then: it was being stored during the
clean. Recovery may store a write that was never acknowledged: its client heard an error, or
nothing, and had to expect either. At a start, when nobody reads, a torn artifact is written anew in
its place.

Of several records of an entry the newest counts, whichever process logged it. An action is removed
if a blob of it is lost even so, and an entry if an artifact of it is, unless that is allowed: it
would break the build that finds it. A recovery that is cut short is begun again, as the logs stay
until all is on the disk.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import stat
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO

from .entries import needs_its_targets, target_is_there
from .files.folders import identity_of, is_same_folder, opened_folder
from .files.store import FileStore, Replacement
from .files.temporary import FILE_MODE, TemporaryFile
from .files.write_ahead_log import (
    Position,
    abandoned_logs,
    checkpoint,
    is_damaged,
    needs_recovery,
    read,
    read_at,
)
from .integrity.checksum import read_checksum
from .integrity.quarantine import DAMAGE
from .integrity.validation import Fault, open_or_fault
from .known_cleans import known_clean
from .layout import LOGS, Key, key_at
from .locks import FolderLock
from .project_lock import brief, exclusive
from .references import targets_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from .files.temporary import TemporaryFolder
    from .known_cleans import KnownClean
    from .layout import Project

_BATCH = 64  # records that are stored together


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a recovery has done.

    Attributes:
        logged: number of files that the logs held; 0 if nothing had to be looked at.
        stored: number of files that were stored again.
        removed: number of entries and actions that were removed, as an artifact or blob of theirs
            is lost.
        failed: number of files that could not be stored again; the logs are kept then.
    """

    logged: int = 0
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
        damaged: the folder of a log of which a checkpoint has failed, even if the file in it that
            says so could not be written.

    Raises:
        OSError: the logs cannot be read, or the disk failed.
    """
    if not (root / LOGS).exists():
        return Recovered()
    with ExitStack() as opened:
        opened.enter_context(FolderLock(root / LOGS, until=math.inf))
        file_system = opened.enter_context(opened_folder(root))
        store = FileStore(root, temporary, durable=False)
        recovery = _Recovery(store, require_artifacts, opened)
        logs = [
            log for log in abandoned_logs(root, opened) if log == damaged or needs_recovery(log)
        ]
        if not logs:
            return Recovered()
        for log in logs:
            recovery.take_in(log, is_damaged=log == damaged or is_damaged(log))
        recovered = recovery.run()
        checkpoint(root, file_system)
        for log in [] if recovered.failed else logs:
            shutil.rmtree(log)
        return recovered


@dataclass(frozen=True, slots=True)
class _Newest:
    """The newest record of a key: when it was stored (ns), its file, and where the record lies."""

    time: int
    path: Path
    position: Position


class _Recovery:
    """One recovery into `store`, which need not sync; logs are open as long as `opened` is."""

    def __init__(self, store: FileStore, require_artifacts: bool, opened: ExitStack) -> None:
        self._store = store
        self._opened = opened
        self._segments: dict[Path, BinaryIO] = {}
        self._require_artifacts = require_artifacts
        self._newest: dict[Key, _Newest] = {}
        self._cleaned: set[Key] = set()  # of projects that were cleaned
        self._damaged: set[Key] = (
            set()
        )  # may be read from the kernel's cache, and not be on the disk
        self._stored = self._removed = self._failed = 0

    def take_in(self, log: Path, *, is_damaged: bool) -> None:
        """Take in the records of a log; of one that is damaged all are going to be stored again.

        Raises:
            OSError: the log cannot be read.
        """
        folders: dict[Project, tuple[bytes, KnownClean]] = {}
        for position, record in read(log):
            key = key_at(tuple(record.place.split("/")))
            if key is None:
                continue
            if key.project not in folders:
                folder = key.project.path(self._store.root)
                clean = known_clean(self._store.root, key.project)
                folders[key.project] = (identity_of(folder), clean)
            identity, clean = folders[key.project]
            if clean.takes(record.time) or not is_same_folder(record.project, identity):
                self._cleaned.add(key)
                continue
            if key not in self._newest or self._newest[key].time < record.time:
                path = self._store.root / record.place
                self._newest[key] = _Newest(record.time, path, position)
            if is_damaged:
                self._damaged.add(key)

    def run(self) -> Recovered:
        """Store again what is missing: artifacts first, then the entries, which refer to them."""
        for key in self._cleaned - self._newest.keys():
            if self._whole(key) is None:
                self._remove(key)
        artifacts: dict[Project, list[Key]] = {}
        entries: dict[Project, list[Key]] = {}
        for key in self._newest:
            if key.kind.refers:
                entries.setdefault(key.project, []).append(key)
            elif self._kept(key) is None:
                artifacts.setdefault(key.project, []).append(key)
        for project, keys in artifacts.items():
            # If the service runs, nobody may take what is stored for what was there, and remove it.
            with suppress(FileNotFoundError), brief(project.path(self._store.root)):
                self._store_again((key, self._logged(key)) for key in keys)
        for project, keys in entries.items():
            # Others may store entries meanwhile, if the service runs: newer ones are to stay.
            with suppress(FileNotFoundError), exclusive(project.path(self._store.root)):
                self._store_again(self._lost_entries(keys))
        return Recovered(len(self._newest), self._stored, self._removed, self._failed)

    def _kept(self, key: Key) -> bytes | None:
        """The bytes of the file of `key`, if it is to stay as it is."""
        with suppress(FileNotFoundError, NotADirectoryError):
            written, logged = self._path(key).lstat().st_mtime_ns, self._newest[key].time
            is_newer = key.kind.refers and written > logged
            is_older = written < logged and (key.kind.refers or self._is_going(key, written))
            if is_older or (key in self._damaged and not is_newer):
                return None
        return self._whole(key)

    def _is_going(self, key: Key, written: int) -> bool:
        """Whether a file of that time is about to go, so that another had taken its place."""
        return written <= known_clean(self._store.root, key.project).going

    def _whole(self, key: Key) -> bytes | None:
        """The bytes of the file of `key`, if it is whole."""
        fd = open_or_fault(self._path(key))
        if fd is None or isinstance(fd, Fault):
            return None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            return None
        with open(fd, "rb") as file:  # noqa: PTH123
            try:
                recorded, data = read_checksum(fd), file.read()
            except OSError as error:
                if error.errno not in DAMAGE:
                    raise
                return None
        is_whole = recorded is not None and hashlib.sha256(data).digest() == recorded.digest
        return data if is_whole else None

    def _lost_entries(self, keys: Sequence[Key]) -> Iterator[tuple[Key, bytes]]:
        """Those of `keys` that have to be stored again, each with its body.

        Those whose artifacts are lost are removed.
        """
        for key in keys:
            found = self._kept(key)
            body = self._logged(key) if found is None else found
            is_strict = needs_its_targets(key.kind, require_artifacts=self._require_artifacts)
            if is_strict and not self._has_artifacts(key, body):
                self._remove(key)
                self._removed += 1
            elif found is None:
                yield key, body

    def _store_again(self, files: Iterator[tuple[Key, bytes]]) -> None:
        """Store keys, each with the bytes of its newest record, in the place of what is there."""
        while some := list(islice(files, _BATCH)):
            batch = [
                (key, Replacement(str(self._path(key)), body, self._newest[key].time))
                for key, body in some
            ]
            left = [item for key, item in batch if not self._is_rewritten(key, item)]
            failures = dict(
                zip((item.path for item in left), self._store.replace(left), strict=True)
            )
            for key, item in batch:
                self._count(key, failures.get(item.path))

    def _is_rewritten(self, key: Key, item: Replacement) -> bool:
        """Whether there is a torn artifact at the path of `key`, and has been written anew there.

        Only if nobody reads, as at a start, and if it is a file with one name, as ours are. To make
        another file would take several times as long: the file system looks for room for each among
        those that were removed lately. No entry is written upon: after another power cut the disk
        may have older bytes with a newer time, and the time is what says which version counts.
        """
        if self._damaged or key.kind.refers:
            return False
        try:
            fd = os.open(item.path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with closing(TemporaryFile(fd, None)) as file:
                status = os.fstat(fd)
                is_own = stat.S_ISREG(status.st_mode) and status.st_nlink == 1
                if not is_own or read_checksum(fd) is None:  # else it may be whole, and read
                    return False
                os.ftruncate(fd, 0)
                os.fchmod(fd, FILE_MODE)
                file.write([item.data])
                file.set_time(item.time)
                file.seal()
                # A scrub may have moved it to the quarantine meanwhile.
                return os.path.samestat(os.fstat(fd), os.lstat(item.path))
        except OSError:
            return False

    def _remove(self, key: Key) -> None:
        """Remove what is at the path of `key`, unless it is a folder, which is none of ours."""
        with suppress(FileNotFoundError, IsADirectoryError):
            self._path(key).unlink()

    def _count(self, key: Key, outcome: OSError | None) -> None:
        """Count the outcome for `key`; if it failed, remove a torn or older file at its path."""
        if outcome is None:
            self._stored += 1
            return
        self._failed += 1
        self._damaged.discard(key)  # better what the kernel shows than nothing
        if self._kept(key) is None:
            self._remove(key)

    def _has_artifacts(self, key: Key, body: bytes) -> bool:
        return all(target_is_there(self._store, key.project, each) for each in targets_in(body))

    def _logged(self, key: Key) -> bytes:
        """The bytes of the newest record of `key`."""
        position = self._newest[key].position
        segment = self._segments.get(position.segment)
        if segment is None:
            segment = self._opened.enter_context(position.segment.open("rb"))
            self._segments[position.segment] = segment
        return b"".join(read_at(position, segment).pieces)

    def _path(self, key: Key) -> Path:
        newest = self._newest.get(key)
        return newest.path if newest else key.path(self._store.root)
