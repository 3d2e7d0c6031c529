"""No entry is stored without its artifacts, and those of one that is are in use from then on."""

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from cache_actors.kinds import Kind
from cache_actors.storage import entries, project_lock
from cache_actors.storage.entries import EntryWrite, EntryWriter, MissingArtifact
from cache_actors.storage.files.last_use import last_use
from cache_actors.storage.files.store import RECENT_NS, FileStore
from cache_actors.storage.layout import QUARANTINE, Key, Project
from cache_actors.storage.project_lock import exclusive
from tests.support.stored import APP, DAY, LIB, SECOND, Stored, artifact_id

from .stores import can_lock, empty, fail_calls_for, open_descriptors, refusing

A, B, C = map(artifact_id, range(3))
NONE: frozenset[str] = frozenset()


@pytest.fixture
def writer(relaxed: FileStore) -> EntryWriter:
    """One that refuses entries without their artifacts."""
    return EntryWriter(relaxed, require_artifacts=True)


def write(name: str, *artifacts: str, project: Project = APP, body: bytes = b"body") -> EntryWrite:
    return EntryWrite(Key(project, Kind.KEYVALUE, f"0~{name}"), body, frozenset(artifacts))


def put(writer: EntryWriter, *batch: EntryWrite) -> list[str | MissingArtifact | OSError | None]:
    return writer.put(batch)


def content(root: Path, name: str, project: Project = APP) -> bytes | None:
    path = write(name, project=project).key.path(root)
    return path.read_bytes() if path.exists() else None


def missing(outcome: object) -> str:
    """The id of the artifact that is missing, by an outcome that is a refusal."""
    assert isinstance(outcome, MissingArtifact)
    return outcome.artifact_id


def is_in_use(path: Path) -> bool:
    return last_use(path.stat()) > time.time_ns() - 10 * SECOND


# What is stored.


def test_nothing_to_store_is_nothing(writer: EntryWriter, root: Path) -> None:
    before = sorted(root.iterdir())
    assert put(writer) == []
    assert sorted(root.iterdir()) == before


# What is missing.


def test_refused_entry_leaves_the_one_before_it(writer: EntryWriter, stored: Stored) -> None:
    stored.artifact(A)
    assert put(writer, write("a", A, body=b"before")) == [None]
    assert content(stored.root, "a") == b"before"
    [outcome] = put(writer, write("a", A, B, body=b"after"))
    assert missing(outcome) == B
    assert str(outcome) == f"Artifact {B} does not exist"
    assert content(stored.root, "a") == b"before"


def test_of_several_that_are_missing_always_the_same_one_is_told(writer: EntryWriter) -> None:
    ids = [artifact_id(number) for number in range(50)]
    [outcome] = put(writer, write("a", *ids))
    assert missing(outcome) == min(ids)


def test_lenient_writer_stores_it_and_tells(relaxed: FileStore, stored: Stored) -> None:
    lenient = EntryWriter(relaxed, require_artifacts=False)
    stored.artifact(A)
    assert put(lenient, write("a", A, B), write("b", A), write("c")) == [B, None, None]
    assert [content(stored.root, name) for name in "abc"] == [b"body"] * 3


def test_artifact_of_another_project_does_not_count(writer: EntryWriter, stored: Stored) -> None:
    stored.artifact(A, project=LIB)
    [refused, allowed] = put(writer, write("a", A), write("a", A, project=LIB))
    assert missing(refused) == A
    assert allowed is None
    assert content(stored.root, "a") is None
    assert content(stored.root, "a", LIB) == b"body"


def test_artifact_without_a_time_is_there(writer: EntryWriter, stored: Stored) -> None:
    os.utime(stored.artifact(A), (0, 0))
    assert put(writer, write("a", A)) == [None]


def test_broken_artifact_is_missing(writer: EntryWriter, stored: Stored) -> None:
    empty(stored.artifact(A))
    [outcome] = put(writer, write("a", A))
    assert missing(outcome) == A
    assert len(list((stored.root / QUARANTINE).glob("*/*/*/*"))) == 1  # in spite of the lock


def test_refusal_hurts_no_other_of_its_batch(writer: EntryWriter, stored: Stored) -> None:
    stored.artifact(A)
    outcomes = put(writer, write("a", A), write("b", B), write("c"), write("d", A, C))
    assert outcomes[0] is None
    assert outcomes[2] is None
    assert (missing(outcomes[1]), missing(outcomes[3])) == (B, C)
    assert [content(stored.root, name) for name in "abcd"] == [b"body", None, b"body", None]


# What is in use.


def test_artifacts_of_an_entry_are_in_use_and_their_modification_times_stay(
    writer: EntryWriter, stored: Stored
) -> None:
    path, other = stored.artifact(A, DAY), stored.artifact(B, DAY)
    began = time.time_ns()
    put(writer, write("a", A))
    assert began <= path.stat().st_atime_ns <= time.time_ns()
    assert path.stat().st_mtime_ns == stored.at(DAY)
    assert stored.age(other) == DAY


def test_use_a_moment_ago_is_not_noted_again(
    writer: EntryWriter, stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "time", SimpleNamespace(time_ns=lambda: stored.now))
    for age, is_noted in ((0, False), (RECENT_NS, False), (RECENT_NS + 1, True)):
        path = stored.artifact(A)
        os.utime(path, ns=(before := stored.now - age, before))
        put(writer, write("a", A))
        assert (path.stat().st_atime_ns != before) == is_noted


def test_artifact_is_in_use_under_either_spelling(writer: EntryWriter, stored: Stored) -> None:
    both = [stored.artifact(A, DAY), stored.artifact(A.lower(), DAY)]
    lower = stored.artifact(B.lower(), DAY)
    assert put(writer, write("a", A, B)) == [None]
    assert all(is_in_use(path) for path in (*both, lower))


