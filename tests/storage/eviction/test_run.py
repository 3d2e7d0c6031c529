"""A pass from end to end: how much goes, from whom, at which pace, and what is said of it."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest

from cache_actors.storage.capacity import Amount
from cache_actors.storage.eviction import run as run_module
from cache_actors.storage.eviction.last_pass import EvictionLock, PassReport
from cache_actors.storage.eviction.run import (
    GRACE_SECONDS,
    HURRIED_SECONDS,
    HURRY_SHARE,
    NICENESS,
    RATE,
    EvictionPass,
    Limits,
    ParentGone,
)
from cache_actors.storage.eviction.sweep import ENTRY_GRACE_NS, Remaining
from cache_actors.storage.integrity.quarantine import Quarantine
from cache_actors.storage.layout import QUARANTINE, Project
from tests.support.stored import (
    APP,
    BLOCK_BYTES,
    DAY,
    HOUR,
    LIB,
    SECOND,
    Stored,
    artifact_id,
    set_age,
    times_below,
)

FILES = 100
FULL = FILES * BLOCK_BYTES


@dataclass
class Pace:
    """How a pass went about it: how often it slept how long, and how nice it was.

    Attributes:
        between: called whenever it sleeps.
    """

    slept: list[float] = field(default_factory=list)
    niceness: int = 0
    between: Callable[[], object] = field(default=lambda: None)


@pytest.fixture(autouse=True)
def pace(monkeypatch: pytest.MonkeyPatch) -> Pace:
    """A pass that does not really sleep, nor wait, nor make the tests nice."""
    pace = Pace()
    monotonic = [1000.0]

    def nice(more: int) -> None:
        pace.niceness += more

    def sleep(seconds: float) -> None:
        monotonic[0] += seconds
        pace.slept.append(seconds)
        pace.between()

    monkeypatch.setattr(os, "nice", nice)
    monkeypatch.setattr("time.sleep", sleep)
    monkeypatch.setattr("time.monotonic", lambda: monotonic[0])
    return pace


@pytest.fixture
def stored(root: Path, monkeypatch: pytest.MonkeyPatch) -> Stored:
    """A hundred artifacts of as many hours of age. Making them takes no time."""
    stored = Stored(root)
    for number in range(FILES):
        stored.artifact(number, number * HOUR + HOUR)
    monkeypatch.setattr("time.time_ns", lambda: stored.now)
    return stored


def run(
    root: Path, high: float, target: float, *, of: int | None = FULL, **how: Any
) -> EvictionPass:
    """A pass that has come to its end; shares are those of so many bytes, or of the disk."""
    evicting = EvictionPass(root, Limits(high, target, of), **how)
    for _ in evicting.run():
        pass
    return evicting


class Disk:
    """A disk that holds what is stored, and something else; as `statvfs` has it."""

    f_frsize = BLOCK_BYTES
    f_blocks = 1000
    f_files = 1000

    def __init__(self, root: Path, other_blocks: int = 0, other_files: int = 0) -> None:
        self._root = root
        self.other_blocks = other_blocks
        self.other_files = other_files

    def _stored(self) -> int:
        return len(list(self._root.glob("*/*/*/*/*")))

    def statvfs(self, _: object) -> Self:
        """The disk as it is now: what lies there is counted once."""
        stored = self._stored()
        self.f_bfree = self.f_bavail = self.f_blocks - self.other_blocks - stored
        self.f_ffree = self.f_favail = self.f_files - self.other_files - stored
        return self


@pytest.fixture
def disk(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk(stored.root)
    monkeypatch.setattr(os, "statvfs", disk.statvfs)
    return disk


# How much goes.


@pytest.mark.parametrize("target", [0.9, 0.7, 0.3])
def test_least_recently_used_go_until_the_target_is_reached(stored: Stored, target: float) -> None:
    evicted = run(stored.root, 0.95, target)
    assert evicted.excess == Amount(FULL - int(target * FULL))
    left = stored.names()
    assert len(left) == pytest.approx(target * FILES, abs=3)
    for number in range(FILES):
        if abs(number - target * FILES) > 3:
            assert (artifact_id(number) in left) is (number < target * FILES)


def test_target_of_nothing_leaves_what_was_used_a_moment_ago(stored: Stored) -> None:
    new = stored.artifact(1000, 0.0)
    run(stored.root, 0.9, 0.0)
    assert stored.names() == {new.name}


@pytest.mark.parametrize(
    ("blocks", "files", "excess"),
    [(800, 0, Amount(60 * BLOCK_BYTES, 0)), (0, 800, Amount(0, 60))],
    ids=["bytes", "inodes"],
)
def test_disk_is_evicted_from_whoever_fills_it(
    stored: Stored, disk: Disk, blocks: int, files: int, excess: Amount
) -> None:
    disk.other_blocks, disk.other_files = blocks, files
    evicted = run(stored.root, 0.85, 0.84, of=None)
    assert evicted.excess == excess
    assert len(stored.names()) == pytest.approx(40, abs=3)


def test_only_the_projects_that_is_asked_for_are_evicted_from(stored: Stored) -> None:
    for number in range(10):
        stored.artifact(number, 1000 * DAY, LIB)
    evicted = run(stored.root, 0.95, 0.5, project=APP)
    assert len(list(LIB.path(stored.root).glob("*/*/*"))) == 10
    assert len(list(APP.path(stored.root).glob("*/*/*"))) == pytest.approx(40, abs=3)
    assert evicted.kept()[LIB] == Remaining(10, 10 * BLOCK_BYTES, stored.at(1000 * DAY))
    before = times_below(stored.root)
    run(stored.root, 0.0, 0.0, project=Project("no", "body"))
    assert times_below(stored.root) == before


# A dry run.


def test_dry_run_says_what_would_go_and_changes_nothing(stored: Stored, pace: Pace) -> None:
    stored.entry("old", 99, age=90 * HOUR)
    stored.entry("without", 1000, age=HOUR)
    (stored.root / QUARANTINE / "acme/app/cas").mkdir(parents=True)
    before = times_below(stored.root)
    evicted = run(stored.root, 0.95, 0.5, dry_run=True)
    assert times_below(stored.root) == before
    assert evicted.removed.artifacts == pytest.approx(50, abs=5)
    assert evicted.removed.entries == 1
    report = evicted.report()
    assert report.stored_artifacts == FILES - report.artifacts
    assert report.stored_entries == 1
    assert report.entries_checked == 0
    assert evicted.kept()[APP].artifacts == report.stored_artifacts
    assert (pace.slept, pace.niceness) == ([], 0)


# Entries whose artifacts have gone into quarantine.


def quarantine(path: Path, root: Path) -> None:
    assert Quarantine(root).take(path, path.stat().st_ino)


def completed(root: Path, evicted: EvictionPass) -> PassReport:
    """The report, which the next pass knows of."""
    report = evicted.report()
    with EvictionLock(root) as lock:
        lock.record_completed(report)
    return report


def test_entries_without_artifacts_go_though_there_is_room(root: Path) -> None:
    stored = Stored(root)
    stored.entry("a", 1, age=HOUR)
    stored.entry("b", 2, age=HOUR)
    stored.artifact(2, 5 * HOUR)
    quarantine(stored.artifact(1, HOUR), root)
    report = completed(root, run(root, 0.9, 0.9))
    assert stored.names() >= {"0~b.json", artifact_id(2)}
    assert "0~a.json" not in stored.names()
    assert (report.entries, report.artifacts) == (1, 0)
    assert report.entries_checked == pytest.approx(stored.now / SECOND, abs=60)


def test_entries_are_not_looked_at_again_until_something_is_put_in_quarantine(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = Stored(root)
    first = completed(root, run(root, 0.9, 0.9))
    assert first.entries_checked > 0
    stored.entry("a", 1, age=HOUR)
    broken = stored.artifact(1, HOUR)
    broken.rename(root / "elsewhere")
    assert completed(root, run(root, 0.9, 0.9)).entries_checked == first.entries_checked
    assert "0~a.json" in stored.names()
    (root / "elsewhere").rename(broken)
    quarantine(broken, root)
    assert completed(root, run(root, 0.9, 0.9)).entries_checked > first.entries_checked
    assert "0~a.json" not in stored.names()


def test_entry_that_might_wait_for_its_artifact_is_looked_at_again(root: Path) -> None:
    """It was put just before its artifact went into quarantine."""
    stored = Stored(root)
    entry = stored.entry("a", 1)
    quarantine(stored.artifact(1), root)
    report = completed(root, run(root, 0.9, 0.9, require_artifacts=False))
    assert entry.exists()
    assert report.entries_checked < stored.now / SECOND - 60
    set_age(entry, stored.at(ENTRY_GRACE_NS / SECOND + 60))  # as time goes by
    completed(root, run(root, 0.9, 0.9, require_artifacts=False))
    assert not entry.exists()


def test_what_was_in_quarantine_for_long_goes_with_a_pass(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: list[Path] = []
    monkeypatch.setattr(run_module, "remove_old", removed.append)
    run(stored.root, 0.9, 0.5)
    assert removed == [stored.root]
    run(stored.root, 0.9, 0.5, dry_run=True)
    assert removed == [stored.root]


# The pace.


def pressed(high: float, pressure: float) -> float:
    """How full a disk is under that pressure."""
    return high + pressure * (1 - high)


@pytest.mark.parametrize(
    ("pressure", "grace"),
    [
        (-1, GRACE_SECONDS),
        (0, GRACE_SECONDS),
        (HURRY_SHARE / 2, GRACE_SECONDS / 2),
        (HURRY_SHARE, HURRIED_SECONDS),
    ],
)
def test_grace_shrinks_as_the_disk_fills(
    stored: Stored, disk: Disk, pace: Pace, pressure: float, grace: float
) -> None:
    disk.other_blocks = round(pressed(0.8, pressure) * 1000) - FILES
    for number in range(FILES):
        stored.artifact(number, 0.5 + number / 100 * 20)
    target = 0.6 if pressure >= 0 else 0.5
    run(stored.root, 0.8, target, of=None)
    assert sum(pace.slept) == pytest.approx(grace, rel=0.1, abs=0.3)
    left = {number for number in range(FILES) if artifact_id(number) in stored.names()}
    assert max(left) * 20 / 100 + 0.5 == pytest.approx(grace, rel=0.1, abs=0.3)


def test_age_that_is_spared_and_pause_are_set_apart(
    stored: Stored, disk: Disk, pace: Pace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(FILES):
        stored.artifact(number, number + 1)
    monkeypatch.setattr(run_module, "PROTECTED_SECONDS", 40)
    disk.other_blocks = 800 - FILES
    run(stored.root, 0.8, 0.0, of=None)
    assert len(stored.names()) == pytest.approx(40, abs=2)
    assert sum(pace.slept) == pytest.approx(GRACE_SECONDS, abs=0.3)


def test_pass_does_not_wait_any_longer_once_the_disk_has_filled(
    stored: Stored, disk: Disk, pace: Pace
) -> None:
    disk.other_blocks = 710

    def fill() -> None:
        disk.other_blocks = 1000 - FILES

    pace.between = fill
    run(stored.root, 0.8, 0.75, of=None)
    assert sum(pace.slept) < HURRIED_SECONDS + 1
    assert len(stored.names()) < FILES


@pytest.mark.parametrize(("pressure", "rate"), [(0, RATE), (HURRY_SHARE / 2, 2 * RATE)])
def test_files_go_at_a_rate_that_grows_as_the_disk_fills(
    stored: Stored, disk: Disk, pace: Pace, pressure: float, rate: float
) -> None:
    disk.f_blocks = disk.f_files = 1_000_000  # so that what goes changes nothing
    disk.other_blocks = round(pressed(0.8, pressure) * 1_000_000)
    run(stored.root, 0.8, 0.0, of=None)
    assert stored.names() == set()
    rests = [seconds for seconds in pace.slept if seconds > 0 and seconds < 0.05]
    assert sum(rests) == pytest.approx(FILES / rate, rel=0.1)


@pytest.mark.parametrize(
    ("pressure", "niceness"),
    [(-1, NICENESS), (0, NICENESS), (HURRY_SHARE / 2, NICENESS), (HURRY_SHARE, 0)],
)
def test_pass_is_nice_unless_it_has_to_hurry(
    stored: Stored, disk: Disk, pace: Pace, pressure: float, niceness: int
) -> None:
    disk.other_blocks = round(pressed(0.8, pressure) * 1000) - FILES
    run(stored.root, 0.8, 0.8, of=None)
    assert pace.niceness == niceness


# How it ends, and what it says.


def test_pass_ends_with_its_parent(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    run(stored.root, 0.95, 0.9, parent=os.getppid())
    evicting = EvictionPass(stored.root, Limits(0.9, 0.5, FULL), parent=os.getppid())
    steps = evicting.run()
    while not evicting.removed.artifacts:
        next(steps)
    monkeypatch.setattr(os, "getppid", lambda: 1)
    with pytest.raises(ParentGone):
        list(steps)
    assert 1 <= evicting.removed.artifacts < 40
    assert len(stored.names()) < FILES


def test_pass_whose_parent_is_gone_at_the_start_does_nothing(stored: Stored) -> None:
    before = times_below(stored.root)
    evicting = EvictionPass(stored.root, Limits(0.95, 0.5, FULL), parent=os.getppid() + 1)
    with pytest.raises(ParentGone):
        list(evicting.run())
    assert not evicting.scan.complete
    assert evicting.removed.artifacts == 0
    assert times_below(stored.root) == before


def test_report_is_of_what_has_gone_and_what_is_left(stored: Stored) -> None:
    stored.entry("a", 0, age=HOUR)
    stored.entry("b", 99, age=99 * HOUR)
    evicted = run(stored.root, 0.95, 0.5)
    report = evicted.report()
    left = stored.names()
    assert report.stored_entries == 1
    assert report.stored_artifacts == len(left) - 1
    assert report.artifacts == FILES - report.stored_artifacts
    assert report.entries == 1
    assert report.bytes == (report.artifacts + 1) * BLOCK_BYTES
    assert report.stored_bytes == len(left) * BLOCK_BYTES
    youngest = min(number for number in range(FILES) if artifact_id(number) not in left)
    assert report.youngest_evicted_seconds == pytest.approx((youngest + 1) * HOUR, abs=60)
    assert report.ended == pytest.approx(stored.now / SECOND, abs=60)
    assert (
        report.seconds == pytest.approx(GRACE_SECONDS, abs=2) or report.seconds >= HURRIED_SECONDS
    )
    kept = evicted.kept()[APP]
    assert (kept.artifacts, kept.bytes) == (len(left) - 1, (len(left) - 1) * BLOCK_BYTES)
    assert evicted.age(kept.oldest_use) == pytest.approx(youngest * HOUR, abs=HOUR + 60)


@pytest.mark.parametrize(("target", "of"), [(1.0, FULL), (0.9, 2 * FULL)])
def test_pass_without_anything_to_do_changes_nothing_and_says_so(
    stored: Stored, target: float, of: int
) -> None:
    before = times_below(stored.root)
    evicted = run(stored.root, target, target, of=of)
    report = evicted.report()
    assert times_below(stored.root) == before
    assert evicted.excess == Amount()
    assert (report.artifacts, report.entries, report.bytes) == (0, 0, 0)
    assert report.youngest_evicted_seconds is None
    assert report.stored_artifacts == FILES
    assert evicted.kept()[APP] == Remaining(FILES, FULL, stored.at(100 * HOUR))
    assert evicted.age(None) is None


# Inodes of folders.


@pytest.fixture
def spread(root: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> Stored:
    """A hundred more artifacts, which lie in a folder of their own each; folders count as well."""
    monkeypatch.setattr(
        disk,
        "_stored",
        lambda: sum(1 for depth in (4, 5) for _ in root.glob("/".join("*" * depth))),
    )
    stored = Stored(root)
    for number in range(FILES):
        stored.artifact(f"FF{number:02x}", number * HOUR + HOUR, LIB)
    return stored


def test_folders_that_become_empty_are_what_frees_inodes_too(spread: Stored, disk: Disk) -> None:
    """Each file frees two inodes, so no more of them go than have to."""
    disk.other_files = 800 - disk._stored()
    run(spread.root, 0.7, 0.7, of=None)
    assert disk._stored() + disk.other_files == pytest.approx(700, abs=10)


def test_no_file_goes_where_empty_folders_are_enough(spread: Stored, disk: Disk) -> None:
    names = spread.names()
    for number in range(100):
        (LIB.path(spread.root) / "cas" / f"e{number}").mkdir()
    disk.other_files = 750 - disk._stored()
    evicted = run(spread.root, 0.7, 0.7, of=None)
    assert spread.names() == names
    assert evicted.report().folders == 100
    assert disk._stored() + disk.other_files == 650
