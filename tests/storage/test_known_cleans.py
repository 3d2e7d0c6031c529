"""Notes of known cleans: the latest one counts, for everybody who looks at the same folder."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cache_actors.storage.known_cleans import (
    SETTLING_SECONDS,
    KnownClean,
    known_clean,
    known_cleans,
    note_clean,
    note_followed,
    notes_of,
)
from cache_actors.storage.walk import projects
from tests.support.stored import APP, LIB, SECOND


def test_without_a_clean_nothing_is_taken(root: Path) -> None:
    clean = known_clean(root, APP)
    assert (clean.time, clean.going, clean.is_followed) == (0, 0, True)
    assert not clean.takes(1)
    assert clean.marked_since() == 0
    assert known_cleans(root) == {}


def test_latest_clean_counts_and_takes_what_was_stored_by_then(root: Path) -> None:
    for when in 200, 100, 300:
        note_clean(root, APP, when)
    clean = known_clean(root, APP)
    assert clean.takes(300)
    assert not clean.takes(301)
    assert [path.name for path in notes_of(root, APP).iterdir()] == ["300"]
    assert known_cleans(root) == {APP: clean}
    assert not known_clean(root, LIB).takes(1)
    assert projects(root) == []


def test_clean_takes_what_is_going_until_it_is_followed(root: Path) -> None:
    note_clean(root, APP, 100)
    assert known_clean(root, APP).going == 100
    note_followed(root, APP, 100)
    assert known_clean(root, APP) == KnownClean(100, is_followed=True)
    note_clean(root, APP, 100)
    assert known_clean(root, APP).going == 0
    note_clean(root, APP, 200)
    note_followed(root, APP, 100)
    assert known_clean(root, APP).going == 200, "that one has not been followed"


def test_names_that_are_no_notes_are_left_alone(root: Path) -> None:
    note_clean(root, APP, 5)
    folder = notes_of(root, APP)
    for name in ("x", "7.don", "-9", "1" * 20):
        (folder / name).touch()
    (root / ".cleans" / "UPPER" / "case").mkdir(parents=True)
    (root / ".cleans" / "file").touch()
    assert known_cleans(root) == {APP: KnownClean(5, is_followed=False)}


def test_latest_of_those_noted_at_once_counts_and_is_seen_at_every_moment(root: Path) -> None:
    note_clean(root, APP, 1)
    with ThreadPoolExecutor(4) as noting:
        notes = [noting.submit(note_clean, root, APP, when, durable=False) for when in range(99)]
        seen = [known_clean(root, APP).time]
        while not all(note.done() for note in notes):
            seen.append(known_clean(root, APP).time)
        for note in notes:
            note.result()
    assert seen[0] >= 1
    assert seen == sorted(seen)
    assert known_clean(root, APP).time == 98


@pytest.mark.parametrize(("later", "counts"), [(-1, True), (1, False)])
def test_marks_of_about_the_time_of_a_clean_do_not_count_after_a_while(
    root: Path, later: float, counts: bool
) -> None:
    now = time.time()
    note_clean(root, APP, int((now - SETTLING_SECONDS - later) * SECOND))
    put = now - SETTLING_SECONDS
    assert (put >= known_clean(root, APP).marked_since(now)) is counts


def test_nothing_is_taken_without_a_clean_however_old_it_seems() -> None:
    assert not KnownClean().takes(0)
    assert KnownClean(1).takes(0)
