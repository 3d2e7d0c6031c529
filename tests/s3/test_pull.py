"""Pulls of single files: what is believed, stored and deleted, with a bucket in memory."""

import errno
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread

import pytest

from cache_actors.kinds import Kind
from cache_actors.s3.breaker import MAX_FAILURES
from cache_actors.s3.bucket import SMALL_BYTES, Object
from cache_actors.s3.errors import Unreachable
from cache_actors.s3.names import SHA256, STORED, object_name
from cache_actors.s3.outcome import Outcome
from cache_actors.s3.pull import ARTIFACTS_AT_ONCE, Puller
from cache_actors.s3.push import Pushed, Pusher
from cache_actors.storage.actions import BlobReference, packed_action
from cache_actors.storage.capacity import Capacity
from cache_actors.storage.errors import NoRoom, Shortage
from cache_actors.storage.files.store import FileStore
from cache_actors.storage.files.temporary import TemporaryFile, TemporaryFolder
from cache_actors.storage.known_cleans import note_clean
from cache_actors.storage.layout import TEMPORARY, Key, StoredKey
from tests.storage.stores import fail
from tests.support.stored import artifact_id, body_of

from .pushes import APP, DAY, Disk, WatchedBucket

GONE = Key(APP, Kind.CAS, "0" * 64)
WEEK = 7.0 * DAY


@dataclass
class Node:
    """A node that has nothing at first, and pulls.

    Attributes:
        disk: its storage folder.
        stored: what it has stored by pulls.
        noticed: what was wrong.
    """

    disk: Disk
    store: FileStore
    puller: Puller
    stored: list[StoredKey] = field(default_factory=list)
    noticed: list[tuple[str, Key]] = field(default_factory=list)

    def pull(self, key: Key, coming: Callable[[], None] = lambda: None) -> Outcome:
        return self.puller.start(key, coming).result(60)

    def has(self, key: Key) -> bool:
        return key.path(self.disk.root).exists()


@pytest.fixture
def node(tmp_path: Path, bucket: WatchedBucket) -> Iterator[Node]:
    root = tmp_path / "other"
    root.mkdir()
    temporary = TemporaryFolder(root / TEMPORARY)
    store = FileStore(root, temporary, durable=True, capacity=Capacity(root))
    stored: list[StoredKey] = []
    noticed: list[tuple[str, Key]] = []
    puller = Puller(
        store,
        temporary,
        bucket,
        entry_seconds=WEEK,
        max_entry_bytes=100_000,
        flights=4,
        stored=stored.append,
        noticed=lambda what, key, _reason: noticed.append((what, key)),
    )
    yield Node(Disk(root), store, puller, stored, noticed)
    assert [file for file in (root / TEMPORARY).rglob("*") if file.is_file()] == []
    temporary.remove()


@pytest.fixture
def pusher(disk: Disk, bucket: WatchedBucket) -> Pusher:
    return Pusher(disk.root, bucket)


@pytest.mark.parametrize("kind", [kind for kind in Kind if not kind.refers])
@pytest.mark.parametrize("size", [1, SMALL_BYTES, SMALL_BYTES + 1, 3 << 20])
def test_artifact_of_any_kind_and_size_comes_as_it_was_and_marked(
    disk: Disk, pusher: Pusher, node: Node, kind: Kind, size: int
) -> None:
    content = os.urandom(size)
    key = disk.file(kind, content)
    os.utime(key.path(disk.root), ns=(1, 1_700_000_000_123_456_789))
    assert pusher.push(key) is Pushed.DONE
    assert node.pull(key) is Outcome.HERE
    path = key.path(node.disk.root)
    assert path.read_bytes() == content
    assert path.stat().st_mtime_ns == 1_700_000_000_123_456_789
    assert path.stat().st_atime > time.time() - 60
    assert node.disk.is_marked(key)
    assert [each.key for each in node.stored] == [key]
    assert node.noticed == []


def test_entry_comes_after_its_artifacts_which_are_looked_for_at_once(
    disk: Disk, bucket: WatchedBucket, pusher: Pusher, node: Node
) -> None:
    numbers = range(2 * ARTIFACTS_AT_ONCE + 1)
    artifacts = [disk.artifact(number) for number in numbers]
    entry = disk.entry("aaaa", *numbers)
    pusher.push(entry)
    node.disk.artifact(3)
    coming: list[bool] = []
    assert node.pull(entry, lambda: coming.append(node.has(artifacts[0]))) is Outcome.HERE
    assert coming == [False]
    assert all(map(node.has, artifacts))
    assert node.stored[-1].key == entry
    assert {each.key for each in node.stored} == {entry, *artifacts} - {artifacts[3]}
    assert entry.path(node.disk.root).read_bytes() == entry.path(disk.root).read_bytes()
    assert node.disk.is_marked(entry)


