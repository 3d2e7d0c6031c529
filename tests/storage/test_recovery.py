"""After a power cut all that was acknowledged is there, and nothing that is torn."""

import errno
import fcntl
import hashlib
import json
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_actors.kinds import Kind
from cache_actors.storage import recovery
from cache_actors.storage.actions import BlobReference, packed_action
from cache_actors.storage.entries import EntryWrite, EntryWriter
from cache_actors.storage.files import write_ahead_log
from cache_actors.storage.files.store import FileStore, Publication, Replacement
from cache_actors.storage.files.temporary import TemporaryFile, TemporaryFolder
from cache_actors.storage.files.write_ahead_log import LogRecord, WriteAheadLog, _OpenLog, can_log
from cache_actors.storage.known_cleans import known_clean, note_clean
from cache_actors.storage.layout import LOGS, TEMPORARY, Key, Project, key_at
from cache_actors.storage.locks import FolderLock
from cache_actors.storage.recovery import Recovered, recover
from cache_actors.storage.references import references_in, targets_in
from cache_actors.storage.trash import clean, empty_trash

from .power_cut import Disk, PowerCut
from .stores import can_lock, refusing

PROJECTS = [Project("acme", "app"), Project("acme", "lib")]
ARTIFACTS = [hashlib.sha256(bytes([number])).hexdigest().upper() for number in range(8)]
ENTRIES = [f"0~{name}=" for name in "abcd"]
ACTIONS = [f"{number:064x}" for number in range(3)]
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108
TMPFS = SHARED_MEMORY if SHARED_MEMORY.is_dir() and can_log(SHARED_MEMORY) else None
SMALL_SEGMENT = 24 << 10
"""Size in bytes of a segment that a few batches fill."""

MOST_STEPS = 600
"""Changes and syncs after which the power is cut at the latest."""


def data_of(artifact_id: str) -> bytes:
    """The bytes of an artifact, of some blocks."""
    return artifact_id.encode() * (1 + int(artifact_id[:2], 16))


