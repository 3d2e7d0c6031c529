"""Folders are made together, and each is told that will not survive."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cache_actors.storage.folders import Folders


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
    assert sorted(syncs.made) == [root, root / "x", root / "y"]
    assert folders.prepare(wanted) == {}
    assert len(syncs.made) == 3


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
    assert sorted(syncs.made) == [root, root / "x"]


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