def test_artifact_is_found_under_the_other_spelling(disk: Disk, pusher: Pusher, node: Node) -> None:
    lower = Key(APP, Kind.CAS, artifact_id(0xABC).lower())
    disk.write(lower, b"bytes")
    entry = disk.entry("aaaa", 0xABC)
    assert pusher.push(entry) is Pushed.DONE
    assert node.pull(entry) is Outcome.HERE
    assert node.has(lower)


def test_what_is_nowhere_is_absent_and_what_is_here_is_not_asked_for(
    bucket: WatchedBucket, node: Node
) -> None:
    assert node.pull(GONE) is Outcome.ABSENT
    assert node.pull(Key(APP, Kind.KEYVALUE, "aaaa")) is Outcome.ABSENT
    here = node.disk.artifact(1)
    bucket.get = None  # type: ignore[method-assign, assignment]
    assert node.pull(here) is Outcome.HERE
    assert node.stored == []


@pytest.mark.parametrize("wrong", ["bytes", "digest", "no digest", "no time", "time", "empty"])
@pytest.mark.parametrize("kind", Kind)
def test_object_that_is_not_what_was_put_is_never_stored(
    bucket: WatchedBucket, node: Node, disk: Disk, pusher: Pusher, kind: Kind, wrong: str
) -> None:
    key = disk.file(kind)
    pusher.push(key)
    name = object_name("cache", key)
    found = bucket.get(name)
    assert found is not None
    metadata, data = dict(found.metadata), b"".join(found.chunks())
    match wrong:
        case "bytes":
            data = data[:-1] + b"!"
        case "digest":
            metadata[SHA256] = "0" * 64
        case "no digest":
            del metadata[SHA256]
        case "no time":
            del metadata[STORED]
        case "time":
            metadata[STORED] = "yesterday"
        case "empty":
            data = b""
    bucket.put(name, data, metadata)
    assert node.pull(key) is Outcome.UNUSABLE
    assert not node.has(key)
    assert node.noticed == [("unusable", key)]
    assert bucket.content(key) is not None, "perhaps it was garbled on its way"


def test_object_of_a_later_format_or_a_foreign_name_is_not_looked_at(
    bucket: WatchedBucket, node: Node, disk: Disk, pusher: Pusher
) -> None:
    key = disk.artifact(1)
    pusher.push(key)
    name = object_name("cache", key)
    for other in (name.replace("cache/1/", "cache/2/"), name.replace("cache/", "else/"), name[:-1]):
        bucket.put(other, b"other", {SHA256: "0" * 64, STORED: "1"})
    assert node.pull(key) is Outcome.HERE
    assert key.path(node.disk.root).read_bytes() == key.path(disk.root).read_bytes()


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (Kind.KEYVALUE, b"no json"),
        (Kind.KEYVALUE, b'{"entries":[{"value":"dg==","of":"another version"}]}'),
        (Kind.KEYVALUE, body_of("x" * 200_000)),
        (Kind.KEYVALUE, packed_action([], b"result")),
        (Kind.ACTION, b"ACT1"),
        (Kind.ACTION, body_of("dg==")),
    ],
)
def test_what_is_no_entry_or_too_large_is_not_stored_as_one(
    node: Node, disk: Disk, bucket: WatchedBucket, kind: Kind, body: bytes
) -> None:
    key = Key(APP, kind, "a" * 64)
    name, digest = object_name("cache", key), hashlib.sha256(body).hexdigest()
    bucket.put(name, body, {SHA256: digest, STORED: "1"})
    said: list[str] = []
    assert node.pull(key, lambda: said.append("coming")) is Outcome.UNUSABLE
    assert said == []
    assert node.noticed == [("unusable", key)]
    assert not node.has(key)


def test_action_may_be_as_large_as_one_that_is_stored(
    node: Node, disk: Disk, pusher: Pusher, bucket: WatchedBucket
) -> None:
    node.puller._max_entry_bytes = 3 * SMALL_BYTES
    blob, large = os.urandom(10), os.urandom(2 * SMALL_BYTES)
    reference = BlobReference(disk.file(Kind.BLOB, blob).id, len(blob)).packed()
    content = packed_action([reference], large)
    action = disk.file(Kind.ACTION, content)
    pusher.push(action)
    assert node.pull(action) is Outcome.HERE
    assert action.path(node.disk.root).read_bytes() == content


