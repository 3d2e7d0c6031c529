"""Eviction beside a bucket: what is not there goes last, and is counted."""

import os
import time
from pathlib import Path

import pytest

from cache_actors.storage.capacity import Amount
from cache_actors.storage.eviction import run
from cache_actors.storage.eviction import shared as module
from cache_actors.storage.eviction.cutoff import Cutoff, Histogram, cutoff
from cache_actors.storage.eviction.run import EvictionPass, Limits
from cache_actors.storage.eviction.shared import SharedFiles
from cache_actors.storage.eviction.sweep import Sweep
from cache_actors.storage.integrity.checksum import (
    Mark,
    StoredChecksum,
    write_checksum,
)
from cache_actors.storage.known_cleans import note_clean
from tests.support.stored import APP, BLOCK_BYTES, DAY, HOUR, Stored

BUCKET = 77


@pytest.fixture(autouse=True)
def _files_made_now_are_old_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLOCK_NS", 0)
    monkeypatch.setattr(run, "HURRIED_SECONDS", 0.0)


def mark(*paths: Path, target: int = BUCKET) -> None:
    for path in paths:
        fd = os.open(path, os.O_RDONLY | os.O_NOATIME)
        write_checksum(fd, StoredChecksum(bytes(32), BLOCK_BYTES, Mark(1, target)))
        os.close(fd)


def evicted(stored: Stored, blocks: int, *, entries: bool = True) -> tuple[set[str], int]:
    """The names that are left after so many blocks had to go, and the number of those dropped."""
    held = sum(path.stat().st_blocks * 512 for path in stored.root.rglob("*") if path.is_file())
    # Of a limit of twice as much, half is used; the target is what is left of that.
    limits = Limits(0.9, (held - blocks * BLOCK_BYTES) / (2 * held), 2 * held, BUCKET, entries)
    passing = EvictionPass(stored.root, limits)
    passing._pressure = lambda: 1.0  # type: ignore[method-assign]
    list(passing.run())
    return stored.names(), passing.report().dropped


def test_what_is_in_the_bucket_goes_first_whatever_its_age(stored: Stored) -> None:
    there = [stored.artifact(number, HOUR * (1 + number)) for number in range(6)]
    mine = [stored.artifact(number, DAY * number) for number in range(10, 16)]
    mark(*there)
    mark(mine[0], target=BUCKET + 1)
    left, dropped = evicted(stored, 4)
    assert left == {path.name for path in (*there[:2], *mine)}
    assert dropped == 0
    left, dropped = evicted(stored, 4)
    assert left == {path.name for path in mine[:4]}
    assert dropped == 2


def test_mark_of_about_the_time_of_a_clean_does_not_count(stored: Stored) -> None:
    """The bucket may have an older version, which another node has put late."""
    artifacts = [stored.artifact(1, DAY), stored.artifact(2, HOUR)]
    mark(*artifacts)
    left, dropped = evicted(stored, 1)
    assert (left, dropped) == ({artifacts[1].name}, 0)
    note_clean(stored.root, APP, stored.at(DAY))
    stored.artifact(3, HOUR)
    assert evicted(stored, 1) == ({artifacts[1].name}, 1)


def test_entries_that_are_never_put_there_go_as_without_a_bucket(stored: Stored) -> None:
    entry, artifact = stored.entry("a", age=DAY), stored.artifact(1, HOUR)
    mark(artifact)
    left, dropped = evicted(stored, 1, entries=False)
    assert left == {artifact.name}
    assert dropped == 0
    assert not entry.exists()


def test_entry_that_is_not_there_keeps_its_artifacts(stored: Stored) -> None:
    there, other = stored.artifact(1, DAY), stored.artifact(2, HOUR)
    entry = stored.entry("a", 1, age=DAY)
    mark(there, other)
    left, dropped = evicted(stored, 2)
    assert left == {entry.name, there.name}
    assert dropped == 0
    assert stored.age(there) < HOUR


def rules(now: int) -> tuple[Cutoff, Cutoff]:
    """Rules that take everything that is in the bucket, and nothing else."""
    everything = cutoff(Histogram(now), Amount(1 << 60), protected=HOUR / 2)
    return everything, cutoff(Histogram(now), Amount(), protected=HOUR / 2)


def test_file_that_gets_to_the_bucket_during_a_pass_stays(stored: Stored) -> None:
    artifact, entry = stored.artifact(1, DAY), stored.entry("a", 1, age=HOUR)
    now = time.time_ns()
    clock = stored.root / "clock"
    clock.touch()
    while clock.stat().st_ctime_ns < now:  # that of files is coarser
        clock.touch()
    rule, last = rules(now)
    sweep = Sweep(
        stored.root, rule, 0.0, last=last, shared=SharedFiles(stored.root, BUCKET, True, now)
    )
    for step in sweep.run([APP]):
        assert step is not None
        mark(artifact)  # at the first step, and so after its entry was looked at
    assert artifact.exists()
    assert entry.exists()
