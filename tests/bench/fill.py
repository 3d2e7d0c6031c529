"""Fills a storage folder with artifacts and entries, as the service would lay them down.

Written straight to disk, by one process for each core: a million of each takes a minute or two.
"""

import hashlib
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path

from cache_actors.kinds import Kind
from cache_actors.storage.layout import shard
from cache_actors.storage.record import Record, write_record
from cache_actors.storage.temporary import FILE_MODE, FOLDER_MODE

from .names import PROJECT, STORED, artifact_id, entry_id, payload, stored_entry

ARTIFACT_BYTES = 100


def fill(storage: Path, first: int, end: int) -> None:
    """Make the artifacts from number `first` up to `end`, and an entry that refers to each."""
    cores = len(os.sched_getaffinity(0))
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        parts = [(storage, range(first + core, end, cores)) for core in range(cores)]
        pool.starmap(fill_part, parts)


def fill_part(storage: Path, numbers: range) -> None:
    """Make the artifacts of these numbers, and their entries, in this process."""
    body = payload(ARTIFACT_BYTES)
    artifact_record = Record(hashlib.sha256(body).digest(), len(body))
    _make(storage, Kind.CAS, ((artifact_id(STORED, n), body, artifact_record) for n in numbers))
    _make(storage, Kind.KEYVALUE, (_entry(n) for n in numbers))


def _entry(number: int) -> tuple[str, bytes, Record]:
    body = stored_entry(artifact_id(STORED, number))
    return entry_id(STORED, number), body, Record(hashlib.sha256(body).digest(), len(body))


def _make(storage: Path, kind: Kind, files: Iterator[tuple[str, bytes, Record]]) -> None:
    folder = PROJECT.path(storage) / kind.folder
    folders: dict[str, int] = {}
    try:
        for name, body, record in files:
            shard_name = shard(name)
            if shard_name not in folders:
                folders[shard_name] = _open_folder(folder / shard_name)
            fd = os.open(
                name + kind.ending,
                os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC,
                FILE_MODE,
                dir_fd=folders[shard_name],
            )
            os.fchmod(fd, FILE_MODE)
            os.write(fd, body)
            write_record(fd, record)
            os.close(fd)
    finally:
        for fd in folders.values():
            os.close(fd)


def _open_folder(folder: Path) -> int:
    for each in (*reversed(folder.parents[:3]), folder):
        if not each.exists():
            each.mkdir(exist_ok=True)
            each.chmod(FOLDER_MODE)
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