class Checkpoints:
    """A thread that makes checkpoints: each at once, or when it is waited for."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def submit(self, action: Callable[..., None], *args: Any) -> Any:
        if self._chance.random() < 0.5:
            return _Late(action, args)
        done: Future[None] = Future()
        action(*args)
        done.set_result(None)
        return done

    def shutdown(self) -> None:
        """There is no thread."""


class _Late:
    """A checkpoint that is made when somebody waits for it."""

    def __init__(self, action: Callable[..., None], args: tuple[Any, ...]) -> None:
        self._action, self._args = action, args

    def result(self) -> None:
        self._action(*self._args)


class Writer:
    """A process that writes, as far as storage goes."""

    def __init__(self, root: Path, chance: random.Random) -> None:
        self._temporary = TemporaryFolder(root / TEMPORARY)
        recover(root, self._temporary, require_artifacts=True)
        self._log = WriteAheadLog(root, lambda _: None, lambda _: None)
        self._log._thread.shutdown()
        self._log._thread = Checkpoints(chance)  # type: ignore[assignment]
        self.store = FileStore(root, self._temporary, durable=True, log=self._log)
        self.entries = EntryWriter(self.store, require_artifacts=True)

    def die(self) -> None:
        """End as a process that is killed: its locks are released, and that is all."""
        self._temporary._lock.close()
        if self._log._open is not None:
            self._log._open.release()

    def end(self) -> None:
        """End in order."""
        self._log.close()
        self._temporary.remove()


class Service:
    """Two writers, and what they have acknowledged.

    Attributes:
        stored: what has to be there, by its key.
        doubtful: what else there may be, None if it may be missing; of calls that were cut short.
        evicted: what may be there again, as long as a log has it.
    """

    def __init__(self, root: Path, chance: random.Random) -> None:
        self.stored: dict[Key, bytes] = {}
        self.doubtful: dict[Key, set[bytes | None]] = {}
        self.evicted: dict[Key, set[bytes | None]] = {}
        self._written: dict[Key, list[bytes]] = {}
        self._root = root
        self._chance = chance
        self._count = 0
        self._writers = [Writer(root, chance) for _ in range(2)]

    def live(self) -> None:
        """Do one thing after the other, until the power is cut."""
        actions = [self._upload, self._put, self._put_alone, self._evict, self._clean, self._crash]
        while True:
            [action] = self._chance.choices(actions, [8, 8, 4, 2, 1, 1])
            action()
            self.doubtful.clear()

    def _upload(self) -> None:
        keys = [self._artifact() for _ in range(self._chance.randint(1, 5))]
        for key in keys:
            self.doubtful[key] = {data_of(key.id), self.stored.get(key)}
        batch = [Publication(str(key.path(self._root)), [data_of(key.id)]) for key in keys]
        for key, outcome in zip(keys, self._writer().store.publish(batch), strict=True):
            assert not isinstance(outcome, OSError)
            self._store(key, data_of(key.id))

    def _put(self) -> None:
        kinds = self._chance.choices([Kind.KEYVALUE, Kind.ACTION], k=self._chance.randint(1, 4))
        writes = []
        for kind in kinds:
            key = self._key(kind, ENTRIES if kind is Kind.KEYVALUE else ACTIONS)
            some = self._chance.sample(ARTIFACTS, self._chance.randint(0, 2))
            body = self._body(some) if kind is Kind.KEYVALUE else self._action(some)
            writes.append(EntryWrite(key, body, references_in(body)))
            self.doubtful.setdefault(key, {self.stored.get(key)}).add(body)
        for write, outcome in zip(writes, self._writer().entries.put(writes), strict=True):
            if outcome is None:
                self._store(write.key, write.body)

    def _put_alone(self) -> None:
        key = self._key(Kind.KEYVALUE, ENTRIES)
        body = self._body([])
        self.doubtful[key] = {body, self.stored.get(key)}
        assert self._writer().entries.put([EntryWrite(key, body, frozenset())]) == [None]
        self._store(key, body)

    def _store(self, key: Key, data: bytes) -> None:
        self.stored[key] = data
        self._written.setdefault(key, []).append(data)

    def _evict(self) -> None:
        """As a pass does: what refers to an artifact goes before it, and that is synced."""
        artifact = self._artifact()
        for key, body in list(self.stored.items()):
            refers = any(artifact.id in t.ids and artifact.kind is t.kind for t in targets_in(body))
            if key.project == artifact.project and refers:
                self._remove(key)
        self._remove(artifact)

    def _remove(self, key: Key) -> None:
        self.evicted[key] = {None, *self._written.get(key, ())}
        self.stored.pop(key, None)
        path = key.path(self._root)
        path.unlink(missing_ok=True)
        if path.parent.exists():
            fd = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def _clean(self) -> None:
        project = self._chance.choice(PROJECTS)
        for key in [key for key in self.stored if key.project == project]:
            self.doubtful[key] = {None, self.stored.pop(key)}
        clean(self._root, project)
        self.doubtful.clear()
        for gone in (self.evicted, self._written):
            for key in [key for key in gone if key.project == project]:
                del gone[key]
        for _ in empty_trash(self._root):
            pass

    def _crash(self) -> None:
        place = self._chance.randrange(2)
        self._chance.choice([self._writers[place].die, self._writers[place].end])()
        self._writers[place] = Writer(self._root, self._chance)

    def _writer(self) -> Writer:
        return self._chance.choice(self._writers)

    def _key(self, kind: Kind, ids: list[str]) -> Key:
        return Key(self._chance.choice(PROJECTS), kind, self._chance.choice(ids))

    def _artifact(self) -> Key:
        if self._chance.random() < 0.5:
            return self._key(Kind.CAS, ARTIFACTS)
        return self._key(Kind.BLOB, [each.lower() for each in ARTIFACTS])

    def _action(self, blobs: list[str]) -> bytes:
        self._count += 1
        references = [BlobReference(each.lower(), len(data_of(each.lower()))) for each in blobs]
        return packed_action([each.packed() for each in references], b"%d" % self._count)

    def _body(self, artifacts: list[str]) -> bytes:
        self._count += 1
        body = {"entries": [{"value": each} for each in artifacts], "number": self._count}
        return json.dumps(body).encode()


def live_until_cut(folder: Path, chance: random.Random, steps: int) -> Service:
    """A service in `folder` / "cas" whose power was cut; `folder` / "after" is what is left."""
    root = folder / "cas"
    root.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(root, patch)
        service = Service(root, chance)
        disk.left = steps
        with pytest.raises(PowerCut):
            service.live()
        disk.after_a_cut(folder / "after", chance)
        disk.close()
    return service


@contextmanager
def started_anew(number: int) -> Iterator[None]:
    """The machine has been started anew. Inodes have other numbers than before, in these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write_ahead_log, "boot_id", lambda: f"{number:036}".encode())
        patch.setattr(recovery, "is_same_folder", lambda recorded, found: recorded[8:] == found[8:])
        yield


