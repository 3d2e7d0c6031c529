"""Files appear whole or not at all, once or replaced, whatever the others of their batch meet."""

import errno
import multiprocessing
import os
import shutil
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from cache_actors.storage.files.store import FileStore, Publication, Published, Version
from cache_actors.storage.files.temporary import TemporaryFile, TemporaryFolder
from cache_actors.storage.health import StorageState
from cache_actors.storage.layout import TEMPORARY
from tests.storage.stores import (
    EXISTS,
    PUBLISH,
    REPLACE,
    STORED,
    Journal,
    Way,
    fail,
    files_below,
    leftovers,
    loaded,
    number_of,
    publish,
    publish_file,
    refuse_anonymous_files,
    refusing,
    replace,
    uploaded,
)
from tests.support.mounts import other_device
from tests.support.waiting import LIMIT

Outcomes = tuple[bytes, list[Published | OSError]]


SPAWN = multiprocessing.get_context("spawn")


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


# Once, or replaced.


def test_published_file_has_all_pieces(store: FileStore, path: Path) -> None:
    assert publish(store, path, b"abc", b"", b"def") is STORED
    assert path.read_bytes() == b"abcdef"


def test_second_publication_gets_exists_and_changes_nothing(
    store: FileStore, path: Path, temporary: TemporaryFolder
) -> None:
    publish(store, path, b"first")
    before = path.stat()
    assert publish(store, path, b"second") is EXISTS
    assert path.read_bytes() == b"first"
    assert path.stat().st_ino == before.st_ino
    assert leftovers(temporary) == []


def test_replacing_writes_and_overwrites(
    store: FileStore, path: Path, temporary: TemporaryFolder
) -> None:
    for data in (b"first", b"second, longer", b"3"):
        assert replace(store, path, data) is None
        assert path.read_bytes() == data
    assert leftovers(temporary) == []


@pytest.mark.parametrize(
    ("way", "outcomes", "stays"),
    [(PUBLISH, [STORED, EXISTS, EXISTS], b"a"), (REPLACE, [None] * 3, b"c")],
    ids=["first is published", "last is put"],
)
def test_of_a_batch_each_path_is_written_once(
    store: FileStore,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: Way,
    outcomes: list[object],
    stays: bytes,
) -> None:
    written: list[bytes] = []
    really_write = TemporaryFile.write

    def write(file: TemporaryFile, chunks: Sequence[bytes]) -> None:
        written.extend(chunks)
        really_write(file, chunks)

    monkeypatch.setattr(TemporaryFile, "write", write)
    assert way.write(store, [(path, letter) for letter in (b"a", b"b", b"c")]) == outcomes
    assert written == [stays]
    assert path.read_bytes() == stays


@pytest.mark.parametrize(
    ("way", "outcomes", "contents"),
    [
        (PUBLISH, [errno.EIO, STORED, EXISTS], [b"bad", b"good", b"bad"]),
        (REPLACE, [None, None, errno.EIO], [b"old", b"good", b"bad"]),
    ],
    ids=["publish", "replace"],
)
def test_those_that_share_a_path_get_their_turn_when_one_fails(
    durable: FileStore,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: Way,
    outcomes: list[object],
    contents: list[bytes],
) -> None:
    really_write = TemporaryFile.write

    def write(file: TemporaryFile, chunks: Sequence[bytes]) -> None:
        if b"bad" in chunks:
            raise fail(errno.EIO)
        really_write(file, chunks)

    monkeypatch.setattr(TemporaryFile, "write", write)
    found = way.write(durable, [(path, each) for each in contents])
    assert [each.errno if isinstance(each, OSError) else each for each in found] == outcomes
    assert path.read_bytes() == b"good"


