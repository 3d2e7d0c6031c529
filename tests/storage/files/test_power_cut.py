"""What has been said to be stored survives a power cut; what cannot be synced was never there."""

import errno
import os
import shutil
import stat
from pathlib import Path

import pytest

from cache_actors.storage.files import folders
from cache_actors.storage.files import temporary as temporary_files
from cache_actors.storage.files.store import FileStore, Publication
from cache_actors.storage.files.temporary import TemporaryFolder
from tests.storage.stores import (
    EXISTS,
    PUBLISH,
    REPLACE,
    STORED,
    Journal,
    Way,
    fail,
    fail_second,
    files_below,
    leftovers,
    number_of,
    publish,
    publish_file,
    replace,
    uploaded,
)


@pytest.mark.parametrize("folders_are", ["new", "removed meanwhile"])
def test_durable_file_survives_with_every_new_folder_above_it(
    durable: FileStore, root: Path, path: Path, journal: Journal, way: Way, folders_are: str
) -> None:
    if folders_are == "removed meanwhile":
        publish(durable, path.with_name("other"), b"x")
        shutil.rmtree(root / "acme")
        journal.events.clear()
    assert way.one(durable, path, b"abc") is way.done
    assert journal.survives(path, root)


def test_folders_that_another_made_are_synced_at_first_use(
    durable: FileStore, root: Path, path: Path, journal: Journal
) -> None:
    path.parent.mkdir(parents=True)  # somebody may not have come to syncing them
    journal.events.clear()
    publish(durable, path, b"x")
    assert journal.survives(path, root)


@pytest.mark.parametrize("ask", ["publish", "exists"])
def test_what_another_published_is_synced_before_it_is_said_to_exist(
    durable: FileStore, root: Path, path: Path, journal: Journal, ask: str
) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"another process's")
    journal.events.clear()
    assert (publish(durable, path, b"x") is EXISTS) if ask == "publish" else durable.exists(path)
    expected = {folder for folder in path.parents if folder == root or root in folder.parents}
    assert set(journal.synced_folders()) == expected


def test_files_of_a_batch_share_the_sync_of_their_folder(
    durable: FileStore, path: Path, journal: Journal
) -> None:
    publish(durable, path, b"x")
    journal.events.clear()
    batch = [Publication(str(path.with_name(f"{number}")), [b"x"]) for number in range(9)]
    assert durable.publish(batch) == [STORED] * 9
    assert journal.synced_folders() == [path.parent]
    assert all(journal.survives(Path(item.path), path.parent) for item in batch)


def test_new_folders_of_a_batch_share_the_sync_of_the_folder_above(
    durable: FileStore, root: Path, journal: Journal, way: Way
) -> None:
    paths = [root / "acme" / folder / name for folder in "abc" for name in "xy"]
    assert way.same(durable, paths) == [way.done] * 6
    assert journal.synced_folders().count(root / "acme") == 1
    assert all(journal.survives(p, root) for p in paths)


def test_folders_beside_the_first_one_used_are_known_with_it(
    durable: FileStore, root: Path, journal: Journal, temporary: TemporaryFolder
) -> None:
    paths = [root / "acme" / folder / "x" for folder in "abc"]
    assert durable.publish([Publication(str(p), [b"x"]) for p in paths]) == [STORED] * 3
    paths[2].parent.chmod(0o700)  # its maker died before it was complete
    started_again = FileStore(root, temporary, durable=True)
    publish(started_again, paths[0].with_name("y"), b"x")
    journal.events.clear()
    publish(started_again, paths[1].with_name("y"), b"x")
    assert journal.synced_folders() == [paths[1].parent]
    publish(started_again, paths[2].with_name("y"), b"x")
    assert root / "acme" in journal.synced_folders()
    assert stat.S_IMODE(paths[2].parent.stat().st_mode) == 0o2750


