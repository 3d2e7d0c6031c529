"""Eviction of chosen projects: what goes in each phase, what is spared, and in which order.

What goes here is everything that was not used for half a day.
"""

import errno
import fcntl
import os
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest

from cache_actors.kinds import Kind
from cache_actors.storage import walk
from cache_actors.storage.capacity import Amount
from cache_actors.storage.entries import EntryWrite, EntryWriter, MissingArtifact
from cache_actors.storage.eviction import sweep as module
from cache_actors.storage.eviction.cutoff import Cutoff, Histogram, cutoff
from cache_actors.storage.eviction.sweep import (
    BATCH,
    MAX_PAUSE_SECONDS,
    ClockStepped,
    Evicted,
    Step,
    Sweep,
)
from cache_actors.storage.files.last_use import WRONG_CLOCK_NS
from cache_actors.storage.files.store import FileStore
from cache_actors.storage.files.temporary import TemporaryFolder
from cache_actors.storage.layout import Key, Project
from cache_actors.storage.references import references_in
from tests.storage.stores import can_lock, fail_calls_for, refusing
from tests.support.stored import (
    APP,
    BLOCK_BYTES,
    DAY,
    HOUR,
    LIB,
    SECOND,
    Stored,
    artifact_id,
    body_of,
    set_age,
    times_below,
    value_of,
)

OLD, RECENT = DAY, HOUR
A = artifact_id(1)


@pytest.fixture
def writer(root: Path, temporary: TemporaryFolder) -> EntryWriter:
    return EntryWriter(FileStore(root, temporary, durable=False), require_artifacts=True)


def put(writer: EntryWriter, name: str, *artifacts: int) -> bool:
    """Put an entry, as the service does, and say whether it was taken."""
    ids = [artifact_id(each) for each in artifacts]
    write = EntryWrite(
        Key(APP, Kind.KEYVALUE, f"0~{name}"), body_of(value_of(*ids)), frozenset(ids)
    )
    [outcome] = writer.put([write])
    assert outcome is None or isinstance(outcome, MissingArtifact)
    return outcome is None


def everything_older_than(stored: Stored, age: float) -> Cutoff:
    return cutoff(Histogram(stored.now), Amount(1 << 60), protected=age)


def new_eviction(stored: Stored, grace: float = 0.0) -> Sweep:
    return Sweep(stored.root, everything_older_than(stored, DAY / 2), grace)


def evict(stored: Stored, *projects: Project) -> Sweep:
    """Evict what was not used for half a day."""
    evicting = new_eviction(stored)
    list(evicting.run(projects or [APP]))
    return evicting


def expect_no_entry_without_its_artifacts(stored: Stored) -> None:
    for path in stored.root.glob("*/*/keyvalue/*/*.json"):
        with open(os.open(path, os.O_RDONLY | os.O_NOATIME), "rb") as file:  # noqa: PTH123
            body = file.read()
        for each in references_in(body):
            assert (path.parents[2] / "cas" / each[2:4] / each).exists(), path


# Entries.


@pytest.mark.parametrize(
    ("artifacts", "entries", "left"),
    [
        ({1: OLD, 2: RECENT, 3: 3 * OLD, 4: 2 * RECENT}, {}, {2, 4}),
        ({1: OLD}, {"a": (OLD, 1)}, set()),
        ({1: RECENT}, {"a": (OLD, 1)}, {1}),
        ({1: OLD, 2: RECENT}, {"a": (RECENT, 1, 2)}, {"a", 1, 2}),
        ({1: RECENT}, {"a": (RECENT, 1, 2), "b": (0.0, 2), "c": (RECENT, 1)}, {"c", 1}),
    ],
    ids=["artifacts", "both", "entry alone", "nothing of what is in use", "entry without artifact"],
)
def test_what_is_old_goes_and_entries_whose_artifacts_are_missing(
    stored: Stored, artifacts: dict[int, float], entries: dict[str, Any], left: set[int | str]
) -> None:
    for number, age in artifacts.items():
        stored.artifact(number, age)
    for name, (age, *ids) in entries.items():
        stored.entry(name, *ids, age=age)
    stored.artifact(2, RECENT, LIB)  # of another project
    evicted = evict(stored)
    kept = [number for number in artifacts if number in left]
    gone = [number for number in artifacts if number not in left]
    entries_left = {f"0~{name}.json" for name in entries if name in left}
    assert stored.names() == {artifact_id(2), *map(artifact_id, kept), *entries_left}
    assert replace(evicted.removed, folders=0) == Evicted(
        artifacts=len(gone),
        entries=len(entries) - len(entries_left),
        bytes=(len(gone) + len(entries) - len(entries_left)) * BLOCK_BYTES,
        youngest_use=max((stored.at(artifacts[number]) for number in gone), default=None),
    )
    assert (evicted.kept[APP].artifacts, evicted.kept[APP].bytes) == (
        len(kept),
        len(kept) * BLOCK_BYTES,
    )
    assert not evicted.unsettled