def test_artifact_that_several_entries_refer_to_is_looked_for_once(
    writer: EntryWriter, stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored.artifact(A, DAY)
    stored.artifact(A, DAY, project=LIB)
    touched: list[str] = []
    really_touch = FileStore.touch

    def touch(store: FileStore, path: str | Path, *more: int) -> bool:
        touched.append(str(path))
        return really_touch(store, path, *more)

    monkeypatch.setattr(FileStore, "touch", touch)
    batch = [write("a", A), write("b", A, B), write("c", A), write("d", B)]
    outcomes = put(writer, *batch, write("a", A, project=LIB))
    assert (outcomes[0], outcomes[2], outcomes[4]) == (None, None, None)
    assert missing(outcomes[1]) == missing(outcomes[3]) == B
    assert len(touched) == len(set(touched)) == 6  # three artifacts, in both spellings
    touched.clear()
    assert put(writer, write("a", A)) == [None]
    assert len(touched) == 2  # nothing is remembered from one batch to the next


@pytest.mark.parametrize("require", [True, False])
def test_missing_artifact_does_not_keep_the_others_out_of_use(
    relaxed: FileStore, stored: Stored, require: bool
) -> None:
    """Whoever is refused uploads what is missing and comes again: the others had better stay."""
    ids = sorted([A, B, C])
    for absent in ids:
        present = [stored.artifact(each, DAY) for each in ids if each != absent]
        Key(APP, Kind.CAS, absent).path(stored.root).unlink(missing_ok=True)
        [outcome] = put(EntryWriter(relaxed, require_artifacts=require), write("a", *ids))
        assert (outcome if isinstance(outcome, str) else missing(outcome)) == absent
        assert all(is_in_use(path) for path in present)


def test_artifact_of_somebody_else_is_there(
    writer: EntryWriter, stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored.artifact(A, DAY)
    monkeypatch.setattr("cache_actors.storage.files.store.touch", refusing(errno.EPERM))
    assert put(writer, write("a", A)) == [None]


def test_disk_that_fails_at_an_artifact_fails_its_entry_alone(
    writer: EntryWriter, stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = stored.artifact(A, DAY)
    stored.artifact(B, DAY)
    fail_calls_for(monkeypatch, os, "open", bad, errno.ENOMEM)
    failed, fine = put(writer, write("a", A), write("b", B))
    assert isinstance(failed, OSError)
    assert fine is None
    assert (content(stored.root, "a"), content(stored.root, "b")) == (None, b"body")


# Locks.


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch, root: Path) -> list[str]:
    """What is done while the project cannot be evicted from."""
    done: list[str] = []

    def watch(name: str) -> None:
        really = getattr(FileStore, name)

        def watched(store: FileStore, *arguments: object) -> object:
            assert not can_lock(APP.path(root), fcntl.LOCK_EX)
            done.append(name)
            return really(store, *arguments)

        monkeypatch.setattr(FileStore, name, watched)

    watch("touch")
    watch("replace")
    return done


def test_eviction_is_kept_out_from_the_first_look_until_the_entry_is_there(
    writer: EntryWriter, stored: Stored, watched: list[str]
) -> None:
    stored.artifact(A)
    put(writer, write("a", A))
    assert watched == ["touch", "touch", "replace"]
    assert can_lock(APP.path(stored.root), fcntl.LOCK_EX)


def test_project_that_is_being_evicted_fails_its_entries_alone(
    writer: EntryWriter, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(project_lock, "MAX_WAIT_SECONDS", 0.0)
    put(writer, write("a"), write("a", project=LIB))
    with exclusive(APP.path(root)):
        outcomes = put(writer, write("b"), write("b", project=LIB), write("c"))
    numbers = [outcome.errno if isinstance(outcome, OSError) else None for outcome in outcomes]
    assert numbers == [errno.EBUSY, None, errno.EBUSY]
    assert [content(root, "b"), content(root, "b", LIB), content(root, "c")] == [
        None,
        b"body",
        None,
    ]
    assert put(writer, write("b")) == [None]


def test_projects_of_a_batch_are_locked_in_one_order(
    writer: EntryWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked: list[str] = []

    @contextmanager
    def shared(project: Path) -> Iterator[None]:
        locked.append(project.name)
        yield

    monkeypatch.setattr(entries, "shared", shared)
    for _ in range(3):
        put(writer, *(write("a", project=Project("acme", name)) for name in "cabcba"))
    assert locked == ["a", "b", "c"] * 3


def test_folder_that_cannot_be_had_fails_its_project_alone(writer: EntryWriter, root: Path) -> None:
    (root / "acme").mkdir()
    (root / "acme" / "app").write_bytes(b"a file in its place")
    bad, good = put(writer, write("a"), write("a", project=LIB))
    assert isinstance(bad, OSError)
    assert good is None
    assert content(root, "a", LIB) == b"body"


@pytest.mark.parametrize("level", range(4))
def test_folders_that_somebody_removed_are_made_again(
    writer: EntryWriter, root: Path, level: int
) -> None:
    put(writer, write("a"))
    shutil.rmtree(write("a").key.path(root).parents[level])
    assert put(writer, write("a", body=b"again")) == [None]
    assert content(root, "a") == b"again"


def test_descriptors_are_closed(writer: EntryWriter, stored: Stored) -> None:
    stored.artifact(A)
    put(writer, write("a", A), write("a", project=LIB))
    before = open_descriptors()
    put(writer, write("b", A), write("c", B), write("b", project=LIB))
    assert open_descriptors() <= before
