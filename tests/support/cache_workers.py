"""Processes that use a storage folder concurrently, as clients and nginx do, until they are killed.

    python -m tests.support.cache_workers write <root> <seed> <ledger>         clients that build
    python -m tests.support.cache_workers read <root> <seed> strictatime       nginx
    python -m tests.support.cache_workers read <root> <seed> noatime           nginx

Writers and readers print a line for each violation. Writers also append a line to the ledger for
each acknowledged entry: the time when its put began, and the files that must exist.

A missing file is a violation only if it was used recently enough; a slow machine can hide one, but
never cause one.
"""

import hashlib
import os
import random
import sys
import time
from collections import deque
from pathlib import Path

from cache_actors.kinds import Kind
from cache_actors.storage.entries import EntryWrite, EntryWriter, MissingArtifact
from cache_actors.storage.eviction.run import HURRIED_SECONDS
from cache_actors.storage.files.store import RECENT_NS, FileStore, Publication
from cache_actors.storage.files.temporary import TemporaryFolder
from cache_actors.storage.layout import TEMPORARY, Key, Project
from cache_actors.storage.references import references_in

PROJECTS = [Project("acme", "app"), Project("acme", "lib")]
ARTIFACTS = 4000
ENTRIES = 2000
HOT = 25
"""Number of entries that are read all the time, while their artifacts are not."""

LARGEST = 12 * 1024

SPARED = HURRIED_SECONDS - RECENT_NS / 1e9
"""Seconds for which an entry that was put, and its artifacts, must stay."""

GRACE = HURRIED_SECONDS * 0.9
"""Seconds for which the artifacts of an entry that was read must stay."""

PAUSE = 0.002
"""Seconds between two builds of a writer, so that other processes get CPU time."""


def artifact(number: object) -> str:
    """The id of the CAS artifact `number`."""
    return hashlib.sha256(f"artifact {number}".encode()).hexdigest().upper()


def entry(number: int) -> Key:
    """The key of the entry `number`, which all writers put."""
    name = hashlib.sha256(f"entry {number}".encode()).hexdigest()
    return Key(PROJECTS[number % len(PROJECTS)], Kind.KEYVALUE, f"0~{name}=")


def artifacts_of(root: Path, project: Project, body: bytes) -> list[Path]:
    """The paths of the artifacts that an entry with this body refers to."""
    return [Key(project, Kind.CAS, each).path(root) for each in references_in(body)]


def incomplete_entries(root: Path) -> list[str]:
    """The paths of stored entries with a missing artifact."""
    return [
        str(path)
        for path in root.glob("*/*/keyvalue/*/*.json")
        if not all(
            each.exists()
            for each in artifacts_of(
                root, Project(*path.relative_to(root).parts[:2]), path.read_bytes()
            )
        )
    ]


def say(what: str) -> None:
    """Print a line unbuffered, since the process may be killed at any time."""
    os.write(sys.stdout.fileno(), f"{what}\n".encode())


