"""Folders are made together, and each is told that will not survive."""

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cache_actors.storage.files.folders import UNSETTLED_MODE, Folders, is_complete
from cache_actors.storage.files.store import FileStore
from cache_actors.storage.files.temporary import FOLDER_MODE
from tests.storage.stores import STORED, Journal, publish


class Syncs:
    """Notes syncs of folders, which fail as often as `failures` says."""

    def __init__(self) -> None:
        self.made: list[Path] = []
        self.failures: dict[Path, int] = {}

    def sync(self, folder: Path) -> None:
        """One sync."""
        self.made.append(folder)
        if self.failures.get(folder, 0) > 0:
            self.failures[folder] -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.fixture
def syncs() -> Syncs:
    return Syncs()


@pytest.fixture
def folders(root: Path, syncs: Syncs) -> Folders:
    return Folders(root, syncs.sync)


def test_all_levels_are_made_with_one_sync_for_each_folder_above(
    folders: Folders, syncs: Syncs, root: Path
) -> None:
    wanted = {root / a / b for a in "xy" for b in "123"}
    assert folders.prepare(wanted) == {}
    assert all(each.is_dir() for each in wanted)
    assert sorted(syncs.made) == sorted({root, root / "x", root / "y"} | wanted)  # all are projects
    assert folders.prepare(wanted) == {}
    assert len(syncs.made) == 9


def test_failed_sync_fails_what_lies_in_that_folder_and_is_not_made_again(
    folders: Folders, syncs: Syncs, root: Path
) -> None:
    syncs.failures = {root / "x": 1}
    bad, good = {root / "x" / "1", root / "x" / "2" / "deep"}, root / "y" / "1"
    failures = folders.prepare(bad | {good})
    assert failures.keys() == bad
    assert {failure.errno for failure in failures.values()} == {errno.EIO}
    assert syncs.made.count(root / "x") == 1
    assert folders.prepare(bad) == {}
    assert syncs.made.count(root / "x") == 2


def test_folder_that_cannot_be_made_hurts_no_other_in_its_place(
    folders: Folders, syncs: Syncs, root: Path
) -> None:
    impossible, good = root / ("x" * 300), root / "y"
    failures = folders.prepare({impossible, good})
    assert {each: failure.errno for each, failure in failures.items()} == {
        impossible: errno.ENAMETOOLONG
    }
    assert good.is_dir()
    assert syncs.made == [root]


def test_folders_that_were_removed_are_made_again_once(
    folders: Folders, syncs: Syncs, root: Path
) -> None:
    folders.prepare({root / "x" / "1"})
    (root / "x" / "1").rmdir()
    (root / "x").rmdir()
    syncs.made.clear()
    assert folders.prepare({root / "x" / "2"}) == {}
    assert (root / "x" / "2").is_dir()
    assert sorted(syncs.made) == [root, root / "x", root / "x" / "2"]


def test_what_goes_while_a_folder_is_listed_hurts_nobody(
    folders: Folders, syncs: Syncs, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_list = os.scandir

    @contextmanager
    def list_and_remove(folder: Path) -> Iterator[Iterator[os.DirEntry[str]]]:
        (folder / "gone").touch()
        with really_list(folder) as entries:
            found = list(entries)
        (folder / "gone").unlink()
        yield iter(found)

    monkeypatch.setattr(os, "scandir", list_and_remove)
    assert folders.prepare({root / "x"}) == {}
    assert syncs.made == [root]


def test_folder_is_complete_only_when_it_will_survive(folders: Folders, root: Path) -> None:
    """Others go by its mode."""
    seen: list[int] = []
    folders._sync = lambda parent: seen.extend(
        stat.S_IMODE(each.stat().st_mode) for each in parent.iterdir()
    )
    folders.ensure(root / "x")
    assert seen == [UNSETTLED_MODE]
    assert stat.S_IMODE((root / "x").stat().st_mode) == FOLDER_MODE


def test_known_folder_that_is_gone_is_made_again_and_no_other_is_looked_at(
    folders: Folders, syncs: Syncs, root: Path
) -> None:
    folders.prepare({root / "a" / "1", root / "b" / "1"})
    (root / "a" / "1").rmdir()
    syncs.made.clear()
    folders.call_in(root / "a" / "1", Path.touch, root / "a" / "1" / "f")
    assert (root / "a" / "1" / "f").exists()
    assert syncs.made == [root / "a" / "1", root / "a"]


def test_whole_tree_that_is_gone_is_made_again(folders: Folders, root: Path) -> None:
    folders.prepare({root / "a" / "1"})
    shutil.rmtree(root / "a")
    folders.call_in(root / "a" / "1", Path.touch, root / "a" / "1" / "f")
    assert (root / "a" / "1" / "f").exists()


def test_file_in_a_folder_that_another_has_just_made_again_survives(
    store: FileStore, root: Path, journal: Journal
) -> None:
    """Its maker may not have synced the folder above yet, so whoever puts a file into it does."""
    path = root / "acme" / "app" / "cas" / "11" / "AA11"
    publish(store, path, b"old")
    path.unlink()
    path.parent.rmdir()
    path.parent.mkdir(mode=UNSETTLED_MODE)
    journal.events.clear()
    assert publish(store, path, b"new") is STORED
    assert (path.parent.parent in journal.synced_folders()) is store.durable
    assert stat.S_IMODE(path.parent.stat().st_mode) == FOLDER_MODE


def test_folder_in_one_that_another_has_just_made_again_survives_with_all_above(
    folders: Folders, syncs: Syncs, root: Path
) -> None:
    """Those that were known have been taken away, and are somebody's who has not synced yet."""
    folders.prepare({root / "a" / "b" / "1"})
    shutil.rmtree(root / "a")
    (root / "a" / "b").mkdir(parents=True)
    (root / "a").chmod(UNSETTLED_MODE)
    (root / "a" / "b").chmod(UNSETTLED_MODE)
    syncs.made.clear()
    assert folders.prepare({root / "a" / "b" / "2"}) == {}
    assert {root, root / "a", root / "a" / "b"} <= set(syncs.made)
    for folder in (root / "a", root / "a" / "b", root / "a" / "b" / "2"):
        assert is_complete(folder.stat())


def test_folder_is_made_again_that_is_taken_away_while_it_is_synced(
    folders: Folders, syncs: Syncs, root: Path
) -> None:
    """What another makes in its place meanwhile is not taken for it."""
    really_sync = syncs.sync
    taken: list[Path] = []

    def sync(folder: Path) -> None:
        if folder == root / "a" / "b" / "c" and not taken:
            taken.append((root / "a").rename(root / "taken"))
            folder.mkdir(parents=True)
        really_sync(folder)

    folders._sync = sync
    assert folders.prepare({root / "a" / "b" / "c" / "1"}) == {}
    made_for_good = syncs.made[syncs.made.index(root / "a" / "b" / "c") + 1 :]
    assert list(dict.fromkeys(made_for_good)) == [
        *(root, root / "a" / "b", root / "a", root / "a" / "b" / "c")
    ]
    assert is_complete((root / "a" / "b" / "c" / "1").stat())


def test_folders_whose_mode_cannot_be_set_are_used_all_the_same(
    folders: Folders, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "chmod", lambda *_, **__: None)
    for name in "12":
        assert folders.prepare({root / "a" / "b" / name}) == {}
        assert (root / "a" / "b" / name).is_dir()