def test_bug_is_noticed_and_a_miss(
    node: Node, disk: Disk, pusher: Pusher, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = disk.artifact(1)
    pusher.push(key)
    monkeypatch.setattr(node.puller, "_received", lambda *_: 1 / 0)
    assert node.pull(key) is Outcome.UNKNOWN
    assert node.noticed == [("failed", key)]


def test_old_entry_counts_as_gone_but_its_artifacts_do_not(
    node: Node, disk: Disk, pusher: Pusher, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact, entry = disk.artifact(1), disk.entry("aaaa", 1)
    pusher.push(entry)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + WEEK + 1)
    assert node.pull(entry) is Outcome.ABSENT
    assert node.pull(artifact) is Outcome.HERE
    assert node.noticed == []


def test_entry_whose_artifact_is_gone_from_the_bucket_is_absent_and_stays_there(
    node: Node, disk: Disk, bucket: WatchedBucket, pusher: Pusher
) -> None:
    artifact, entry = disk.artifact(1), disk.entry("aaaa", 1)
    pusher.push(entry)
    bucket.delete(object_name("cache", artifact))
    assert node.pull(entry) is Outcome.ABSENT
    assert bucket.content(entry) is not None, "it may be another version by now"
    assert not node.has(entry)
    assert node.noticed == [("dangling", entry)]


def test_entry_whose_artifact_cannot_be_had_now_stays_in_the_bucket(
    node: Node, disk: Disk, bucket: WatchedBucket, pusher: Pusher, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact, entry = disk.artifact(1), disk.entry("aaaa", 1)
    pusher.push(entry)
    get = bucket.get

    def fail_once(name: str, seconds: float = 2) -> Object | None:
        if name == object_name("cache", artifact):
            raise Unreachable("no answer in time")
        return get(name, seconds)

    monkeypatch.setattr(bucket, "get", fail_once)
    assert node.pull(entry) is Outcome.UNKNOWN
    monkeypatch.setattr(bucket, "get", get)
    assert node.pull(entry) is Outcome.HERE


def test_what_is_stored_here_meanwhile_is_left_alone(
    node: Node, disk: Disk, pusher: Pusher
) -> None:
    disk.artifact(1)
    entry = disk.entry("aaaa", 1)
    pusher.push(entry)
    ours: list[bytes] = []

    def store_another() -> None:
        node.disk.artifact(2)
        ours.append(node.disk.entry("aaaa", 2).path(node.disk.root).read_bytes())

    assert node.pull(entry, store_another) is Outcome.HERE
    assert [entry.path(node.disk.root).read_bytes()] == ours


def test_artifact_that_is_evicted_while_its_entry_comes_is_pulled_again(
    node: Node, disk: Disk, pusher: Pusher, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact, entry = disk.artifact(1), disk.entry("aaaa", 1)
    pusher.push(entry)
    pull_all = node.puller._pull_all
    evictions = [True]

    def pull_and_lose(*arguments: object) -> object:
        found = pull_all(*arguments)  # type: ignore[arg-type]
        if evictions and evictions.pop():
            artifact.path(node.disk.root).unlink()
        return found

    monkeypatch.setattr(node.puller, "_pull_all", pull_and_lose)
    assert node.pull(entry) is Outcome.HERE
    assert node.has(artifact)
    evictions += [True] * 10
    entry.path(node.disk.root).unlink()
    assert node.pull(entry) is Outcome.UNKNOWN
    assert not node.has(entry)


@pytest.mark.parametrize("full", ["before", "meanwhile"])
@pytest.mark.parametrize("kind", Kind)
def test_full_disk_is_a_miss(
    node: Node, disk: Disk, pusher: Pusher, monkeypatch: pytest.MonkeyPatch, kind: Kind, full: str
) -> None:
    key = disk.file(kind)
    pusher.push(key)

    def has_no_room(*_: object) -> None:
        raise NoRoom(Shortage.BYTES) if full == "before" else fail(errno.ENOSPC)

    if full == "before":
        monkeypatch.setattr(node.store.capacity, "check_room", has_no_room)
    else:
        monkeypatch.setattr(os, "writev", has_no_room)
    assert node.pull(key) is Outcome.UNKNOWN
    monkeypatch.undo()
    assert not node.has(key)
    assert node.noticed == [("failed", key)]


def test_open_breaker_is_a_miss_at_once_that_is_not_noticed_again(
    node: Node, bucket: WatchedBucket
) -> None:
    for _ in range(MAX_FAILURES):
        bucket.breaker.failed(bucket.breaker.enter(), Unreachable("down"))
    assert node.pull(GONE) is Outcome.UNKNOWN
    assert node.noticed == []


def test_pulls_of_the_same_artifact_join_one_flight(
    node: Node, disk: Disk, bucket: WatchedBucket, pusher: Pusher, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = disk.artifact(1)
    pusher.push(key)
    get, gets, gate = bucket.get, [], Event()

    def held(name: str, seconds: float = 2) -> Object | None:
        gets.append(name)
        assert gate.wait(60)
        return get(name, seconds)

    monkeypatch.setattr(bucket, "get", held)
    flights = [node.puller.start(key, lambda: None) for _ in range(10)]
    Thread(target=gate.set).start()
    assert {flight.result(60) for flight in flights} == {Outcome.HERE}
    assert len(gets) == 1


def test_time_from_a_clock_far_ahead_is_replaced_by_the_present(
    node: Node, disk: Disk, pusher: Pusher
) -> None:
    key = disk.artifact(1)
    ahead = time.time_ns() + 40 * DAY * 10**9
    os.utime(key.path(disk.root), ns=(ahead, ahead))
    pusher.push(key)
    assert node.pull(key) is Outcome.HERE
    assert key.path(node.disk.root).stat().st_mtime_ns < ahead - 39 * DAY * 10**9


@pytest.mark.parametrize("kind", Kind)
def test_what_a_clean_has_taken_does_not_come_whenever_it_gets_to_the_bucket(
    node: Node, disk: Disk, pusher: Pusher, kind: Kind
) -> None:
    key = disk.file(kind)
    note_clean(node.disk.root, APP, key.path(disk.root).stat().st_mtime_ns)
    pusher.push(key)
    assert node.pull(key) is Outcome.CLEANED
    disk.file(kind)
    pusher.push(key)
    assert node.pull(key) is Outcome.HERE


def test_what_was_stored_by_a_clock_far_ahead_is_cleaned_as_well(
    bucket: WatchedBucket, node: Node
) -> None:
    """What the bucket's clock does not bear out is not believed."""
    key = Key(APP, Kind.CAS, artifact_id(1))
    name = object_name("cache", key)
    digest = hashlib.sha256(b"content").hexdigest()
    bucket.put(name, b"content", {SHA256: digest, STORED: "9" * 19})
    bucket.put_at[name] -= 600
    note_clean(node.disk.root, APP, time.time_ns())
    assert node.pull(key) is Outcome.CLEANED


@pytest.mark.parametrize("kind", Kind)
def test_what_a_clean_of_another_process_takes_while_it_is_pulled_is_not_stored(
    node: Node, disk: Disk, pusher: Pusher, kind: Kind
) -> None:
    key = disk.file(kind)
    pusher.push(key)
    prepare = node.store.prepare

    def clean_first(file: TemporaryFile) -> TemporaryFile:
        note_clean(node.disk.root, APP, time.time_ns())
        return prepare(file)

    node.store.prepare = clean_first  # type: ignore[method-assign]
    assert node.pull(key) is Outcome.CLEANED
    assert not node.has(key)
    assert node.stored == []


def test_entry_that_refers_to_what_a_clean_has_taken_goes_with_it_and_is_not_dangling(
    node: Node, disk: Disk, pusher: Pusher
) -> None:
    artifact = disk.artifact(1)
    note_clean(node.disk.root, APP, artifact.path(disk.root).stat().st_mtime_ns)
    entry = disk.entry("aaaa", 1)
    pusher.push(entry)
    assert node.pull(entry) is Outcome.CLEANED
    assert not node.has(entry)
    assert node.noticed == []


def test_newer_artifact_takes_the_place_of_one_that_is_about_to_go(
    node: Node, disk: Disk, pusher: Pusher
) -> None:
    old = node.disk.artifact(1, b"old")
    note_clean(node.disk.root, APP, old.path(node.disk.root).stat().st_mtime_ns)
    entry = disk.entry("aaaa", 1)
    disk.artifact(1)
    pusher.push(entry)
    assert node.pull(entry) is Outcome.HERE
    assert old.path(node.disk.root).read_bytes() == old.path(disk.root).read_bytes()


def test_action_comes_after_its_blobs_and_does_not_if_one_is_gone(
    disk: Disk, bucket: WatchedBucket, pusher: Pusher, node: Node
) -> None:
    blobs = [disk.file(Kind.BLOB, b"output %d" % number) for number in range(3)]
    references = [BlobReference(key.id, key.path(disk.root).stat().st_size) for key in blobs]
    actions = [
        disk.file(Kind.ACTION, packed_action((each.packed() for each in some), b"result"))
        for some in (references[:2], references[1:])
    ]
    for action in actions:
        assert pusher.push(action) is Pushed.DONE
    bucket.delete(object_name("cache", blobs[2]))
    assert node.pull(actions[0]) is Outcome.HERE
    assert all(node.has(key) for key in (actions[0], *blobs[:2]))
    assert node.pull(actions[1]) is Outcome.ABSENT
    assert not node.has(actions[1])


def test_blob_whose_bytes_are_not_those_of_its_name_is_never_stored(
    bucket: WatchedBucket, node: Node
) -> None:
    key = Key(APP, Kind.BLOB, "ab" * 32)
    metadata = {SHA256: hashlib.sha256(b"bytes").hexdigest(), STORED: str(time.time_ns())}
    bucket.put(object_name("cache", key), b"bytes", metadata)
    assert node.pull(key) is Outcome.UNUSABLE
    assert not node.has(key)
    assert node.noticed == [("unusable", key)]