@pytest.mark.parametrize("body", [body_of("something else"), body_of(), b"{", b"", None])
def test_entry_of_unknown_form_goes_by_its_age(
    stored: Stored, body: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So does one that cannot be read any more."""
    content = b"lost" if body is None else body
    entries = [stored.raw_entry("old", content, OLD), stored.raw_entry("new", content, RECENT)]
    if body is None:
        for entry in entries:
            fail_calls_for(monkeypatch, os, "open", entry, errno.EIO)
    evict(stored)
    assert [entry.exists() for entry in entries] == [False, True]


def test_entries_of_unknown_form_share_by_name_like_artifacts(stored: Stored) -> None:
    unknown = [stored.raw_entry(f"unknown{number}", b"{}", OLD) for number in range(100)]
    artifacts = [stored.artifact(number, OLD) for number in range(100)]
    bucket = everything_older_than(stored, OLD).bucket - 1  # theirs
    rule = Cutoff(stored.now, bucket, 0.5)
    list(Sweep(stored.root, rule, 0.0).run([APP]))
    assert not rule.takes_all(stored.at(OLD))
    for path in (*unknown, *artifacts):
        assert path.exists() is not rule.takes(stored.at(OLD), path.name.removesuffix(".json"))
    assert 50 < len(stored.names()) < 150


def test_artifacts_of_entries_that_stay_are_no_older_than_the_youngest(stored: Stored) -> None:
    for name, age in (("a", RECENT), ("b", RECENT / 2), ("c", 2 * RECENT)):
        stored.entry(name, *([1, 2, 3] if name == "a" else [4]), age=age)
    stored.entry("d", 4, age=RECENT)
    ages = {1: OLD, 2: RECENT + 100, 3: RECENT - 100, 4: OLD}
    paths = {number: stored.artifact(number, age) for number, age in ages.items()}
    evict(stored)
    assert [stored.age(path) for path in paths.values()] == [
        RECENT,
        RECENT,
        RECENT - 100,
        RECENT / 2,
    ]
    for number, path in paths.items():
        assert path.stat().st_mtime_ns == stored.at(ages[number])
    assert evict(stored).kept[APP].oldest_use == stored.at(RECENT)


def test_entry_put_a_moment_ago_may_wait_for_its_artifacts(stored: Stored) -> None:
    """Where it may be put before them; a time in the future is that of a wrong clock."""
    entry = stored.entry("a", 1, age=module.ENTRY_GRACE_NS / SECOND - 60)
    far = stored.entry("b", 1, age=-2 * DAY)
    lenient = new_eviction(stored)
    lenient.require_artifacts = False
    list(lenient.run([APP]))
    assert entry.exists()
    assert not far.exists()
    assert lenient.unsettled
    set_age(entry, stored.at(module.ENTRY_GRACE_NS / SECOND + 60))
    lenient = new_eviction(stored)
    lenient.require_artifacts = False
    list(lenient.run([APP]))
    assert not entry.exists()
    assert not lenient.unsettled


def test_entry_that_was_read_a_moment_ago_does_not_wait_any_more(stored: Stored) -> None:
    entry = stored.entry("a", 1)
    os.utime(entry, ns=(stored.now, stored.at(HOUR)))
    evict(stored)
    assert not entry.exists()


def test_entry_goes_if_one_of_its_artifacts_goes(stored: Stored) -> None:
    """By name, of those as old as it is."""
    for number in range(40):
        stored.artifact(number, OLD)
        stored.artifact(100 + number, RECENT)
        stored.entry(f"entry{number}", number, 100 + number, age=OLD)
    rule = Cutoff(stored.now, everything_older_than(stored, OLD).bucket - 1, 0.5)
    evicted = Sweep(stored.root, rule, 0.0)
    list(evicted.run([APP]))
    expect_no_entry_without_its_artifacts(stored)
    assert 5 < evicted.removed.entries < 35
    for number in range(40):
        goes = rule.takes(stored.at(OLD), artifact_id(number))
        assert (artifact_id(number) in stored.names()) is not goes
        assert (f"0~entry{number}.json" in stored.names()) is not goes


@pytest.mark.parametrize("spellings", [[A], [A.lower()], [A, A.lower()]])
@pytest.mark.parametrize("is_called", [A, A.lower()])
def test_artifact_is_known_by_either_spelling(
    stored: Stored, spellings: list[str], is_called: str
) -> None:
    paths = [stored.artifact(spelling, OLD) for spelling in spellings]
    entry = stored.entry("a", is_called, age=RECENT)
    evict(stored)
    assert entry.exists()
    assert [stored.age(path) for path in paths] == [RECENT] * len(paths)


def test_looking_at_entries_is_no_use(stored: Stored) -> None:
    stored.artifact(1, RECENT)
    entry = stored.entry("a", 1, age=RECENT)
    os.utime(entry, ns=(stored.at(OLD), stored.at(RECENT)))  # relatime would move it
    evict(stored)
    assert entry.stat().st_atime_ns == stored.at(OLD)


def test_artifacts_stay_where_a_folder_of_entries_is_lost(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = stored.artifact(1, OLD)
    lost = stored.entry("a", 1, age=RECENT).parent
    stored.artifact(2, OLD, LIB)
    fail_calls_for(monkeypatch, os, "scandir", lost, errno.EIO)
    evict(stored, APP, LIB)
    assert list(new_eviction(stored).mend([APP])) == []
    monkeypatch.undo()
    assert stored.names() == {kept.name, "0~a.json"}


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES])
def test_entry_of_somebody_else_is_an_error_that_names_it(
    stored: Stored, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    entry = stored.entry("a", 1, age=RECENT)
    artifact = stored.artifact(1, OLD)
    fail_calls_for(monkeypatch, os, "open", entry, number)
    with pytest.raises(PermissionError) as caught:
        evict(stored)
    assert caught.value.filename == str(entry)
    assert entry.exists()
    assert artifact.exists()


def test_artifact_of_somebody_else_that_has_to_stay_is_an_error_that_names_it(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored.entry("a", 1, age=RECENT)
    artifact = stored.artifact(1, OLD)
    monkeypatch.setattr(os, "utime", refusing(errno.EPERM))
    with pytest.raises(PermissionError) as caught:
        evict(stored)
    assert caught.value.filename == str(artifact)
    assert artifact.exists()


# Artifacts.


def test_artifact_of_somebody_else_is_left_alone(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry that is put may need it, and could not note that."""
    path = stored.artifact(1, OLD)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    evicted = evict(stored)
    assert path.exists()
    assert (evicted.removed.artifacts, evicted.kept[APP].artifacts) == (0, 1)


def test_other_projects_are_not_touched(stored: Stored) -> None:
    for project in (APP, LIB):
        stored.artifact(1, OLD, project)
        stored.artifact(2, OLD, project)
        stored.entry("a", 1, age=OLD, project=project)
        stored.entry("b", 3, age=RECENT, project=project)
        stored.entry("c", 2, age=RECENT, project=project)
    before = times_below(LIB.path(stored.root))
    evict(stored, APP)
    assert times_below(LIB.path(stored.root)) == before
    assert len(list(APP.path(stored.root).glob("*/*/*"))) == 2
    evict(stored, APP, LIB, Project("no", "body"))
    assert len(list(stored.root.glob("*/*/*/*/*"))) == 4


def test_what_is_none_of_the_services_stays(stored: Stored) -> None:
    path, entry = stored.artifact(1, OLD), stored.entry("a", age=OLD)
    strangers = [path.with_name("a name"), entry.with_name("x.txt"), path.with_name(A[:4])]
    for stranger in strangers[:2]:
        stranger.write_bytes(b"x")
    strangers[2].symlink_to(path)
    for stranger in strangers:
        os.utime(stranger, ns=(0, 0), follow_symlinks=False)
    evict(stored)
    assert stored.names() == {stranger.name for stranger in strangers}


def test_folders_go_when_they_are_empty_and_those_of_a_project_stay(stored: Stored) -> None:
    gone = stored.artifact("AA11", OLD), stored.entry("11a", "AA11", age=OLD)
    kept = stored.artifact("AA22"), stored.entry("22a", "AA22")
    empty = gone[0].parent.with_name("33")
    empty.mkdir()
    removed = evict(stored).removed
    assert removed.folders == 3
    assert not any(folder.exists() for folder in (gone[0].parent, gone[1].parent, empty))
    assert all(path.exists() for path in kept)
    assert all(folder.is_dir() for folder in gone[0].parents[1:4])


# Between a look and the lock.


def test_entries_that_change_in_between_are_looked_at_again(
    stored: Stored, writer: EntryWriter
) -> None:
    read, replaced = stored.entry("aa-read", 1, age=OLD), stored.entry("aa-put", 9, age=OLD)
    removed, without = stored.entry("aa-removed", age=OLD), stored.entry("aa", 3, age=RECENT)
    artifacts = [stored.artifact(number, OLD) for number in (1, 2)]
    evicting = new_eviction(stored)
    steps = evicting.run([APP])
    assert next(steps) == Step()
    os.utime(read, ns=(stored.now, stored.at(OLD)))
    assert put(writer, "aa-put", 2)
    removed.unlink()
    stored.artifact(3)
    list(steps)
    assert all(path.exists() for path in (read, replaced, without, *artifacts))
    assert stored.age(artifacts[0]) == 0
    assert evicting.removed == Evicted()


def test_artifact_that_is_used_in_between_is_spared(stored: Stored, writer: EntryWriter) -> None:
    paths = [stored.artifact(number, OLD) for number in (1, 2, 3)]
    evicting = new_eviction(stored)
    steps = evicting.run([APP])
    next(steps)
    assert put(writer, "a", 1)
    os.utime(paths[1])
    list(steps)
    assert {A, artifact_id(2), "0~a.json"} == stored.names()
    assert (evicting.removed.artifacts, evicting.kept[APP].artifacts) == (1, 2)


def each_point(folder: Path) -> Iterator[tuple[Stored, Iterator[Step]]]:
    """A project with old and recent entries that share artifacts, and a pass that has taken no
    step, one, and so on, up to its last."""
    for point in count():
        stored = Stored(folder / str(point))
        for number in range(6):
            stored.artifact(number, OLD)
        for number, age in enumerate((OLD, RECENT, OLD, RECENT)):
            stored.entry(f"entry{number}", number, number + 1, age=age)
        steps = new_eviction(stored).run([APP])
        if len(list(islice(steps, point))) < point:
            return
        yield stored, steps


def test_entry_put_at_any_point_has_its_artifacts_in_the_end(
    tmp_path: Path, temporary: TemporaryFolder
) -> None:
    outcomes: list[bool] = []
    for stored, steps in each_point(tmp_path):
        store = FileStore(stored.root, temporary, durable=False)
        outcomes.append(put(EntryWriter(store, require_artifacts=True), "new", 0, 5))
        list(steps)
        expect_no_entry_without_its_artifacts(stored)
        assert outcomes[-1] is ("0~new.json" in stored.names())
    assert outcomes[0]
    assert not outcomes[-1]
    assert outcomes == sorted(outcomes, reverse=True)


def test_pass_that_dies_at_any_point_leaves_no_entry_without_its_artifacts(tmp_path: Path) -> None:
    for stored, _ in each_point(tmp_path):
        expect_no_entry_without_its_artifacts(stored)
        evict(stored)
        assert len(stored.names()) == 2 + 4


# Order, locks, pace.


@dataclass
class Call:
    """Something that was asked of the kernel."""

    what: str
    path: str
    is_locked: bool  # whether entries are kept out of the project


@pytest.fixture
def calls(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Removals and syncs, in order."""
    calls: list[Call] = []
    really_unlink, really_sync = os.unlink, os.fsync

    def unlink(path: Any, *arguments: Any, **how: Any) -> None:
        calls.append(Call("unlink", str(path), not can_lock(APP.path(root), fcntl.LOCK_SH)))
        really_unlink(path, *arguments, **how)

    def sync(fd: int) -> None:
        path = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115
        calls.append(Call("sync", path, not can_lock(APP.path(root), fcntl.LOCK_SH)))
        really_sync(fd)

    monkeypatch.setattr(os, "unlink", unlink)
    monkeypatch.setattr(os, "fsync", sync)
    return calls


def test_all_folders_of_entries_are_synced_before_an_artifact_goes(
    stored: Stored, calls: list[Call]
) -> None:
    for number in range(20):
        stored.artifact(number, OLD)
        stored.entry(f"{number:02}", number, age=OLD)
    stored.entry("stays", age=RECENT)
    evict(stored)
    kinds = ["artifact" if "/cas/" in call.path else "entry" for call in calls]
    first_artifact = kinds.index("artifact")
    assert "entry" not in kinds[first_artifact:]
    for call in calls[:first_artifact]:
        if call.what == "unlink":
            folder = os.path.dirname(call.path)  # noqa: PTH120
            later = calls[calls.index(call) : first_artifact]
            assert Call("sync", folder, is_locked=False) in later
    synced = {call.path for call in calls if call.what == "sync"}
    assert synced >= {str(path) for path in stored.root.glob("*/*/keyvalue/*")}


def test_what_another_pass_has_removed_is_synced_too(stored: Stored, calls: list[Call]) -> None:
    """It may have died before it came to that."""
    entry = stored.entry("a", age=OLD)
    artifact = stored.artifact(1, OLD)
    entry.unlink()
    calls.clear()
    evict(stored)
    assert [(call.what, call.path) for call in calls] == [
        ("sync", str(entry.parent)),
        ("unlink", str(artifact)),
    ]


def test_files_are_removed_under_the_lock_a_few_at_a_time(
    stored: Stored, calls: list[Call]
) -> None:
    for number in range(3 * BATCH):
        stored.artifact(A[:4] + f"{number:04}", OLD)
        stored.raw_entry(f"aa{number:04}", b"x", OLD)
    gone = 0
    for step in new_eviction(stored).run([APP]):
        assert can_lock(APP.path(stored.root), fcntl.LOCK_SH)
        removed = sum(call.what == "unlink" for call in calls) - gone
        assert removed == step.removed <= BATCH
        gone += removed
    assert gone == 6 * BATCH
    assert all(call.is_locked for call in calls if call.what == "unlink")
    assert not any(call.is_locked for call in calls if call.what == "sync")


class Clock:
    """A clock that only the test moves."""

    def __init__(self, now: int) -> None:
        self.now = now

    def time_ns(self) -> int:
        return self.now

    def monotonic(self) -> float:
        return self.now / SECOND


@pytest.fixture
def clock(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(stored.now)
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_artifacts_wait_for_the_end_of_the_grace(stored: Stored, clock: Clock) -> None:
    entry, artifact = stored.entry("a", 1, age=OLD), stored.artifact(1, OLD)
    steps = new_eviction(stored, grace=10.0).run([APP])
    began = clock.now
    for step in steps:
        clock.now += int(step.pause * SECOND)
        assert step.pause <= MAX_PAUSE_SECONDS
        assert artifact.exists() or clock.now >= began + 10 * SECOND
    assert (clock.now - began) / SECOND == pytest.approx(10, abs=2 * MAX_PAUSE_SECONDS)
    assert not entry.exists()
    assert not artifact.exists()


def test_grace_may_be_cut_short_at_any_time(stored: Stored, clock: Clock) -> None:
    artifact = stored.artifact(1, OLD)
    evicting = new_eviction(stored, grace=1000.0)
    steps = evicting.run([APP])
    assert next(steps).pause == MAX_PAUSE_SECONDS
    clock.now += SECOND
    assert next(steps).pause == MAX_PAUSE_SECONDS
    evicting.grace = 0.5
    list(steps)
    assert not artifact.exists()


def test_grace_of_several_projects_passes_at_once(stored: Stored, clock: Clock) -> None:
    projects = [Project("acme", f"app{number}") for number in range(10)]
    for project in projects:
        stored.artifact(1, OLD, project)
        stored.entry("a", 1, age=OLD, project=project)
    began, last_entry_gone = clock.now, 0
    for step in new_eviction(stored, grace=10.0).run(projects):
        entries = len(list(stored.root.glob("*/*/keyvalue/*/*")))
        clock.now += int(step.pause * SECOND) + SECOND // 100
        last_entry_gone = last_entry_gone or (clock.now if entries == 0 else 0)
        assert len(list(stored.root.glob("*/*/cas/*/*"))) >= entries
    assert stored.names() == set()
    assert (clock.now - began) / SECOND < 12
    assert (clock.now - last_entry_gone) / SECOND >= 9


@pytest.mark.parametrize("step", [-1, WRONG_CLOCK_NS], ids=["back", "far ahead"])
@pytest.mark.parametrize("phase", [1, 2])
def test_clock_that_is_set_ends_the_pass_before_anything_goes(
    stored: Stored, clock: Clock, step: int, phase: int
) -> None:
    """The uses that entries note from then on would not count as later ones."""
    if phase == 1:
        stored.entry("a", 1, age=OLD)
    stored.artifact(1, OLD)
    before = stored.names()
    steps = new_eviction(stored).run([APP])
    next(steps)
    clock.now += step
    with pytest.raises(ClockStepped, match="The clock was set during the pass"):
        list(steps)
    assert stored.names() == before
    assert can_lock(APP.path(stored.root), fcntl.LOCK_SH)


# Half of it, or only a look.


def test_mending_removes_entries_without_artifacts_and_nothing_else(stored: Stored) -> None:
    stored.artifact(1, OLD)
    stored.artifact(2, RECENT)
    for name, number, age in (("a", 1, RECENT), ("b", 3, RECENT), ("c", 3, OLD), ("d", 2, OLD)):
        stored.entry(name, number, age=age)
    nothing = cutoff(Histogram(stored.now), Amount(), 0.0)
    mending = Sweep(stored.root, nothing, grace=1000.0)
    assert all(step.pause == 0 for step in mending.mend([APP]))
    assert stored.names() == {"0~a.json", "0~d.json", A, artifact_id(2)}
    assert (mending.removed.entries, mending.removed.artifacts) == (2, 0)


def test_look_counts_what_would_go_and_changes_nothing(stored: Stored) -> None:
    stored.artifact(1, OLD)
    stored.artifact(2, RECENT)
    stored.entry("a", 1, age=OLD)
    stored.entry("b", 1, age=RECENT)
    before = times_below(stored.root)
    looking = new_eviction(stored)
    list(looking.look([APP]))
    assert times_below(stored.root) == before
    assert (looking.removed.artifacts, looking.removed.entries) == (1, 1)
    assert looking.removed.bytes == 2 * BLOCK_BYTES
    assert looking.removed.youngest_use == stored.at(OLD)
    assert (looking.kept[APP].artifacts, looking.kept[APP].bytes) == (1, BLOCK_BYTES)


# Many files.


def test_first_files_go_before_the_last_ones_are_looked_at(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[str] = []
    really_status = walk._status

    def status(each: os.DirEntry[str]) -> os.stat_result | None:
        looked_at.append(each.name)
        return really_status(each)

    monkeypatch.setattr(walk, "_status", status)
    for number in range(10 * BATCH):
        stored.artifact(A[:4] + f"{number:04}", OLD)
    steps: Iterator[Step] = new_eviction(stored).run([APP])
    assert next(step.removed for step in steps if step.removed) == BATCH
    assert len(looked_at) == BATCH
    list(steps)
    assert stored.names() == set()


@pytest.mark.parametrize("age", [OLD, RECENT], ids=["go", "stay"])
def test_folder_of_many_files_is_not_held_in_memory(stored: Stored, age: float) -> None:
    path = stored.artifact(1)
    for number in range(1, 3_000):
        os.link(path, path.with_name(A[:4] + str(number)))
    set_age(path, stored.at(age))
    evicting = new_eviction(stored)
    tracemalloc.start()
    for _ in evicting.run([APP]):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    removed = 3_000 if age == OLD else 0
    assert evicting.removed.artifacts == removed
    assert evicting.kept[APP].artifacts == 3_000 - removed
    assert peak < 300_000
