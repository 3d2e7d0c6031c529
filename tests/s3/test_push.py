"""Pushes of single files: what is put, in which order, and what is marked."""

import errno
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cache_actors.kinds import Kind
from cache_actors.s3 import push as push_module
from cache_actors.s3.config import BucketConfig
from cache_actors.s3.errors import Misconfigured, Unreachable
from cache_actors.s3.names import SHA256, STORED, object_name
from cache_actors.s3.push import Pushed, Pusher
from cache_actors.s3.walk import Unshared, unshared
from cache_actors.storage.integrity.checksum import ATTRIBUTE
from cache_actors.storage.integrity.validation import Fault, open_or_fault
from cache_actors.storage.known_cleans import note_clean, note_followed
from cache_actors.storage.layout import QUARANTINE, Key
from tests.storage.stores import fail

from .pushes import APP, DAY, Disk, WatchedBucket

GONE = Key(APP, Kind.CAS, "0" * 64)


@pytest.fixture
def pusher(disk: Disk, bucket: WatchedBucket) -> Pusher:
    return Pusher(disk.root, bucket)


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("size", [1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_file_of_any_kind_and_size_is_put_as_it_is_and_marked(
    disk: Disk, bucket: WatchedBucket, pusher: Pusher, kind: Kind, size: int
) -> None:
    content = os.urandom(size)
    key = Key(APP, kind, "ab" * 32)
    disk.write(key, content)
    before = key.path(disk.root).stat()
    assert pusher.push(key) is Pushed.DONE
    assert bucket.content(key) == content
    assert disk.is_marked(key)
    after = key.path(disk.root).stat()
    assert (after.st_mtime_ns, after.st_atime_ns, after.st_ino, after.st_blocks) == (
        before.st_mtime_ns,
        before.st_atime_ns,
        before.st_ino,
        before.st_blocks,
    )
    found = bucket.get(object_name("cache", key))
    record = disk.record(key)
    assert found is not None
    assert record is not None
    assert found.metadata[SHA256] == record.digest.hex()
    assert found.metadata[STORED] == str(before.st_mtime_ns)


def test_marked_file_is_put_again_only_if_its_mark_is_too_old_or_of_another_bucket(
    disk: Disk, bucket: WatchedBucket, pusher: Pusher
) -> None:
    key = disk.artifact(1)
    for days, target, again in [
        (6, None, False),
        (8, None, True),
        (1, BucketConfig("other").target, True),
        (-2, None, True),  # from a wrong clock
    ]:
        disk.mark(key, days, target)
        bucket.puts.clear()
        assert pusher.push(key) is Pushed.DONE
        assert bucket.pushed() == [key] * again
        assert not again or disk.is_marked(key)
    bucket.puts.clear()
    pusher.push(key, oldest=time.time() + 1)
    assert bucket.pushed() == [key]


@pytest.mark.parametrize(
    ("stored_later", "days_ago", "digest", "is_left_out"),
    [
        (1, 6, "0" * 64, True),
        (1, 8, "0" * 64, False),
        (-1, 6, "0" * 64, False),
        (1, 6, "", False),
    ],
    ids=["newer", "newer but not put again for long", "older", "newer but of no use"],
)
def test_entry_that_is_put_again_is_left_out_while_another_node_puts_a_newer_one(
    disk: Disk,
    bucket: WatchedBucket,
    pusher: Pusher,
    stored_later: int,
    days_ago: int,
    digest: str,
    is_left_out: bool,
) -> None:
    entry = disk.entry("0~a", salt="ours")
    path, long_ago = entry.path(disk.root), time.time() - 9 * DAY
    os.utime(path, (long_ago, long_ago))
    disk.mark(entry, 8)
    ours, name = entry.path(disk.root).stat().st_mtime_ns, object_name("cache", entry)
    bucket.put(name, b"theirs", {SHA256: digest, STORED: str(ours + stored_later)})
    bucket.put_at[name] -= days_ago * DAY
    assert pusher.push(entry) is Pushed.DONE
    content = b"theirs" if is_left_out else entry.path(disk.root).read_bytes()
    assert bucket.content(entry) == content
    record = disk.record(entry)
    assert record is not None
    assert record.mark is not None
    assert record.mark.put == int(bucket.put_at[name])


def test_artifacts_come_before_the_entry_that_refers_to_them(
    disk: Disk, bucket: WatchedBucket, pusher: Pusher
) -> None:
    fresh, stale, new = [disk.artifact(number) for number in (1, 2, 3)]
    disk.mark(fresh, 6)
    disk.mark(stale, 8)
    entry = disk.entry("0~a2V5", 1, 2, 3)
    assert pusher.push(entry) is Pushed.DONE
    assert set(bucket.pushed()[:2]) == {stale, new}
    assert bucket.pushed()[2:] == [entry]


@pytest.mark.parametrize("lower", [True, False])
def test_artifact_may_be_here_under_either_spelling(
    disk: Disk, bucket: WatchedBucket, pusher: Pusher, lower: bool
) -> None:
    key = disk.artifact(1)
    if lower:
        other = Key(APP, Kind.CAS, key.id.lower())
        other.path(disk.root).parent.mkdir(parents=True, exist_ok=True)
        key.path(disk.root).rename(other.path(disk.root))
        key = other
    entry = disk.entry("0~a2V5", 1)
    assert pusher.push(entry) is Pushed.DONE
    assert bucket.pushed() == [key, entry]


def test_entry_waits_for_an_artifact_that_is_not_here(
    disk: Disk, bucket: WatchedBucket, pusher: Pusher
) -> None:
    disk.artifact(1)
    entry = disk.entry("0~a2V5", 1, 2)
    assert pusher.push(entry) is Pushed.INCOMPLETE
    assert entry not in bucket.pushed()
    assert not disk.is_marked(entry)
    disk.artifact(2)
    assert pusher.push(entry) is Pushed.DONE


def test_what_the_bucket_does_not_take_is_not_marked(
    disk: Disk, bucket: WatchedBucket, pusher: Pusher
) -> None:
    artifact, entry = disk.artifact(1), disk.entry("0~a2V5", 1)
    bucket.fail(Unreachable("down"), Unreachable("down"))
    for key in artifact, entry:
        with pytest.raises(Unreachable):
            pusher.push(key)
        assert not disk.is_marked(key)
    assert bucket.puts == []


@pytest.mark.parametrize(
    "damage",
    [b"", b"artifact 2", b"artifact 1 and more", b"art"],
    ids=["empty", "other", "more", "less"],
)
def test_broken_file_goes_to_quarantine_and_not_to_the_bucket(
    disk: Disk, bucket: WatchedBucket, pusher: Pusher, damage: bytes
) -> None:
    key = disk.artifact(1)
    entry = disk.entry("0~a2V5", 1)
    key.path(disk.root).write_bytes(damage)
    assert pusher.push(entry) is Pushed.INCOMPLETE
    assert pusher.push(key) is Pushed.GONE
    assert bucket.puts == []
    assert not key.path(disk.root).exists()
    assert len([p for p in (disk.root / QUARANTINE).rglob("*") if p.is_file()]) == 1


def test_file_that_cannot_be_read_goes_to_quarantine(
    disk: Disk, pusher: Pusher, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = disk.artifact(1)

    def damaged(*_: object) -> bytes:
        raise fail(errno.EIO)

    monkeypatch.setattr(os, "pread", damaged)
    assert pusher.push(key) is Pushed.GONE
    assert not key.path(disk.root).exists()


def test_what_is_gone_is_no_error(pusher: Pusher, bucket: WatchedBucket) -> None:
    assert pusher.push(GONE) is Pushed.GONE
    assert bucket.puts == []


def test_file_of_another_user_is_left_alone(
    disk: Disk, bucket: WatchedBucket, pusher: Pusher, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = disk.artifact(1)

    def refuse(path: Path, more_flags: int) -> int:
        assert more_flags == os.O_NOATIME
        raise fail(errno.EPERM)

    monkeypatch.setattr(push_module, "open_or_fault", refuse)
    assert pusher.push(key) is Pushed.FOREIGN
    assert bucket.puts == []


def test_file_without_a_record_gets_one_with_its_mark(
    disk: Disk, bucket: WatchedBucket, pusher: Pusher
) -> None:
    key = disk.artifact(1)
    recorded = disk.record(key)
    os.removexattr(key.path(disk.root), ATTRIBUTE)
    assert pusher.push(key) is Pushed.DONE
    found = disk.record(key)
    assert recorded is not None
    assert found is not None
    assert (found.digest, found.size) == (recorded.digest, recorded.size)
    assert disk.is_marked(key)


def test_entry_that_is_replaced_while_it_is_sent_is_sent_again(
    disk: Disk, bucket: WatchedBucket, pusher: Pusher
) -> None:
    entry = disk.entry("0~a2V5", salt="first")
    with ThreadPoolExecutor(1) as threads:
        with bucket.held(entry) as reached:
            pushed = threads.submit(pusher.push, entry)
            assert reached.wait(60)
            disk.entry("0~a2V5", salt="second")
            disk.mark(entry, 0)  # as another process has, whose put may have come before ours
        assert pushed.result(60) is Pushed.DONE
    assert bucket.content(entry) == entry.path(disk.root).read_bytes()
    assert len(bucket.puts) == 2


def test_mark_is_on_the_file_whose_bytes_were_sent(
    disk: Disk, bucket: WatchedBucket, pusher: Pusher
) -> None:
    artifact = disk.artifact(1)
    with ThreadPoolExecutor(1) as threads:
        with bucket.held(artifact) as reached:
            pushed = threads.submit(pusher.push, artifact)
            assert reached.wait(60)
            disk.artifact(1, b"another version")
        assert pushed.result(60) is Pushed.DONE
    assert not disk.is_marked(artifact)


def test_artifact_that_two_threads_want_is_put_once(
    disk: Disk, bucket: WatchedBucket, pusher: Pusher
) -> None:
    artifact = disk.artifact(1)
    entries = [disk.entry(f"0~{number}", 1) for number in range(5)]
    begun = threading.Barrier(6)

    def push(key: Key) -> Pushed:
        begun.wait(60)
        return pusher.push(key)

    with ThreadPoolExecutor(6) as threads:
        pushed = list(threads.map(push, [artifact, *entries]))
    assert set(pushed) == {Pushed.DONE}
    assert bucket.pushed()[0] == artifact
    assert sorted(bucket.pushed()[1:], key=str) == sorted(entries, key=str)


def test_storage_without_attributes_is_refused(
    disk: Disk, bucket: WatchedBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push_module, "has_checksums", lambda _: False)
    with pytest.raises(Misconfigured, match="extended attributes"):
        Pusher(disk.root, bucket)


def test_what_a_clean_is_about_to_take_is_not_put(
    disk: Disk, bucket: WatchedBucket, pusher: Pusher
) -> None:
    artifact, entry = disk.artifact(1), disk.entry("aaaa", 1)
    note_clean(disk.root, APP, artifact.path(disk.root).stat().st_mtime_ns)
    assert pusher.push(artifact) is Pushed.GONE
    assert pusher.push(entry) is Pushed.INCOMPLETE
    assert bucket.puts == []


def test_what_is_left_when_a_clean_was_followed_is_put_as_newer(
    disk: Disk, bucket: WatchedBucket, pusher: Pusher
) -> None:
    """It was stored while the clock was behind; others would take it for what the clean took."""
    when = time.time_ns() + 10**12
    note_clean(disk.root, APP, when)
    note_followed(disk.root, APP, when)
    artifact = disk.artifact(1)
    assert pusher.push(artifact) is Pushed.DONE
    found = bucket.get(object_name("cache", artifact))
    assert found is not None
    assert int(found.metadata[STORED]) > when


def test_what_is_cleaned_while_it_is_sent_is_sent_as_old_as_it_is(
    disk: Disk, bucket: WatchedBucket, pusher: Pusher, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = disk.artifact(1)
    when = artifact.path(disk.root).stat().st_mtime_ns

    def open_and_clean(path: Path, flags: int) -> int | Fault | None:
        found = open_or_fault(path, flags)
        note_clean(disk.root, APP, when)
        path.unlink()
        note_followed(disk.root, APP, when)
        return found

    monkeypatch.setattr(push_module, "open_or_fault", open_and_clean)
    pusher.push(artifact)
    found = bucket.get(object_name("cache", artifact))
    assert found is not None
    assert int(found.metadata[STORED]) == when


def test_what_was_put_about_the_time_of_a_clean_is_put_again_once_it_has_settled(
    disk: Disk, bucket: WatchedBucket, pusher: Pusher
) -> None:
    """Another node, which had not heard of the clean, may have put an older version since."""
    artifact = disk.artifact(1)
    entry = disk.entry("aaaa", 1)
    second = 10**9
    note_clean(disk.root, APP, artifact.path(disk.root).stat().st_mtime_ns - 600 * second)
    pusher.push(entry)
    for days_ago, puts in [(300 / DAY, []), (570 / DAY, [artifact])]:
        bucket.puts.clear()
        disk.mark(artifact, days_ago)
        disk.mark(entry, 0)
        assert [each.key for some in found_by_a_walk(disk) for each in some] == puts
        pusher.push(artifact)
        assert bucket.pushed() == puts
    note_clean(disk.root, APP, time.time_ns())
    note_followed(disk.root, APP, time.time_ns())
    assert [each.key for some in found_by_a_walk(disk) for each in some] == []


def found_by_a_walk(disk: Disk) -> list[list[Unshared]]:
    return list(unshared(disk.root, disk.target, entries=True))
