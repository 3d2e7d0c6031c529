"""A clean takes all of a project away at once: nothing comes back, and what comes later stays."""

import errno
import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cache_actors.kinds import Kind
from cache_actors.storage.capacity import Amount
from cache_actors.storage.entries import EntryWrite, EntryWriter, MissingArtifact
from cache_actors.storage.eviction.cutoff import cutoff
from cache_actors.storage.eviction.run import EvictionPass, Limits
from cache_actors.storage.eviction.scan import Scan
from cache_actors.storage.eviction.sweep import Sweep
from cache_actors.storage.files.folders import UNSETTLED_MODE, is_complete
from cache_actors.storage.files.store import FileStore
from cache_actors.storage.files.temporary import TemporaryFolder
from cache_actors.storage.files.unfinished import UnfinishedUploads, UnknownUpload
from cache_actors.storage.health import StorageState
from cache_actors.storage.integrity.scrub import Scrub
from cache_actors.storage.layout import QUARANTINE, TEMPORARY, TRASH, Key
from cache_actors.storage.project_lock import brief, exclusive, shared
from cache_actors.storage.trash import Removed, clean, empty_trash
from tests.support.stored import (
    APP,
    BLOCK_BYTES,
    DAY,
    HOUR,
    LIB,
    Stored,
    artifact_id,
    body_of,
    value_of,
)
from tests.support.waiting import LIMIT, PAUSE, eventually

from .stores import (
    STORED,
    Journal,
    can_lock,
    files_below,
    load,
    loaded,
    publish,
    publish_file,
    replace,
)


def artifact(root: Path, number: int = 0) -> Path:
    return Key(APP, Kind.CAS, artifact_id(number)).path(root)


def entry_of(*numbers: int, name: str = "entry") -> EntryWrite:
    ids = [artifact_id(each) for each in numbers]
    return EntryWrite(Key(APP, Kind.KEYVALUE, name), body_of(value_of(*ids)), frozenset(ids))


def test_all_that_is_stored_of_a_project_goes_and_nothing_else(stored: Stored, root: Path) -> None:
    for number in range(5):
        stored.artifact(number)
        stored.entry(f"e{number}", number)
    other = stored.artifact(9, project=LIB)
    assert clean(root, APP)
    assert not (root / "acme" / "app").exists()
    gone = sum(empty_trash(root), Removed())
    assert gone == Removed(10, gone.bytes)
    assert gone.bytes >= 5 * BLOCK_BYTES
    assert files_below(root) == [other]
    assert list((root / TRASH).iterdir()) == []


def test_project_of_which_nothing_is_stored_is_clean(stored: Stored, root: Path) -> None:
    other = stored.artifact(0, project=LIB)
    assert not clean(root, APP)
    assert sum(empty_trash(root), Removed()) == Removed()
    assert files_below(root) == [other]


def test_what_is_in_quarantine_goes_too(store: FileStore, root: Path) -> None:
    publish(store, artifact(root), b"broken")
    assert store.quarantine.take(artifact(root), artifact(root).stat().st_ino)
    assert files_below(root / QUARANTINE)
    assert clean(root, APP)
    assert files_below(root / QUARANTINE) == []
    assert sum(empty_trash(root), Removed()).files == 1


@pytest.mark.parametrize("before", [True, False], ids=["stored", "already taken away"])
def test_clean_survives_a_power_cut(
    stored: Stored, root: Path, journal: Journal, before: bool
) -> None:
    """Also that of another, which may not have come to its own syncs."""
    path = stored.artifact(0)
    (root / QUARANTINE / "acme" / "app").mkdir(parents=True)
    if not before:
        assert clean(root, APP, durable=False)
    assert clean(root, APP) is before
    assert not path.exists()
    wanted = {root, root / TRASH, root / "acme", root / QUARANTINE / "acme"}
    assert set(journal.synced_folders()) == wanted


def test_what_a_writer_stores_after_the_clean_survives_though_it_knew_the_folders(
    durable: FileStore, root: Path, journal: Journal
) -> None:
    publish(durable, artifact(root), b"before")
    clean(root, APP)
    journal.events.clear()
    assert publish(durable, artifact(root), b"after") is STORED
    assert journal.survives(artifact(root), root)
    assert artifact(root).read_bytes() == b"after"