def recover_after_cuts(folder: Path, chance: random.Random) -> Path:
    """Recover what is left, with up to two power cuts on the way; return the storage folder."""
    root = folder / "after"
    for number in range(chance.choice([0, 0, 1, 2])):
        with started_anew(number), pytest.MonkeyPatch.context() as patch:
            disk = Disk(root, patch)
            disk.left = chance.randrange(100)
            try:
                recover(root, TemporaryFolder(root / TEMPORARY), require_artifacts=True)
            except PowerCut:
                root = folder / f"after {number}"
                disk.after_a_cut(root, chance)
            disk.close()
    with started_anew(9):
        temporary = TemporaryFolder(root / TEMPORARY)
        assert recover(root, temporary, require_artifacts=True).failed == 0
        temporary.remove()
    return root


def faults(root: Path, service: Service) -> Iterator[str]:
    """What is not as it has to be."""
    found: dict[Key, bytes] = {}
    for path in root.rglob("*"):
        key = key_at(path.relative_to(root).parts)
        if path.is_file() and key is not None:
            found[key] = path.read_bytes()
    for key in service.stored.keys() | found.keys():
        allowed = service.doubtful.get(key, {service.stored.get(key)})
        if key not in service.stored:
            allowed = allowed | service.evicted.get(key, set())
        if found.get(key) not in allowed:
            yield f"{key.place} is {found.get(key)!r:.60}, not of {allowed!r:.200}"
    for key, body in found.items():
        for target in targets_in(body) if key.kind.refers else ():
            if not any(Key(key.project, target.kind, each) in found for each in target.ids):
                yield f"{key.place} has lost {target.name}"


def faults_after_a_cut(seed: int, steps: int) -> list[str]:
    """What is wrong after a life of `steps` changes that `seed` has chosen, and a power cut."""
    chance = random.Random(seed)
    folder = Path(mkdtemp(dir=TMPFS))
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(write_ahead_log, "SEGMENT_BYTES", SMALL_SEGMENT)
            patch.setattr(write_ahead_log, "GROWTH_BYTES", 4096)
            patch.setattr(write_ahead_log, "_ZEROS", bytes(4096))
            service = live_until_cut(folder, chance, steps)
            return list(faults(recover_after_cuts(folder, chance), service))
    finally:
        shutil.rmtree(folder)


CUTS = given(seed=st.integers(0, 2**32), steps=st.integers(0, MOST_STEPS))


@CUTS
def test_what_was_acknowledged_survives_a_power_cut(seed: int, steps: int) -> None:
    assert faults_after_a_cut(seed, steps) == []


@pytest.mark.nightly
@settings(max_examples=5000, deadline=None)
@CUTS
def test_what_was_acknowledged_survives_thousands_of_power_cuts(seed: int, steps: int) -> None:
    assert faults_after_a_cut(seed, steps) == []


