"""Cleans: what was stored before one is gone from the bucket, for every node, whenever it comes."""

import time

import pytest

from cache_actors.kinds import Kind
from cache_actors.s3.bucket import Listed
from cache_actors.s3.cleans import WRONG_CLOCK_SECONDS, Cleans, Cut
from cache_actors.s3.errors import Unreachable
from cache_actors.s3.push import Pusher
from cache_actors.storage.layout import Key, Project

from .pushes import APP, Disk, WatchedBucket

OTHER = Project("acme", "other")


@pytest.fixture
def cleans(bucket: WatchedBucket) -> Cleans:
    return Cleans(bucket)


def test_other_nodes_hear_of_a_clean_once_and_of_the_next_one_again(
    bucket: WatchedBucket, cleans: Cleans
) -> None:
    elsewhere = Cleans(bucket)
    before = time.time_ns()
    assert elsewhere.refresh() == {}
    cleans.clean(APP)
    after = time.time_ns()
    assert cleans.refresh() == {}, "whoever cleans knows"
    [(project, cut)] = elsewhere.refresh().items()
    assert project == APP
    assert before <= cut.stored <= after
    assert elsewhere.refresh() == {}
    assert elsewhere.cut(OTHER) == Cut()
    cleans.clean(APP)
    assert elsewhere.refresh()[APP].stored > cut.stored
    assert Cleans(bucket).refresh().keys() == {APP}


def test_clean_takes_what_was_stored_or_put_before_it(cleans: Cleans) -> None:
    cut = Cut(stored=2_000_000_000, put=3.0)
    assert cut.takes(2_000_000_000, 9.0)
    assert cut.takes(9_000_000_000, 2.0)
    assert not cut.takes(2_000_000_001, 3.0)
    assert not cleans.cut(APP).takes(1, 1.0)


def test_clean_deletes_what_it_takes_and_nothing_else(
    bucket: WatchedBucket, cleans: Cleans, disk: Disk
) -> None:
    pusher = Pusher(disk.root, bucket)
    old = [disk.artifact(1), disk.entry("aaaa", 1)]
    for kind in Kind.GRADLE, Kind.MODULE:
        old.append(Key(APP, kind, "ab" * 32))
        disk.write(old[-1], b"bytes")
    other = Key(OTHER, Kind.CAS, "0" * 64)
    disk.write(other, b"bytes")
    for key in *old, other:
        pusher.push(key)
    cleans.clean(APP)
    young = disk.artifact(2)
    pusher.push(young)
    bucket.put("cache/1/acme/app/cas/not ours.", b"bytes", {})
    cleans.remove(APP)
    assert [key for key in old if bucket.content(key) is not None] == []
    assert bucket.content(other) is not None
    assert bucket.content(young) is not None


@pytest.mark.parametrize(
    ("at", "found"),
    [
        (-10.0, 0.0),
        (0.5, 0.5),
        (WRONG_CLOCK_SECONDS + 50, WRONG_CLOCK_SECONDS),
        (1e9, WRONG_CLOCK_SECONDS),
    ],
    ids=["behind", "right", "ahead", "years ahead"],
)
def test_time_from_a_wrong_clock_does_not_count(
    bucket: WatchedBucket, cleans: Cleans, at: float, found: float
) -> None:
    put = 1_700_000_000.0
    marker = Listed(f"cache/1/.cleans/acme/app/{int((put + at) * 1e9)}", 5, put)
    bucket.list = lambda _: iter([marker])  # type: ignore[method-assign, assignment]
    assert cleans.refresh() == {APP: Cut(int((put + found) * 1e9), put)}


def test_names_that_are_no_markers_are_left_alone(bucket: WatchedBucket, cleans: Cleans) -> None:
    for name in ("acme/app/never", "acme/app", "acme/app/1/2", "ACME/app/1", "..a/app/1", "1"):
        bucket.put(f"cache/1/.cleans/{name}", b"", {})
    assert cleans.refresh() == {}


def test_bucket_that_fails_leaves_what_is_known(bucket: WatchedBucket, cleans: Cleans) -> None:
    cleans.clean(APP)
    cut = cleans.cut(APP)
    bucket.fail(Unreachable("down"))
    with pytest.raises(Unreachable):
        cleans.clean(APP)
    assert cleans.cut(APP) == cut