def test_folders_that_another_makes_after_the_clean_are_trusted_once_they_survive(
    durable: FileStore, root: Path, journal: Journal
) -> None:
    """Of the writer here they were known; the other one has made them, and not synced yet."""
    publish(durable, artifact(root), b"before")
    clean(root, APP)
    for folder in (root / "acme" / "app", root / "acme" / "app" / "cas"):
        folder.mkdir(mode=UNSETTLED_MODE)
    journal.events.clear()
    assert publish(durable, artifact(root), b"after") is STORED
    assert {root / "acme", root / "acme" / "app"} <= set(journal.synced_folders())
    assert all(is_complete(each.stat()) for each in list(artifact(root).parents)[:3])


def test_upload_that_is_just_being_published_is_stored_and_goes(
    store: FileStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_link = os.link

    def link_and_clean(*arguments: object, **how: object) -> None:
        really_link(*arguments, **how)  # type: ignore[arg-type]
        clean(root, APP)

    monkeypatch.setattr(os, "link", link_and_clean)
    assert publish(store, artifact(root), b"x") is STORED
    assert not artifact(root).exists()
    assert store.health.status().state is StorageState.OK


def test_artifact_that_goes_while_it_is_looked_for_is_stored_again(
    store: FileStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store, artifact(root), b"before")
    really_link = os.link

    def link_behind_a_clean(*arguments: object, **how: object) -> None:
        try:
            really_link(*arguments, **how)  # type: ignore[arg-type]
        except FileExistsError:
            clean(root, APP)
            raise

    monkeypatch.setattr(os, "link", link_behind_a_clean)
    monkeypatch.setattr(store, "_is_published", lambda path: False)
    assert publish(store, artifact(root), b"after") is STORED
    assert artifact(root).read_bytes() == b"after"


def test_artifact_is_not_said_to_exist_after_the_clean(store: FileStore, root: Path) -> None:
    publish(store, artifact(root), b"x")
    clean(root, APP)
    assert not store.exists(artifact(root))


def test_entry_in_memory_is_not_found_after_the_clean(store: FileStore, root: Path) -> None:
    path = Key(APP, Kind.KEYVALUE, "entry").path(root)
    replace(store, path, b"{}")
    known = loaded(store, path)
    clean(root, APP)
    assert load(store, path, known) is None


def test_entry_is_refused_whose_artifacts_have_gone(store: FileStore, root: Path) -> None:
    publish(store, artifact(root), b"x")
    writer = EntryWriter(store, require_artifacts=True)
    assert writer.put([entry_of(0)]) == [None]
    clean(root, APP)
    assert isinstance(writer.put([entry_of(0)])[0], MissingArtifact)


def test_clean_waits_for_an_entry_that_is_being_put(stored: Stored, root: Path) -> None:
    path = stored.entry("e")
    with ThreadPoolExecutor(1) as threads, ExitStack() as held:
        held.enter_context(shared(root / "acme" / "app"))
        cleaned = threads.submit(clean, root, APP)
        eventually(lambda: not can_lock(path.parents[1], fcntl.LOCK_SH))
        assert path.exists()
        held.close()
        assert cleaned.result(LIMIT)
    assert not path.exists()


@pytest.mark.parametrize("how", [shared, brief, exclusive])
def test_who_has_waited_for_the_lock_gets_that_of_the_new_folder(
    stored: Stored, root: Path, how: Callable[[Path], ExitStack]
) -> None:
    project = root / "acme" / "app"
    stored.entry("old")
    locked = threading.Event()
    may_end = threading.Event()

    def hold() -> None:
        with how(project):
            locked.set()
            assert may_end.wait(LIMIT)

    with ThreadPoolExecutor(1) as threads:
        with exclusive(project):
            waiting = threads.submit(hold)
            eventually(lambda: _waits_here(project))
            project.rename(root / "taken")
            stored.entry("new")
        assert locked.wait(LIMIT)
        assert not can_lock(project, fcntl.LOCK_EX)
        may_end.set()
        waiting.result(LIMIT)


def _waits_here(project: Path) -> bool:
    """Whether a thread of this process has the folder open a second time."""
    targets = [_target(fd) for fd in Path("/proc/self/fd").iterdir()]
    return targets.count(str(project)) > 1


def _target(fd: Path) -> str:
    try:
        return str(fd.readlink())
    except FileNotFoundError:
        return ""


def test_what_is_no_folder_of_its_own_is_left_where_it_is(
    stored: Stored, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stored.artifact(0)

    def refuse(*_: object) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(OSError, match="a file system of its own") as caught:
        clean(root, APP)
    assert caught.value.errno == errno.EXDEV
    assert path.exists()


def test_project_is_not_said_to_be_clean_when_the_trash_has_been_removed(
    stored: Stored, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stored.artifact(0)
    really_rename = os.rename

    def rename(source: Path, target: Path) -> None:
        (root / TRASH).rmdir()
        really_rename(source, target)

    monkeypatch.setattr(os, "rename", rename)
    stored.entry("e", 0)
    with pytest.raises(FileNotFoundError):
        clean(root, APP)
    assert path.exists()


def test_several_may_empty_the_trash_at_once(stored: Stored, root: Path) -> None:
    for number in range(50):
        stored.artifact(number)
    clean(root, APP)
    one, other = empty_trash(root), empty_trash(root)
    next(one), next(other)
    assert 2 + sum(1 for _ in one) + sum(1 for _ in other) == 50
    assert list((root / TRASH).iterdir()) == []


def test_what_cannot_be_removed_is_told_and_the_rest_goes(
    stored: Stored, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored.artifact(0)
    clean(root, APP)
    stored.artifact(1)
    clean(root, APP)
    stuck = next((root / TRASH).iterdir())
    really_unlink = os.unlink

    def unlink(path: str) -> None:
        if path.startswith(str(stuck)):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        really_unlink(path)

    monkeypatch.setattr(os, "unlink", unlink)
    with pytest.raises(PermissionError):
        list(empty_trash(root))
    assert list((root / TRASH).iterdir()) == [stuck]


# Beside those that walk over what is stored.


@pytest.mark.parametrize("again", [True, False], ids=["used again", "not used again"])
def test_pass_of_eviction_goes_on_when_a_project_is_cleaned_at_any_step(
    stored: Stored, root: Path, again: bool
) -> None:
    steps = 0
    while True:
        for number in range(3):
            stored.artifact(number, DAY)
            stored.entry(f"e{number}", number, age=DAY)
        lib = stored.artifact(9, DAY, LIB)
        scan = Scan(time.time_ns())
        list(scan.run(root))
        rule = cutoff(scan.histogram, Amount(scan.bytes, scan.bytes), HOUR)
        sweep = Sweep(root, rule, grace=0).run([APP, LIB])
        if sum(1 for _ in zip(range(steps), sweep, strict=False)) < steps:
            break
        clean(root, APP)
        new = stored.artifact(50) if again else None
        list(sweep)
        assert new is None or new.exists()
        assert not lib.exists()
        steps += 1
    assert steps > 10


@pytest.mark.parametrize("walk", [lambda r: Scan(time.time_ns()).run(r), lambda r: Scrub(r).run()])
def test_walk_goes_on_when_a_project_is_cleaned_at_any_step(
    stored: Stored, root: Path, walk: Callable[[Path], object]
) -> None:
    steps = 0
    while True:
        for number in range(3):
            stored.artifact(number)
            stored.entry(f"e{number}", number)
        walking = iter(walk(root))  # type: ignore[call-overload]
        if sum(1 for _ in zip(range(steps), walking, strict=False)) < steps:
            break
        clean(root, APP)
        list(walking)
        steps += 1
    assert steps > 4
    assert not (root / QUARANTINE).exists()


def test_pass_of_eviction_removes_what_cleans_have_taken_away_first(
    stored: Stored, root: Path
) -> None:
    (root / TEMPORARY).mkdir()
    stored.artifact(0)
    clean(root, APP)
    list(EvictionPass(root, Limits(1, 1), dry_run=True).run())
    assert files_below(root / TRASH)
    list(EvictionPass(root, Limits(1, 1)).run())
    assert files_below(root / TRASH) == []


# Beside those that store, all at once.

CLEANS = 30


@dataclass
class Build:
    """Builds that miss, one after the other, each with an artifact and an entry of its own.

    Attributes:
        done: of each that was acknowledged: when it began and ended, and its files.
    """

    root: Path
    number: int
    over: threading.Event
    done: list[tuple[float, float, list[Path]]] = field(default_factory=list)

    def run(self) -> None:
        temporary = TemporaryFolder(self.root / TEMPORARY)
        store = FileStore(self.root, temporary, durable=False)
        writer = EntryWriter(store, require_artifacts=True)
        count = 0
        while not self.over.wait(PAUSE):  # else builds store faster than cleans can remove
            count += 1
            number = self.number * 1_000_000 + count
            began = time.monotonic()
            path, write = artifact(self.root, number), entry_of(number, name=f"0~{number}")
            outcome = publish(store, path, b"x")
            assert outcome is STORED, outcome
            [result] = writer.put([write])
            if isinstance(result, MissingArtifact):
                continue
            assert result is None, result
            self.done.append((began, time.monotonic(), [path, write.key.path(self.root)]))
        assert store.health.status().state is StorageState.OK
        temporary.remove()


def incomplete(root: Path) -> list[Path]:
    """The entries on disk of which the artifact is missing."""
    return [
        path
        for path in (root / "acme" / "app").glob("keyvalue/*/*.json")
        if not artifact(root, int(path.stem.removeprefix("0~"))).exists()
    ]


def test_cleans_beside_builds_take_all_from_before_nothing_from_after_and_leave_entries_whole(
    root: Path,
) -> None:
    over = threading.Event()
    builds = [Build(root, number, over) for number in range(3)]
    cleans: list[tuple[float, float]] = []
    with ThreadPoolExecutor(len(builds)) as threads:
        running = [threads.submit(build.run) for build in builds]
        try:
            for _ in range(CLEANS):
                before = sum(len(build.done) for build in builds)
                eventually(
                    lambda before=before: (  # type: ignore[misc]
                        sum(len(build.done) for build in builds) > before + 20
                        or any(each.done() for each in running)
                    )
                )
                began = time.monotonic()
                clean(root, APP, durable=False)
                cleans.append((began, time.monotonic()))
                list(empty_trash(root))
                assert incomplete(root) == []
        finally:
            over.set()
        for each in running:
            each.result(LIMIT)
    last_began, last_ended = cleans[-1]
    for began, ended, files in (each for build in builds for each in build.done):
        if ended < last_began:
            assert not any(path.exists() for path in files)
        elif began > last_ended:
            assert all(path.exists() for path in files)
    assert incomplete(root) == []
    folders = {folder for path in files_below(root / "acme") for folder in path.parents}
    assert all(is_complete(each.stat()) for each in folders if root in each.parents)


def test_uploads_that_are_not_complete_go_too(
    store: FileStore, root: Path, temporary: TemporaryFolder
) -> None:
    uploads = UnfinishedUploads(store, temporary)
    gone, other = (uploads.start(Key(project, Kind.MODULE, "ab" * 32)) for project in (APP, LIB))
    for upload, project in (gone, APP), (other, LIB):
        uploads.put(upload, project, 1, [b"part"])
    with uploads.open(gone, APP) as opened:
        assert clean(root, APP)
        with pytest.raises(UnknownUpload):
            opened.assembled([1])
    with pytest.raises(UnknownUpload):
        uploads.put(gone, APP, 2, [b"part"])
    uploads.put(other, LIB, 2, [b"part"])


def begun_upload(store: FileStore, temporary: TemporaryFolder) -> tuple[UnfinishedUploads, str]:
    """The uploads in the store, and the id of one of which a part has come."""
    uploads = UnfinishedUploads(store, temporary)
    upload = uploads.start(Key(APP, Kind.MODULE, "ab" * 32))
    uploads.put(upload, APP, 1, [b"part"])
    return uploads, upload


def test_upload_that_is_just_being_completed_is_stored_or_unknown(
    store: FileStore, root: Path, temporary: TemporaryFolder
) -> None:
    """Its file has a name that the clean does not know; and what was completed is forgotten."""
    uploads, upload = begun_upload(store, temporary)
    with uploads.open(upload, APP) as opened:
        file = opened.assembled([1])
        assert clean(root, APP)
        list(empty_trash(root))
        assert publish_file(store, opened.key.path(root), file) is STORED
        opened.finish(file)
        file.discard()
    assert opened.key.path(root).read_bytes() == b"part"
    with pytest.raises(UnknownUpload):
        uploads.completed(upload, APP, [1])


def test_upload_that_is_just_being_started_is_started(
    store: FileStore, root: Path, temporary: TemporaryFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads = UnfinishedUploads(store, temporary)
    really_chmod = Path.chmod

    def chmod_and_clean(path: Path, mode: int) -> None:
        really_chmod(path, mode)
        clean(root, APP)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "chmod", chmod_and_clean)
        upload = uploads.start(Key(APP, Kind.MODULE, "ab" * 32))
    uploads.put(upload, APP, 1, [b"part"])


def test_complete_uploads_are_forgotten(
    store: FileStore, root: Path, temporary: TemporaryFolder
) -> None:
    uploads, upload = begun_upload(store, temporary)
    with uploads.open(upload, APP) as opened:
        file = opened.assembled([1])
        opened.finish(file)
        file.discard()
    assert uploads.completed(upload, APP, [1]) == hashlib.sha256(b"part").digest()
    clean(root, APP)
    with pytest.raises(UnknownUpload):
        uploads.completed(upload, APP, [1])
