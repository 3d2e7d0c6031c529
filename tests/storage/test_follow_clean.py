"""Following a clean of another node: what is older goes, entries first, and all else stays."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cache_actors.kinds import Kind
from cache_actors.storage import follow_clean as module
from cache_actors.storage.entries import (
    EntryWrite,
    EntryWriter,
    MissingArtifact,
    NewFile,
    TakenByClean,
)
from cache_actors.storage.files.store import FileStore, Publication, Published
from cache_actors.storage.files.temporary import TemporaryFile, TemporaryFolder
from cache_actors.storage.follow_clean import follow_clean
from cache_actors.storage.known_cleans import known_clean, note_clean
from cache_actors.storage.layout import QUARANTINE, Key
from cache_actors.storage.project_lock import exclusive
from cache_actors.storage.trash import Removed
from tests.support.stored import APP, BLOCK_BYTES, LIB, Stored, artifact_id, body_of, value_of

from .stores import can_lock, leftovers, uploaded

YOUNG = 50.0
"""Age in seconds of what a clean that is a minute old has to leave."""

OLD = 70.0


@pytest.fixture
def when(stored: Stored) -> int:
    """The time of a clean that is known, and not followed."""
    note_clean(stored.root, APP, stored.at(60))
    return stored.at(60)


def files_of(root: Path, project: str = str(APP)) -> set[str]:
    return {path.name for path in (root / project).rglob("*") if path.is_file()}


def follow(root: Path, when: int) -> Removed:
    return sum(follow_clean(root, APP, when), Removed())


def test_what_is_as_old_goes_and_what_is_newer_stays(stored: Stored, when: int) -> None:
    stored.artifact(1, OLD)
    stored.entry("a", 1, age=OLD)
    stored.artifact(1, OLD, project=LIB)
    exact = stored.artifact(2, 60)
    assert exact.stat().st_mtime_ns == when
    kept = {stored.artifact(3, YOUNG).name, stored.entry("b", 3, age=YOUNG).name}
    kept |= {stored.entry("c", age=YOUNG).name}
    for kind in Kind:
        stored._file(Key(APP, kind, "ab" * 32), b"old", OLD)
        kept.add(stored._file(Key(APP, kind, "cd" * 32), b"new", YOUNG).name)
    gone = follow(stored.root, when)
    assert files_of(stored.root) == kept
    assert gone.files == 3 + len(Kind)
    assert gone.bytes >= 2 * BLOCK_BYTES
    assert files_of(stored.root, str(LIB)) == {artifact_id(1)}
    assert known_clean(stored.root, APP).is_followed
    assert not exact.parent.exists(), "empty folders take inodes"


def test_newer_entry_goes_before_an_old_artifact_of_it(stored: Stored, when: int) -> None:
    artifact, entry = stored.artifact(1, OLD), stored.entry("a", 1, age=YOUNG)
    seen: set[tuple[bool, bool]] = set()
    for _ in follow_clean(stored.root, APP, when):
        seen.add((entry.exists(), artifact.exists()))
    assert (True, False) not in seen
    assert not artifact.exists()


def test_entry_stays_with_one_that_is_newer_in_another_spelling(stored: Stored, when: int) -> None:
    stored.artifact(artifact_id(1), OLD)
    newer = stored.artifact(artifact_id(1).lower(), YOUNG)
    entry = stored.entry("a", 1, age=YOUNG)
    follow(stored.root, when)
    assert files_of(stored.root) == {newer.name, entry.name}


def test_broken_files_go_and_uploads_in_parts_are_left(stored: Stored, when: int) -> None:
    folder = stored.root / QUARANTINE / str(APP) / "cas"
    folder.mkdir(parents=True)
    for name, age in ("old", OLD), ("new", YOUNG):
        (folder / name).touch()
        os.utime(folder / name, ns=(0, stored.at(age)))
    assert follow(stored.root, when).files == 1
    assert [path.name for path in folder.iterdir()] == ["new"]


def test_folders_of_entries_are_synced_before_an_artifact_goes(
    stored: Stored, when: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = stored.artifact(1, OLD)
    left_by_a_kill = stored.entry("b", age=YOUNG).parent
    entry = stored.entry("a", 1, age=OLD)
    synced: list[tuple[Path, bool, bool]] = []

    def sync(folder: str) -> bool:
        synced.append((Path(folder), entry.exists(), artifact.exists()))
        return True

    monkeypatch.setattr(module, "sync_folder", sync)
    follow(stored.root, when)
    assert (entry.parent, False, True) in synced
    assert (left_by_a_kill, False, True) in synced
    assert (artifact.parent, False, False) in synced
    synced.clear()
    list(follow_clean(stored.root, APP, when, durable=False))
    assert synced == []


def test_one_that_is_cut_short_anywhere_is_begun_again(stored: Stored) -> None:
    note_clean(stored.root, APP, stored.at(60))
    steps = 0
    while True:
        for number in range(4):
            stored.artifact(number, OLD)
            stored.entry(f"{number}", number, age=OLD if number % 2 else YOUNG)
        following = follow_clean(stored.root, APP, stored.at(60))
        is_over = all(next(following, None) is not None for _ in range(steps)) is False
        following.close()  # type: ignore[attr-defined]
        there = files_of(stored.root)
        for number in range(4):
            assert f"0~{number}.json" not in there or artifact_id(number) in there
        if is_over:
            break
        assert not known_clean(stored.root, APP).is_followed
        steps += 1
    assert steps > 4
    assert files_of(stored.root) == set()
    assert known_clean(stored.root, APP).is_followed


def test_two_processes_do_not_follow_at_once(stored: Stored, when: int) -> None:
    artifact = stored.artifact(1, OLD)
    first = follow_clean(stored.root, APP, when)
    while artifact.exists():
        next(first)
    assert follow(stored.root, when) == Removed()
    assert not known_clean(stored.root, APP).is_followed
    assert list(first)
    assert known_clean(stored.root, APP).is_followed


def test_file_that_is_stored_anew_before_it_is_removed_stays(
    stored: Stored, when: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, artifact = stored.entry("a", age=OLD), stored.artifact(1, OLD)

    @contextmanager
    def store_first(project: Path) -> Iterator[None]:
        stored.entry("a", age=YOUNG)
        stored.artifact(1, YOUNG)
        with exclusive(project):
            yield

    monkeypatch.setattr(module, "exclusive", store_first)
    assert follow(stored.root, when) == Removed()
    assert entry.exists()
    assert artifact.exists()


def test_project_of_which_nothing_is_stored_is_followed(stored: Stored, when: int) -> None:
    assert follow(stored.root, when) == Removed()
    assert known_clean(stored.root, APP).is_followed


def test_project_is_not_locked_between_steps(stored: Stored, when: int) -> None:
    stored.artifact(1, OLD)
    stored.entry("a", 1, age=OLD)
    for _ in follow_clean(stored.root, APP, when):
        with exclusive(APP.path(stored.root)):
            pass


# What is stored meanwhile.


def test_entry_that_refers_to_what_is_going_is_refused(
    relaxed: FileStore, stored: Stored, when: int
) -> None:
    writer = EntryWriter(relaxed, require_artifacts=True)
    stored.artifact(1, OLD)
    stored.artifact(2, YOUNG)
    wanted = frozenset({artifact_id(1)})
    key = Key(APP, Kind.KEYVALUE, "0~a")
    [outcome] = writer.put([EntryWrite(key, b"body", wanted)])
    assert isinstance(outcome, MissingArtifact)
    assert writer.put([EntryWrite(key, b"body", frozenset({artifact_id(2)}))]) == [None]
    follow(stored.root, when)
    assert files_of(stored.root) == {"0~a.json", artifact_id(2)}


def test_what_is_left_when_a_clean_was_followed_counts_whatever_its_time(
    relaxed: FileStore, stored: Stored, when: int
) -> None:
    """It was stored later, while a clock was wrong."""
    follow(stored.root, when)
    stored.artifact(1, OLD)
    write = EntryWrite(Key(APP, Kind.KEYVALUE, "0~a"), b"body", frozenset({artifact_id(1)}))
    assert EntryWriter(relaxed, require_artifacts=True).put([write]) == [None]


@pytest.mark.parametrize("kind", [Kind.CAS, Kind.KEYVALUE])
def test_file_of_the_bucket_is_stored_only_if_no_clean_has_taken_it(
    relaxed: FileStore, temporary: TemporaryFolder, stored: Stored, when: int, kind: Kind
) -> None:
    writer = EntryWriter(relaxed, require_artifacts=True)
    outcomes = []
    for number, age in enumerate((60.0, 59.0)):
        key = Key(APP, kind, artifact_id(number))
        file = temporary.create()
        file.write([body_of(value_of())])
        file.set_time(stored.at(age))
        publication = Publication(str(key.path(stored.root)), relaxed.prepare(file))
        outcomes += writer.add([NewFile(key, publication, stored.at(age))])
        file.discard()
    assert isinstance(outcomes[0], TakenByClean)
    assert outcomes[1] is Published.STORED
    assert {path.stat().st_mtime_ns for path in stored.root.rglob(f"{kind.folder}/*/*")} == {
        stored.at(59)
    }


@pytest.mark.parametrize("is_large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize("has_names", [False, True], ids=["anonymous", "named"])
def test_upload_of_what_is_going_takes_its_place_and_stays(
    durable: FileStore,
    temporary: TemporaryFolder,
    stored: Stored,
    when: int,
    monkeypatch: pytest.MonkeyPatch,
    is_large: bool,
    has_names: bool,
) -> None:
    going, kept = stored.artifact(1, OLD), stored.artifact(2, YOUNG)
    entry = stored.entry("a", 1, age=YOUNG)
    really_replace = TemporaryFolder.replace

    def replace(folder: TemporaryFolder, file: TemporaryFile, target: Path) -> None:
        assert not can_lock(APP.path(stored.root), fcntl.LOCK_EX), "who follows might remove it"
        really_replace(folder, file, target)

    monkeypatch.setattr(TemporaryFolder, "replace", replace)
    monkeypatch.setattr(temporary, "_anonymous", not has_names)
    assert not durable.exists(going)
    file = uploaded(temporary, b"new")
    source = durable.prepare(file) if is_large else [b"new"]
    batch = [Publication(str(path), source) for path in (going, kept)]
    assert durable.publish(batch) == [Published.STORED, Published.EXISTS]
    file.discard()
    assert durable.exists(going)
    follow(stored.root, when)
    assert files_of(stored.root) == {going.name, kept.name, entry.name}
    assert going.read_bytes() == b"new"
    assert leftovers(temporary) == []
