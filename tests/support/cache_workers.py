"""Those who work on a storage folder at the same time, each a process that runs until it is killed.

    python -m tests.support.cache_workers write <root> <seed> <ledger>         clients that build
    python -m tests.support.cache_workers read <root> <seed> strictatime       nginx
    python -m tests.support.cache_workers read <root> <seed> noatime           nginx

Writers and readers print a line for each thing that should not be; writers also one into the ledger
for each entry that has been acknowledged: when its put began, and the files that there have to be.

What they take for proof depends on the time that has passed, and on nothing if too much has: nobody
knows then what a pass may have done meanwhile.
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
from cache_actors.storage.eviction_pass import MINIMUM_GRACE
from cache_actors.storage.files import RECENT_NS, FileStore, Publication
from cache_actors.storage.layout import TEMPORARY, Entry, Project
from cache_actors.storage.references import references_in
from cache_actors.storage.temporary import TemporaryFolder

PROJECTS = [Project("acme", "app"), Project("acme", "lib")]
ARTIFACTS = 4000
ENTRIES = 2000
HOT = 25
"""Of the entries: those that are read all the time, while their artifacts aren't."""

LARGEST = 12 * 1024

SPARED = MINIMUM_GRACE - RECENT_NS / 1e9
"""Seconds for which what has been put stays in any case."""

GRACE = MINIMUM_GRACE * 0.9
"""Seconds for which the artifacts of an entry that has been read stay in any case."""

PAUSE = 0.002
"""Seconds between two builds of a writer, so that the others get on too."""


def artifact(number: object) -> str:
    """An id of an artifact."""
    return hashlib.sha256(f"artifact {number}".encode()).hexdigest().upper()


def entry(number: int) -> Entry:
    """An entry that writers share."""
    name = hashlib.sha256(f"entry {number}".encode()).hexdigest()
    return Entry(PROJECTS[number % len(PROJECTS)], Kind.KEYVALUE, f"0~{name}=")


def artifacts_of(root: Path, project: Project, body: bytes) -> list[Path]:
    """The files of the artifacts that an entry with this body refers to."""
    return [Entry(project, Kind.CAS, each).path(root) for each in references_in(body)]


def incomplete_entries(root: Path) -> list[str]:
    """The entries on disk of which an artifact is missing."""
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
    """Print a line at once, as the next moment may be the last."""
    os.write(sys.stdout.fileno(), f"{what}\n".encode())


class Writer:
    """Builds that miss: they upload what does not exist, or what is new, and then put an entry."""

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

    def _build(self, wanted: Entry) -> None:
        ids = [self._artifact() for _ in range(self._random.randint(1, 3))]
        values = ",".join(f'{{"value":"{each}"}}' for each in ids)
        write = EntryWrite(wanted, f'{{"entries":[{values}]}}'.encode(), frozenset(ids))
        uploads = {each: Entry(wanted.project, Kind.CAS, each).path(self._root) for each in ids}
        for each, path in uploads.items():
            if not path.exists():  # nginx says 204 to what exists
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
        [outcome] = self._store.publish([Publication(path, [data])])
        if isinstance(outcome, OSError):
            raise outcome

    def _look(self, began: float, files: list[Path]) -> None:
        """What has been put a moment ago has to be there."""
        for path in files:
            if not path.exists() and time.time() - began < SPARED:
                say(f"gone though just put: {path}")


class Reader:
    """Reads as nginx does, without a lock.

    Args:
        moves_access_times: whether it reads as from a mount on which reads move them, or from one
            on which they don't.
    """

    def __init__(self, root: Path, seed: str, *, moves_access_times: bool) -> None:
        self._root = root
        self._random = random.Random(seed)
        self._moves_access_times = moves_access_times
        self._hot: dict[Entry, float] = {}  # when it was read last
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

    def _read_hot(self, wanted: Entry) -> None:
        """What is read all the time stays."""
        began = time.monotonic()
        body = self._read(wanted.path(self._root))
        before = self._hot.pop(wanted, None)
        if not body and before and time.monotonic() - before < SPARED:
            say(f"evicted though just read: {wanted}")
        self._check(began, wanted, body)
        if body:
            self._hot[wanted] = began

    def _retrieve(self, wanted: Entry) -> None:
        began = time.monotonic()
        body = self._read(wanted.path(self._root))
        artifacts = self._check(began, wanted, body)
        self._retrieved.append((began, wanted.path(self._root), artifacts))
        if self._moves_access_times and self._random.random() < 0.5:
            for each in artifacts:
                self._read(each)

    def _check(self, began: float, wanted: Entry, body: bytes) -> list[Path]:
        """The artifacts of an entry that was read at `began`; it is an error if one is missing.

        One that is missing for a whole retrieval of the entry was evicted before that began: it
        had been there when the entry was put, and comes back at the earliest with another upload,
        after which it would have stayed for longer than this has taken.
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
        """Whoever has an entry has a while for its artifacts."""
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