def test_name_taken_at_the_last_moment_is_exists(
    store: FileStore, path: Path, temporary: TemporaryFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_link = TemporaryFile.link

    def link_too_late(file: TemporaryFile, target: str) -> None:
        Path(target).write_bytes(b"another process's")
        really_link(file, target)

    monkeypatch.setattr(TemporaryFile, "link", link_too_late)
    assert publish(store, path, b"ours") is EXISTS
    assert path.read_bytes() == b"another process's"
    assert leftovers(temporary) == []


@pytest.mark.parametrize("place", ["file/x", "file/folder/x", f"acme/{'x' * 300}"])
def test_file_that_cannot_be_there_does_not_hurt_the_others(
    store: FileStore, root: Path, temporary: TemporaryFolder, way: Way, place: str
) -> None:
    (root / "file").write_bytes(b"")
    paths = [root / "a" / "1", root / place, root / "a" / "2"]
    first, failed, last = way.same(store, paths)
    assert (first, last) == (way.done, way.done)
    assert isinstance(failed, OSError)
    assert paths[0].read_bytes() == paths[2].read_bytes() == b"x"
    assert leftovers(temporary) == []


@pytest.mark.usefixtures("full_disk")
def test_file_on_a_full_disk_fails_and_leaves_nothing(
    store: FileStore, root: Path, path: Path, temporary: TemporaryFolder, way: Way
) -> None:
    assert number_of(way.one(store, path, b"abc")) == errno.ENOSPC
    assert files_below(root) == []
    assert leftovers(temporary) == []


def test_replacement_that_finds_no_room_leaves_the_file_before_it(
    store: FileStore, path: Path, request: pytest.FixtureRequest
) -> None:
    replace(store, path, b"before")
    request.getfixturevalue("full_disk")
    assert number_of(replace(store, path, b"after")) == errno.ENOSPC
    assert path.read_bytes() == b"before"


def test_uploaded_file_is_published_as_it_is_and_left_to_its_owner(
    store: FileStore, path: Path, temporary: TemporaryFolder
) -> None:
    upload = uploaded(temporary)
    assert publish_file(store, path, upload) is STORED
    assert path.stat().st_ino == os.fstat(upload._fd).st_ino
    upload.discard()
    assert path.read_bytes() == b"abc"
    assert leftovers(temporary) == []


def test_file_is_as_old_as_its_name_unless_its_time_was_set(
    store: FileStore, path: Path, temporary: TemporaryFolder
) -> None:
    """So a clean that comes before it is stored, and after its bytes, does not take it."""
    uploads = [uploaded(temporary) for _ in range(2)]
    uploads[1].set_time(5)
    paths = [path, path.with_name("other")]
    ready = [store.prepare(upload) for upload in uploads]
    before = time.time_ns()
    store.publish([Publication(str(p), file) for p, file in zip(paths, ready, strict=True)])
    assert paths[0].stat().st_mtime_ns >= before
    assert paths[1].stat().st_mtime_ns == 5
    before = time.time_ns()
    publish(store, small := path.with_name("small"), b"bytes")
    assert small.stat().st_mtime_ns >= before
    for upload in uploads:
        upload.discard()


@pytest.mark.parametrize("anonymous", [True, False])
def test_files_and_folders_are_for_the_group_whatever_the_umask(
    store: FileStore,
    root: Path,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: Way,
    anonymous: bool,
) -> None:
    if not anonymous:
        refuse_anonymous_files(monkeypatch, errno.EOPNOTSUPP)
    with umask(0o077):
        assert way.one(store, path, b"x") is way.done
    modes = [stat.S_IMODE(p.stat().st_mode) for p in (path, *path.parents) if root in p.parents]
    assert modes == [0o640, 0o2750, 0o2750, 0o2750, 0o2750]


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_folder_removed_behind_the_stores_back_is_made_again(
    store: FileStore, path: Path, way: Way, level: int
) -> None:
    publish(store, path.with_name("other"), b"x")
    shutil.rmtree(path.parents[level - 1])
    assert way.one(store, path, b"again") is way.done
    assert path.read_bytes() == b"again"


def test_readers_see_whole_versions_only(relaxed: FileStore, path: Path) -> None:
    versions = [letter * size for letter, size in ((b"a", 70_000), (b"b", 100_000), (b"c", 1))]
    replace(relaxed, path, versions[0])
    stop = threading.Event()
    seen: set[bytes] = set()

    def read() -> None:
        known: Version | None = None
        while not stop.is_set():
            seen.add(path.read_bytes())
            known = loaded(relaxed, path, known)
            seen.add(known.data)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(600):
        replace(relaxed, path, versions[number % 3])
    stop.set()
    reader.join()
    assert seen <= set(versions)
    assert len(seen) > 1


def shared_path(root: Path, number: int) -> Path:
    return root / "acme" / str(number // 5) / str(number)


def publish_everything(
    root: Path, data: bytes, together: Barrier, outcomes: "Queue[Outcomes]"
) -> None:
    """What each of two processes does at once: publish its own `data` at the same paths."""
    temporary = TemporaryFolder(root / TEMPORARY)
    store = FileStore(root, temporary, durable=True)
    together.wait(LIMIT)
    outcomes.put((data, [publish(store, shared_path(root, each), data) for each in range(60)]))
    temporary.remove()


def test_of_two_processes_that_publish_at_once_one_stores_a_whole_file(root: Path) -> None:
    together, outcomes = SPAWN.Barrier(2), SPAWN.Queue()
    processes = [
        SPAWN.Process(target=publish_everything, args=(root, data, together, outcomes), daemon=True)
        for data in (b"a" * 50_000, b"b" * 60_000)
    ]
    for process in processes:
        process.start()
    sources, published = zip(*(outcomes.get(timeout=LIMIT) for _ in processes), strict=True)
    for process in processes:
        process.join()
    for number, outcome in enumerate(zip(*published, strict=True)):
        assert set(outcome) == {STORED, EXISTS}
        assert shared_path(root, number).read_bytes() == sources[outcome.index(STORED)]
    assert list((root / TEMPORARY).iterdir()) == []


# Files that are made ready to be published, also those from another device.


@pytest.fixture
def elsewhere(root: Path) -> Iterator[TemporaryFolder]:
    """A temporary folder on another file system than the store's."""
    with other_device(root) as parent:
        folder = TemporaryFolder(parent)
        yield folder
        folder.remove()


def test_publishing_a_file_that_is_ready_syncs_folders_only(
    durable: FileStore, path: Path, temporary: TemporaryFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = uploaded(temporary)
    prepare = durable.prepare(upload)
    durable.with_folder(path.parent, lambda _: None)
    monkeypatch.delattr(os, "fdatasync")
    monkeypatch.delattr(os, "setxattr")
    assert durable.publish([Publication(str(path), prepare)]) == [STORED]
    prepare.discard()


@pytest.mark.parametrize("device", ["same device", "other device"])
def test_file_that_cannot_be_made_ready_is_its_owners_to_discard(
    durable: FileStore,
    temporary: TemporaryFolder,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
) -> None:
    if device == "other device":
        monkeypatch.setattr(TemporaryFile, "device", lambda _: -1)
    monkeypatch.setattr(os, "fdatasync", refusing(errno.EIO))
    upload = uploaded(temporary)
    with pytest.raises(OSError, match="Input/output error"):
        durable.prepare(upload)
    assert len(leftovers(temporary)) == 1
    upload.discard()
    assert leftovers(temporary) == []
    assert durable.health.status().state is StorageState.FAILING


@pytest.mark.parametrize("named", [True, False])
def test_file_on_another_device_is_copied(
    store: FileStore,
    path: Path,
    temporary: TemporaryFolder,
    elsewhere: TemporaryFolder,
    named: bool,
) -> None:
    upload = elsewhere.create(named=named)
    data = os.urandom((1 << 20) + 1)
    upload.write([data])
    assert publish_file(store, path, upload) is STORED
    assert path.read_bytes() == data
    assert leftovers(temporary) == leftovers(elsewhere) == []
    upload.discard()


def test_copied_file_survives_a_power_cut(
    durable: FileStore,
    root: Path,
    path: Path,
    temporary: TemporaryFolder,
    journal: Journal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(TemporaryFile, "device", lambda _: -1)
    upload = uploaded(temporary)
    inode = os.fstat(upload._fd).st_ino
    assert publish_file(durable, path, upload) is STORED
    assert path.stat().st_ino != inode
    assert journal.survives(path, root)
    assert leftovers(temporary) == []


@pytest.mark.usefixtures("full_disk")
def test_copy_that_finds_no_room_leaves_nothing_but_its_source(
    store: FileStore,
    root: Path,
    path: Path,
    temporary: TemporaryFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(TemporaryFile, "device", lambda _: -1)
    upload = temporary.create()
    os.write(upload._fd, b"abc")
    upload.size = 3
    assert number_of(publish_file(store, path, upload)) == errno.ENOSPC
    assert os.pread(upload._fd, 3, 0) == b"abc"
    upload.discard()
    assert files_below(root) == []
    assert leftovers(temporary) == []


def test_uploads_that_have_been_synced_already_are_not_written_again(
    durable: FileStore, path: Path, temporary: TemporaryFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    hinted: list[TemporaryFile] = []
    monkeypatch.setattr(TemporaryFile, "start_sync", lambda file: hinted.append(file))
    upload = uploaded(temporary, b"x")
    durable.prepare(upload)
    both = [Publication(str(path.with_name(name)), [b"x"]) for name in "ab"]
    durable.publish([Publication(str(path), upload), *both])
    assert len(hinted) == 2
    assert upload not in hinted
    upload.discard()