class Writer:
    """Builds with cache misses, which upload missing or new artifacts and then put an entry."""

    def __init__(self, root: Path, seed: str, ledger: Path) -> None:
        self._store = FileStore(root, TemporaryFolder(root / TEMPORARY), durable=False)
        self._writer = EntryWriter(self._store, require_artifacts=True)
        self._root = root
        self._random = random.Random(seed)
        self._seed = seed
        self._new = 0
        self._ledger = os.open(ledger, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        self._recent: deque[tuple[float, list[Path]]] = deque()

    def run(self) -> None:
        while True:
            self._build(entry(self._random.randrange(ENTRIES)))
            time.sleep(PAUSE)
            while self._recent and time.time() - self._recent[0][0] > SPARED / 2:
                self._look(*self._recent.popleft())

    def _build(self, wanted: Key) -> None:
        ids = [self._artifact() for _ in range(self._random.randint(1, 3))]
        values = ",".join(f'{{"value":"{each}"}}' for each in ids)
        write = EntryWrite(wanted, f'{{"entries":[{values}]}}'.encode(), frozenset(ids))
        uploads = {each: Key(wanted.project, Kind.CAS, each).path(self._root) for each in ids}
        for each, path in uploads.items():
            if not path.exists():  # nginx answers 204 if it does
                self._upload(each, path)
        began = time.time()
        while isinstance(outcome := self._writer.put([write])[0], MissingArtifact):
            self._upload(outcome.artifact_id, uploads[outcome.artifact_id])
            began = time.time()
        if outcome is not None:
            raise AssertionError(outcome)
        files = [wanted.path(self._root), *uploads.values()]
        os.write(self._ledger, f"{began} {' '.join(map(str, files))}\n".encode())
        self._recent.append((began, files))

    def _artifact(self) -> str:
        if self._random.random() < 0.8:
            return artifact(self._random.randrange(ARTIFACTS))
        self._new += 1
        return artifact(f"{self._seed} {self._new}")

    def _upload(self, artifact_id: str, path: Path) -> None:
        data = artifact_id.encode() * self._random.randint(1, LARGEST // 64)
        [outcome] = self._store.publish([Publication(str(path), [data])])
        if isinstance(outcome, OSError):
            raise outcome

    def _look(self, began: float, files: list[Path]) -> None:
        """Report files that were put recently and are missing."""
        for path in files:
            if not path.exists() and time.time() - began < SPARED:
                say(f"gone though just put: {path}")


class Reader:
    """Reads as nginx does, without a lock.

    Args:
        moves_access_times: whether reads update access times, as on a mount with strictatime.
    """

    def __init__(self, root: Path, seed: str, *, moves_access_times: bool) -> None:
        self._root = root
        self._random = random.Random(seed)
        self._moves_access_times = moves_access_times
        self._hot: dict[Key, float] = {}  # time of the last read
        self._retrieved: deque[tuple[float, Path, list[Path]]] = deque()

    def run(self) -> None:
        number = 0
        while True:
            number += 1
            if self._moves_access_times:
                self._read_hot(entry(number % HOT))
            self._retrieve(entry(self._random.randrange(HOT, ENTRIES)))
            while self._retrieved and time.monotonic() - self._retrieved[0][0] > GRACE / 2:
                self._look(*self._retrieved.popleft())
            time.sleep(0.001)

    def _read_hot(self, wanted: Key) -> None:
        """Read an entry that is read all the time, and report it if it was evicted."""
        began = time.monotonic()
        body = self._read(wanted.path(self._root))
        before = self._hot.pop(wanted, None)
        if not body and before and time.monotonic() - before < SPARED:
            say(f"evicted though just read: {wanted}")
        self._check(began, wanted, body)
        if body:
            self._hot[wanted] = began

    def _retrieve(self, wanted: Key) -> None:
        began = time.monotonic()
        body = self._read(wanted.path(self._root))
        artifacts = self._check(began, wanted, body)
        self._retrieved.append((began, wanted.path(self._root), artifacts))
        if self._moves_access_times and self._random.random() < 0.5:
            for each in artifacts:
                self._read(each)

    def _check(self, began: float, wanted: Key, body: bytes) -> list[Path]:
        """The artifacts of an entry that was read at `began`; missing ones are reported.

        An artifact that is missing during a whole retrieval of the entry was evicted before that
        began: it existed when the entry was put, and only another upload brings it back, after
        which it would have stayed for longer than the retrieval took.
        """
        path = wanted.path(self._root)
        artifacts = artifacts_of(self._root, wanted.project, body)
        for each in artifacts:
            if each.exists():
                continue
            again, is_missing = self._read(path), not each.exists()
            if time.monotonic() - began > GRACE:
                break
            if again == body and is_missing:
                say(f"retrieved {path} after its artifact was evicted: {each}")
            else:
                say(f"evicted within the grace of {path}: {each}")
        return artifacts

    def _look(self, began: float, path: Path, artifacts: list[Path]) -> None:
        """Report artifacts that are missing within the grace after their entry was read."""
        for each in artifacts:
            if not each.exists() and time.monotonic() - began < GRACE:
                say(f"evicted within the grace of {path}: {each}")

    def _read(self, path: Path) -> bytes:
        try:
            fd = os.open(path, os.O_RDONLY | (0 if self._moves_access_times else os.O_NOATIME))
        except FileNotFoundError:
            return b""
        with open(fd, "rb") as file:  # noqa: PTH123
            return file.read()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["write", its_root, its_seed, its_ledger]:
            Writer(Path(its_root), its_seed, Path(its_ledger)).run()
        case ["read", its_root, its_seed, how]:
            Reader(Path(its_root), its_seed, moves_access_times=how == "strictatime").run()