@pytest.fixture
def dead(root: Path) -> Path:
    """The log of a writer that was killed, with an artifact and an entry that refers to it."""
    writer = Writer(root, random.Random(1))
    artifact, body = Key(PROJECTS[0], Kind.CAS, ARTIFACTS[0]), ENTRY_BODY
    writer.store.publish([Publication(str(artifact.path(root)), [data_of(artifact.id)])])
    entry = Key(PROJECTS[0], Kind.KEYVALUE, ENTRIES[0])
    writer.entries.put([EntryWrite(entry, body, references_in(body))])
    writer.die()
    (folder,) = (root / LOGS).iterdir()
    return folder


ENTRY_BODY = json.dumps({"entries": [{"value": ARTIFACTS[0]}]}).encode()
PATHS = [
    Key(PROJECTS[0], Kind.CAS, ARTIFACTS[0]).place,
    Key(PROJECTS[0], Kind.KEYVALUE, ENTRIES[0]).place,
]


def test_what_a_killed_process_has_stored_needs_no_recovery(
    root: Path, dead: Path, temporary: TemporaryFolder
) -> None:
    assert recover(root, temporary, require_artifacts=True) == Recovered()
    assert dead.exists()


@pytest.mark.parametrize("is_noted", [True, False])
def test_files_of_a_damaged_log_are_stored_again_though_the_kernel_shows_them(
    root: Path,
    dead: Path,
    temporary: TemporaryFolder,
    monkeypatch: pytest.MonkeyPatch,
    is_noted: bool,
) -> None:
    inodes = [(root / path).stat().st_ino for path in PATHS]
    if is_noted:
        (dead / write_ahead_log.DAMAGED).touch()
    damaged = None if is_noted else dead
    really_replace = FileStore.replace

    def replace(store: FileStore, batch: Sequence[Replacement]) -> list[OSError | None]:
        assert not can_lock(PROJECTS[0].path(root), fcntl.LOCK_EX), "somebody may remove them"
        return really_replace(store, batch)

    monkeypatch.setattr(FileStore, "replace", replace)
    found = recover(root, temporary, require_artifacts=True, damaged=damaged)
    assert found == Recovered(logged=2, stored=2)
    assert all((root / p).stat().st_ino != i for p, i in zip(PATHS, inodes, strict=True))
    assert (root / PATHS[1]).read_bytes() == ENTRY_BODY
    assert not dead.exists()


def test_files_that_a_known_clean_has_taken_are_not_stored_again(
    root: Path, dead: Path, temporary: TemporaryFolder
) -> None:
    """They were removed one by one, as another node was asked to clean the project."""
    (dead / write_ahead_log.DAMAGED).touch()
    for path in PATHS:
        (root / path).unlink()
    note_clean(root, PROJECTS[0], time.time_ns())
    assert recover(root, temporary, require_artifacts=True) == Recovered()
    assert not any((root / path).exists() for path in PATHS)
    assert not dead.exists()


