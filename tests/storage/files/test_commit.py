"""A batch goes through its stages together, and what one item meets hurts no other."""

import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import pytest

from cache_actors.storage.files.commit import Written, commit
from cache_actors.storage.files.temporary import TemporaryFile

STAGES = ["write", "sync", "name"]


class Crash(BaseException):
    """The end of everything, in the middle of a batch."""


@dataclass(frozen=True)
class Item:
    """Something to commit under the name `path`."""

    path: str
    label: str


@dataclass
class File:
    """A file that is written."""

    item: Item
    is_discarded: bool = False

    def discard(self) -> None:
        """Note it."""
        self.is_discarded = True


@dataclass
class Disk:
    """The stages of a commit, noted in `events`.

    Attributes:
        failing: what is done with which label fails.
        crashing: what is done with which label ends everything.
        known: labels of which there is an outcome already.
        lent: labels whose files belong to somebody else, who has synced them.
    """

    events: list[str] = field(default_factory=list)
    files: list[File] = field(default_factory=list)
    failing: set[str] = field(default_factory=set)
    crashing: str = ""
    known: set[str] = field(default_factory=set)
    lent: set[str] = field(default_factory=set)

    def commit(self, *labels: str) -> list[str | OSError]:
        """Commit items with these labels; those that begin with the same letter share a path."""
        batch = [Item(label[0], label) for label in labels]
        return commit(batch, self._write, self._sync, self._name, "duplicate_outcome")

    def _do(self, stage: str, item: Item) -> None:
        event = f"{stage} {item.label}"
        self.events.append(event)
        if event == self.crashing:
            raise Crash
        if event in self.failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _write(self, items: Sequence[Item]) -> Iterator[Written | str | OSError]:
        for item in items:
            try:
                self._do("write", item)
            except OSError as error:
                yield error
                continue
            if item.label in self.known:
                yield "known"
                continue
            file = File(item)
            self.files.append(file)
            yield Written(cast("TemporaryFile", file), is_ours=item.label not in self.lent)

    def _sync(self, batch: Sequence[tuple[Item, Written]]) -> list[OSError | None]:
        failures: list[OSError | None] = []
        for item, written in batch:
            assert cast("File", written.file).item == item
            try:
                self._do("sync", item)
            except OSError as error:
                failures.append(error)
            else:
                failures.append(None)
        return failures

    def _name(self, item: Item, file: TemporaryFile) -> str:
        assert cast("File", file).item == item
        self._do("name", item)
        return f"named {item.label}"


@pytest.fixture
def disk() -> Disk:
    return Disk()


def test_each_stage_is_over_before_the_next_one_begins(disk: Disk) -> None:
    assert disk.commit("a", "b", "c") == ["named a", "named b", "named c"]
    assert disk.events == [f"{stage} {label}" for stage in STAGES for label in "abc"]


@pytest.mark.parametrize("stage", STAGES)
def test_what_fails_goes_no_further_and_the_others_do(disk: Disk, stage: str) -> None:
    disk.failing = {f"{stage} b"}
    first, failed, last = disk.commit("a", "b", "c")
    assert (first, last) == ("named a", "named c")
    assert isinstance(failed, OSError)
    of_b = [event.split()[0] for event in disk.events if event.endswith("b")]
    assert of_b == STAGES[: STAGES.index(stage) + 1]


@pytest.mark.parametrize("stage", STAGES)
def test_files_made_here_are_discarded_however_it_ends(disk: Disk, stage: str) -> None:
    disk.failing, disk.lent = {f"{stage} b"}, {"c"}
    disk.commit("a", "b", "c")
    assert [file.item.label for file in disk.files if not file.is_discarded] == ["c"]


@pytest.mark.parametrize("stage", STAGES)
def test_crash_names_nothing_that_is_not_synced_and_discards_everything(
    disk: Disk, stage: str
) -> None:
    disk.crashing = f"{stage} b"
    with pytest.raises(Crash):
        disk.commit("a", "b", "c")
    named = {event.split()[1] for event in disk.events if event.startswith("name")}
    synced = {event.split()[1] for event in disk.events if event.startswith("sync")}
    assert named <= synced
    assert (named == {"a", "b"}) is (stage == "name")
    assert all(file.is_discarded for file in disk.files)


def test_what_has_an_outcome_already_is_neither_synced_nor_named(disk: Disk) -> None:
    disk.known = {"b"}
    assert disk.commit("a", "b") == ["named a", "known"]
    assert not {"sync b", "name b"} & set(disk.events)


def test_what_was_ready_before_is_named_without_another_sync(disk: Disk) -> None:
    disk.lent = {"b"}
    assert disk.commit("a", "b") == ["named a", "named b"]
    assert [event for event in disk.events if event.startswith("sync")] == ["sync a"]


def test_of_those_that_share_a_path_one_is_written(disk: Disk) -> None:
    assert disk.commit("a1", "b", "a2", "a3") == [
        "named a1",
        "named b",
        "duplicate_outcome",
        "duplicate_outcome",
    ]
    assert [event for event in disk.events if event.startswith("write")] == ["write a1", "write b"]


@pytest.mark.parametrize("stage", STAGES)
def test_next_one_that_shares_a_path_gets_its_turn_if_the_first_fails(
    disk: Disk, stage: str
) -> None:
    disk.failing = {f"{stage} a1"}
    first, *others = disk.commit("a1", "b", "a2", "a3")
    assert isinstance(first, OSError)
    assert others == ["named b", "named a2", "duplicate_outcome"]
    assert disk.events.count("write b") == 1
