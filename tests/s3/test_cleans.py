"""Cleans: every node hears of every clean, whoever knows of it, and no marker is lost."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache_actors.s3.bucket import Listed
from cache_actors.s3.cleans import exchange_cleans, exchange_cleans_in_turn, put_marker
from cache_actors.s3.config import BucketConfig
from cache_actors.s3.errors import Unreachable
from cache_actors.s3.names import MAX_AHEAD_SECONDS
from cache_actors.storage.known_cleans import known_clean, known_cleans, note_clean, note_followed
from cache_actors.storage.layout import SHARE, Project

from .pushes import APP, DAY, WatchedBucket

OTHER = Project("acme", "other")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The storage folder of this node."""
    (tmp_path / "one").mkdir()
    return tmp_path / "one"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """The storage folder of another node."""
    (tmp_path / "two").mkdir()
    return tmp_path / "two"


def markers(bucket: WatchedBucket) -> list[str]:
    return [each.name for each in bucket.list("cache/1/.cleans")]


def test_clean_of_one_node_is_known_to_the_others(
    bucket: WatchedBucket, root: Path, elsewhere: Path
) -> None:
    exchange_cleans(bucket, elsewhere)
    assert known_cleans(elsewhere) == {}
    now = time.time_ns()
    for when in now, now + 5:
        note_clean(root, APP, when)
        exchange_cleans(bucket, root)
        exchange_cleans(bucket, elsewhere)
        assert known_clean(elsewhere, APP).time == when
        assert known_clean(elsewhere, APP).going == when, "it has yet to follow"
    assert known_cleans(elsewhere).keys() == {APP}
    assert known_clean(elsewhere, OTHER).time == 0


def test_clean_that_the_bucket_could_not_be_told_of_is_told_later(
    bucket: WatchedBucket, root: Path, elsewhere: Path
) -> None:
    note_clean(root, APP, time.time_ns())
    bucket.fail(Unreachable("down"))
    with pytest.raises(Unreachable):
        exchange_cleans(bucket, root)
    exchange_cleans(bucket, root)
    exchange_cleans(bucket, elsewhere)
    assert known_clean(elsewhere, APP).time == known_clean(root, APP).time


def test_processes_of_a_node_take_turns_in_asking_for_cleans(
    bucket: WatchedBucket, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / SHARE).mkdir()
    asked: list[str] = []
    really_list = bucket.list

    def listing(folder: str) -> Iterator[Listed]:
        asked.append(folder)
        return really_list(folder)

    monkeypatch.setattr(bucket, "list", listing)
    for _ in range(3):
        exchange_cleans_in_turn(bucket, root, 10)
    assert len(asked) == 1
    [note] = (root / SHARE).iterdir()
    for age in 9, 11, -60:  # a clock may be set back
        os.utime(note, (0, time.time() - age))
        asked.clear()
        exchange_cleans_in_turn(bucket, root, 10)
        assert len(asked) == (age != 9)
    bucket.config = BucketConfig("another")
    exchange_cleans_in_turn(bucket, root, 10)
    assert len(asked) == 2


def test_marker_that_has_expired_is_put_again_and_no_other_one(
    bucket: WatchedBucket, root: Path
) -> None:
    when = time.time_ns()
    for earlier in 2, 1, 0:
        put_marker(bucket, APP, when - earlier)
    exchange_cleans(bucket, root)
    note_followed(root, APP, when)
    bucket.puts.clear()
    exchange_cleans(bucket, root)
    assert bucket.puts == []
    for name in markers(bucket):
        bucket.delete(name)
    exchange_cleans(bucket, root)
    assert markers(bucket) == [f"cache/1/.cleans/{APP}/{when}"]
    assert known_clean(root, APP).is_followed


@pytest.mark.parametrize(
    ("at", "found"),
    [
        (-10.0, -10.0),
        (0.5, 0.5),
        (MAX_AHEAD_SECONDS + 50, MAX_AHEAD_SECONDS),
        (1e9, MAX_AHEAD_SECONDS),
    ],
    ids=["behind", "right", "ahead", "years ahead"],
)
def test_time_from_a_wrong_clock_does_not_count_and_is_not_put_again(
    bucket: WatchedBucket, root: Path, at: float, found: float
) -> None:
    put = 1_700_000_000.0
    marker = Listed(f"cache/1/.cleans/acme/app/{int((put + at) * 1e9)}", 5, put)
    bucket.list = lambda _: iter([marker])  # type: ignore[method-assign, assignment]
    exchange_cleans(bucket, root)
    assert known_clean(root, APP).time == int((put + found) * 1e9)
    assert bucket.puts == []


YEAR = 365 * DAY


@pytest.mark.parametrize("noted_here", [False, True], ids=["by another node", "by this node"])
def test_clean_after_one_from_a_clock_far_ahead_is_told_all_the_same(
    bucket: WatchedBucket, root: Path, elsewhere: Path, noted_here: bool
) -> None:
    ahead = time.time_ns() + YEAR * 1_000_000_000
    put_marker(bucket, APP, ahead)
    bucket.time_goes_by(600)
    if noted_here:
        note_clean(root, APP, ahead)
    for _ in range(2):
        exchange_cleans(bucket, root)
    assert known_clean(root, APP).time < time.time_ns(), "what is stored from now on stays"
    clean = time.time_ns()
    note_clean(root, APP, clean)
    exchange_cleans(bucket, root)
    exchange_cleans(bucket, elsewhere)
    assert known_clean(root, APP).time == known_clean(elsewhere, APP).time == clean
    assert len(markers(bucket)) == 2


def test_clean_is_told_again_until_the_clock_of_the_bucket_bears_it_out(
    bucket: WatchedBucket, root: Path, elsewhere: Path
) -> None:
    clean = time.time_ns()
    note_clean(root, APP, clean)
    exchange_cleans(bucket, root)
    bucket.time_goes_by(600)  # the bucket's clock was behind
    exchange_cleans(bucket, elsewhere)
    assert known_clean(elsewhere, APP).time < clean
    exchange_cleans(bucket, root)
    exchange_cleans(bucket, elsewhere)
    assert known_clean(elsewhere, APP).time == clean
    bucket.puts.clear()
    exchange_cleans(bucket, root)
    assert bucket.puts == []


def test_names_that_are_no_markers_are_left_alone(bucket: WatchedBucket, root: Path) -> None:
    for name in ("acme/app/never", "acme/app", "acme/app/1/2", "ACME/app/1", "..a/app/1", "1"):
        bucket.put(f"cache/1/.cleans/{name}", b"", {})
    exchange_cleans(bucket, root)
    assert known_cleans(root) == {}


def test_bucket_that_fails_leaves_what_is_known(bucket: WatchedBucket, root: Path) -> None:
    note_clean(root, APP, 5)

    def fail(_: str) -> None:
        raise Unreachable("down")

    bucket.list = fail  # type: ignore[method-assign, assignment]
    with pytest.raises(Unreachable):
        exchange_cleans(bucket, root)
    assert known_clean(root, APP).time == 5