def test_artifact_is_stored_again_though_one_is_there_that_a_clean_is_about_to_take(
    root: Path, dead: Path, temporary: TemporaryFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had taken the place of that one, and the power was cut before the disk had its name."""
    path = root / PATHS[0]
    stored = path.stat().st_mtime_ns
    os.utime(path, ns=(stored - 2 * 10**9, stored - 2 * 10**9))
    note_clean(root, PROJECTS[0], stored - 10**9)
    monkeypatch.setattr(write_ahead_log, "boot_id", lambda: b"another boot".ljust(36))
    assert recover(root, temporary, require_artifacts=True) == Recovered(logged=2, stored=1)
    assert path.stat().st_mtime_ns > known_clean(root, PROJECTS[0]).going


@pytest.mark.parametrize("is_torn", [True, False])
def test_file_that_cannot_be_stored_again_stays_if_it_is_whole_and_its_log_with_it(
    root: Path,
    dead: Path,
    temporary: TemporaryFolder,
    monkeypatch: pytest.MonkeyPatch,
    is_torn: bool,
) -> None:
    (dead / write_ahead_log.DAMAGED).touch()
    if is_torn:
        for path in PATHS:
            (root / path).write_bytes(b"")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refusing(errno.ENOSPC))
        found = recover(root, temporary, require_artifacts=True)
    if is_torn:  # the entry was not tried, as its artifact is gone
        assert found == Recovered(logged=2, removed=1, failed=1)
        assert not any((root / path).exists() for path in PATHS)
    else:
        assert found == Recovered(logged=2, failed=2)
        assert (root / PATHS[1]).read_bytes() == ENTRY_BODY
    assert recover(root, temporary, require_artifacts=True) == Recovered(logged=2, stored=2)
    assert (root / PATHS[0]).read_bytes() == data_of(ARTIFACTS[0])


def test_file_that_cannot_be_read_is_stored_again(
    root: Path, dead: Path, temporary: TemporaryFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with started_anew(1), monkeypatch.context() as patch:
        patch.setattr(recovery, "read_checksum", refusing(errno.EIO))
        assert recover(root, temporary, require_artifacts=True) == Recovered(logged=2, stored=2)
    assert not dead.exists()


@pytest.mark.parametrize("is_moved", [True, False])
def test_torn_artifact_is_written_in_its_place_unless_a_scrub_takes_it_away(
    root: Path,
    dead: Path,
    temporary: TemporaryFolder,
    monkeypatch: pytest.MonkeyPatch,
    is_moved: bool,
) -> None:
    artifact = root / PATHS[0]
    artifact.write_bytes(b"")
    inode = artifact.stat().st_ino
    really_seal = TemporaryFile.seal

    def seal(file: TemporaryFile) -> None:
        really_seal(file)
        if is_moved and artifact.exists():
            artifact.rename(root / "quarantined")

    monkeypatch.setattr(TemporaryFile, "seal", seal)
    with started_anew(1):
        assert recover(root, temporary, require_artifacts=True).stored == 1
    assert artifact.read_bytes() == data_of(ARTIFACTS[0])
    assert (artifact.stat().st_ino != inode) is is_moved


def test_nothing_is_written_upon_that_is_no_torn_file_of_ours(
    root: Path, dead: Path, temporary: TemporaryFolder
) -> None:
    artifact, other = root / PATHS[0], root.parent / "other"
    os.link(artifact, other)
    other.write_bytes(b"torn")
    with started_anew(1):
        assert recover(root, temporary, require_artifacts=True).stored == 1
    assert (artifact.read_bytes(), other.read_bytes()) == (data_of(ARTIFACTS[0]), b"torn")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_holds_up_no_recovery(
    root: Path, dead: Path, temporary: TemporaryFolder, make: Callable[[Path], None]
) -> None:
    artifact = root / PATHS[0]
    artifact.unlink()
    make(artifact)
    with started_anew(1):
        recovered = recover(root, temporary, require_artifacts=False)
    assert (recovered.stored, recovered.failed) == (1, 0) if artifact.is_file() else (0, 1)
    assert artifact.is_file() is (make is os.mkfifo)


@pytest.mark.parametrize("older", [b'{"entries": []}', b""], ids=["whole", "torn"])
def test_entry_is_not_written_upon(
    root: Path, dead: Path, temporary: TemporaryFolder, older: bytes
) -> None:
    """After another power cut older bytes could have the time of the newer ones."""
    entry = root / PATHS[1]
    FileStore(root, temporary, durable=False).replace([Replacement(str(entry), older, time=1)])
    inode = entry.stat().st_ino
    with started_anew(1):
        assert recover(root, temporary, require_artifacts=True).stored == 1
    assert entry.read_bytes() == ENTRY_BODY
    assert entry.stat().st_ino != inode


def test_nobody_stores_entries_while_those_of_a_project_are_recovered(
    root: Path, dead: Path, temporary: TemporaryFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else an older one could be put in the place of one that has just been acknowledged."""
    locked: list[bool] = []
    really_replace = FileStore.replace

    def replace(store: FileStore, batch: Sequence[Replacement]) -> Any:
        project = PROJECTS[0].path(root)
        try:
            FolderLock(project, shared=True).close()
        except BlockingIOError:
            locked.append(True)
        else:
            locked.append(False)
        return really_replace(store, batch)

    monkeypatch.setattr(FileStore, "replace", replace)
    assert recover(root, temporary, require_artifacts=True, damaged=dead).stored == 2
    assert locked == [False, True]  # artifacts, then entries


@pytest.mark.parametrize("is_torn", [True, False])
@pytest.mark.parametrize("require_artifacts", [True, False])
def test_entry_whose_artifact_is_lost_is_removed_unless_that_is_allowed(
    root: Path, temporary: TemporaryFolder, is_torn: bool, require_artifacts: bool
) -> None:
    relaxed = FileStore(root, temporary, durable=False)
    relaxed.publish([Publication(str(root / PATHS[0]), [b"lost"])])
    writer = Writer(root, random.Random(1))
    entry = Key(PROJECTS[0], Kind.KEYVALUE, ENTRIES[0])
    writer.entries.put([EntryWrite(entry, ENTRY_BODY, references_in(ENTRY_BODY))])
    writer.die()
    (root / PATHS[0]).unlink()
    if is_torn:
        (root / PATHS[1]).write_bytes(b"")
    with started_anew(1):
        found = recover(root, temporary, require_artifacts=require_artifacts)
    if require_artifacts:
        assert found == Recovered(logged=1, removed=1)
        assert not (root / PATHS[1]).exists()
    else:
        assert found == Recovered(logged=1, stored=int(is_torn))
        assert (root / PATHS[1]).read_bytes() == ENTRY_BODY


# That the simulation finds what it is there for: each of these breaks the order.


def _name_before_logging(patch: pytest.MonkeyPatch) -> None:
    late: list[LogRecord] = []
    really_append, really_settle = WriteAheadLog.append, FileStore._settle

    def settle(self: FileStore, *args: Any, **how: Any) -> Any:
        if self._log is not None and late:
            really_append(self._log, late)
            late.clear()
        return really_settle(self, *args, **how)

    patch.setattr(WriteAheadLog, "append", lambda _, records: late.extend(records))
    patch.setattr(FileStore, "_settle", settle)


def _forget_to_sync_the_log(patch: pytest.MonkeyPatch) -> None:
    class WithoutSync:
        fdatasync = staticmethod(lambda _: None)

        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

    patch.setattr(write_ahead_log, "os", WithoutSync())


def _forget_to_sync_the_names_of_logs(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(write_ahead_log, "sync_folder", lambda _: True)


def _use_a_segment_too_soon(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_OpenLog, "_finish_checkpoint", lambda _: None)


def _remove_logs_of_the_dead_too_soon(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Disk, "syncfs", lambda *_: 0)


def _forget_that_a_project_was_cleaned(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("cache_actors.storage.files.folders._identify", lambda _: None)


def _take_a_folder_for_another(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(FileStore, "_log_again", lambda _: {})


def _take_the_older_entry(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(recovery._Recovery, "_kept", recovery._Recovery._whole)


@pytest.mark.parametrize(
    "break_it",
    [
        _name_before_logging,
        _forget_to_sync_the_log,
        _forget_to_sync_the_names_of_logs,
        _use_a_segment_too_soon,
        _remove_logs_of_the_dead_too_soon,
        _forget_that_a_project_was_cleaned,
        pytest.param(_take_a_folder_for_another, marks=pytest.mark.nightly),
        _take_the_older_entry,
    ],
)
def test_broken_order_is_found(
    break_it: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    break_it(monkeypatch)
    assert any(faults_after_a_cut(seed, 37 * seed % MOST_STEPS) for seed in range(3000))