@pytest.mark.parametrize("call", ["writev", "fdatasync", "naming", "fsync of a folder"])
def test_one_of_a_batch_that_fails_does_not_hurt_the_others(
    durable: FileStore,
    root: Path,
    temporary: TemporaryFolder,
    journal: Journal,
    monkeypatch: pytest.MonkeyPatch,
    way: Way,
    call: str,
) -> None:
    """An artifact is taken back; the entry before it is gone, so the new one stays."""
    paths = [root / "acme" / name / name for name in "abc"]
    if way is REPLACE:
        assert way.same(durable, paths, b"before") == [None] * 3
        journal.events.clear()
    if call == "fsync of a folder":
        journal.folders_that_fail = {paths[1].parent}
    else:
        fail_second(monkeypatch, way.naming if call == "naming" else call)
    outcomes = way.same(durable, paths, b"after")
    assert (outcomes[0], number_of(outcomes[1]), outcomes[2]) == (way.done, errno.EIO, way.done)
    if way is PUBLISH:
        assert files_below(root) == [paths[0], paths[2]]
    else:
        assert paths[1].read_bytes() == (b"after" if call == "fsync of a folder" else b"before")
    assert paths[0].read_bytes() == paths[2].read_bytes() == b"after"
    assert all(
        journal.survives(each, root if way is PUBLISH else each.parent) for each in paths[::2]
    )
    assert leftovers(temporary) == []


def test_upload_whose_new_folder_was_not_synced_has_failed(
    durable: FileStore,
    root: Path,
    path: Path,
    journal: Journal,
    monkeypatch: pytest.MonkeyPatch,
    way: Way,
) -> None:
    """Even if a second sync would say yes: what the first one has lost stays lost."""
    really_sync = folders.sync_folder
    failed: list[Path] = []

    def sync_once(folder: Path) -> None:
        if folder == path.parents[1] and not failed:
            failed.append(folder)
            raise fail(errno.EIO)
        really_sync(folder)

    monkeypatch.setattr("cache_actors.storage.files.store.sync_folder", sync_once)
    assert number_of(way.one(durable, path, b"x")) == errno.EIO
    assert files_below(root) == []
    assert way.one(durable, path, b"x") is way.done
    assert journal.survives(path, root)


def test_disk_that_takes_no_hints_is_used_without(
    durable: FileStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(temporary_files._libc, "sync_file_range", lambda *_: -1)
    assert PUBLISH.same(durable, [path.with_name(name) for name in "ab"]) == [STORED, STORED]


def test_files_survive_when_more_folders_are_used_than_remembered(
    durable: FileStore, root: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "_MAX_KNOWN_FOLDERS", 3)
    paths = [root / a / b / c for c in "xy" for a in "123" for b in "456"]
    for p in paths:
        publish(durable, p, b"x")
    assert all(journal.survives(p, root) for p in paths)


def test_relaxed_store_never_syncs(
    relaxed: FileStore, path: Path, temporary: TemporaryFolder, journal: Journal
) -> None:
    upload = uploaded(temporary, b"x")
    publish_file(relaxed, path, upload)
    publish(relaxed, path.with_name("b"), b"x")
    publish(relaxed, path.with_name("b"), b"x")
    replace(relaxed, path.with_name("c"), b"x")
    assert relaxed.exists(path)
    upload.discard()
    assert journal.syncs() == []


def test_publications_in_a_folder_that_cannot_be_synced_are_taken_back(
    durable: FileStore, root: Path, path: Path, journal: Journal
) -> None:
    journal.folders_that_fail = {path.parent}
    elsewhere = root / "acme" / "x"
    paths = (path, path, path.with_name("b"), elsewhere)
    *failed, stored = durable.publish([Publication(str(p), [b"x"]) for p in paths])
    assert [number_of(outcome) for outcome in failed] == [errno.EIO] * 3
    assert stored is STORED
    assert files_below(root) == [elsewhere]


def test_what_was_there_before_stays_in_a_folder_that_cannot_be_synced(
    durable: FileStore, path: Path, journal: Journal
) -> None:
    publish(durable, path, b"before")
    journal.folders_that_fail = {path.parent}
    assert number_of(publish(durable, path, b"x")) == errno.EIO
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        durable.exists(path)
    assert path.read_bytes() == b"before"


def test_file_that_is_just_being_published_does_not_exist_yet(
    durable: FileStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is told that it exists must not lose it when its own sync fails."""
    told: list[bool] = []
    sync = folders.sync_folder

    def failing_sync(folder: Path) -> None:
        if folder == path.parent and path.exists() and not told:
            told.append(False)  # while it asks
            told[0] = durable.exists(path)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(folder)

    monkeypatch.setattr("cache_actors.storage.files.store.sync_folder", failing_sync)
    assert number_of(publish(durable, path, b"x")) == errno.EIO
    assert told == [False]
    assert not durable.exists(path)
    assert publish(durable, path, b"x") is STORED
    assert durable.exists(path)
