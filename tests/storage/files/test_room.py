"""Room for what is written, and what writers note of the disk's health."""

import errno
import os
from pathlib import Path

import pytest

from cache_actors.storage.capacity import Capacity
from cache_actors.storage.files.store import FileStore, Publication
from cache_actors.storage.files.temporary import TemporaryFile, TemporaryFolder
from cache_actors.storage.health import StorageState
from tests.storage.stores import (
    EXISTS,
    STORED,
    Disk,
    Way,
    fail,
    files_below,
    leftovers,
    number_of,
    publish,
    publish_file,
    refusing,
    replace,
    uploaded,
)


def test_room_is_required_up_to_what_there_is(store: FileStore, root: Path) -> None:
    room = os.statvfs(root)
    store.capacity.check_room(0)
    store.capacity.check_room(1)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as caught:
        store.capacity.check_room(room.f_blocks * room.f_frsize + 1)
    assert caught.value.errno == errno.ENOSPC


def test_probe_leaves_nothing_and_notes_how_it_went(
    store: FileStore, root: Path, temporary: TemporaryFolder
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "writev", refusing(errno.EIO))
        store.probe()
    assert store.health.status().state is StorageState.FAILING
    store.probe()
    assert store.health.status().state is StorageState.OK
    assert store.health.status().free_bytes is not None
    assert files_below(root) == []
    assert leftovers(temporary) == []


@pytest.mark.usefixtures("full_disk")
def test_writer_that_finds_no_room_notes_it(store: FileStore, path: Path, way: Way) -> None:
    way.one(store, path, b"bytes")
    assert store.health.status().state is StorageState.FULL


def test_what_exists_already_says_nothing_of_writing(store: FileStore, path: Path) -> None:
    publish(store, path, b"bytes")
    store.health.note([fail(errno.ENOSPC)])
    assert publish(store, path, b"bytes") is EXISTS
    assert store.health.status().state is StorageState.FULL


def test_entry_that_was_written_says_nothing_of_artifacts(store: FileStore, path: Path) -> None:
    store.health.note([fail(errno.ENOSPC)])
    assert replace(store, path.with_name("entry"), b"value") is None
    assert store.health.status().state is StorageState.FULL
    assert publish(store, path, b"bytes") is STORED
    assert store.health.status().state is StorageState.OK


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk of which nothing but the reserve is left."""
    disk = Disk(f_bfree=100, f_bavail=100)
    monkeypatch.setattr(os, "statvfs", lambda _: disk)


def test_publications_leave_the_reserve_alone_and_replacements_use_it(
    store: FileStore, path: Path, temporary: TemporaryFolder, request: pytest.FixtureRequest
) -> None:
    publish(store, path, b"x")
    request.getfixturevalue("no_room")
    late = path.with_name("02AB")
    assert number_of(publish(store, late, b"x")) == errno.ENOSPC
    assert not late.exists()
    assert store.health.status().state is StorageState.FULL
    assert publish(store, path, b"again") is EXISTS
    entry = path.with_name("entry")
    assert replace(store, entry, b"x") is None
    assert entry.read_bytes() == b"x"
    assert store.health.status().state is StorageState.FULL  # of uploads that is still true
    store.probe()
    assert store.health.status().state is StorageState.FULL
    assert leftovers(temporary) == []


def test_publications_of_a_batch_find_no_room_that_others_of_it_need(
    root: Path, temporary: TemporaryFolder, path: Path
) -> None:
    store = FileStore(root, temporary, durable=False, capacity=Capacity(root, max_bytes=1000))
    batch = [Publication(str(path.with_name(name)), [b"x" * 400]) for name in "abc"]
    outcomes = store.publish(batch)
    assert outcomes[:2] == [STORED, STORED]
    assert number_of(outcomes[2]) == errno.ENOSPC
    assert publish(store, Path(batch[2].path), b"x" * 400) is STORED  # that room is free again


@pytest.mark.parametrize("size", [300, 450], ids=["room for all", "room for some"])
def test_room_of_a_batch_is_its_own_until_it_is_stored(
    root: Path,
    temporary: TemporaryFolder,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
) -> None:
    """What has its name is only counted as stored when its writer has been told."""
    store = FileStore(root, temporary, durable=False, capacity=Capacity(root, max_bytes=1000))
    really_link = TemporaryFile.link
    found: list[bool] = []

    def link(file: TemporaryFile, target: str) -> None:
        really_link(file, target)
        try:
            store.capacity.check_room(500)
        except OSError:
            found.append(False)
        else:
            found.append(True)

    monkeypatch.setattr(TemporaryFile, "link", link)
    store.publish([Publication(str(path.with_name(name)), [b"x" * size]) for name in "abc"])
    assert set(found) == {False}
    store.capacity.check_room(1000)


def test_where_there_is_no_room_for_a_batch_there_may_be_for_some_of_it(
    store: FileStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def check_room(size: int, files: int) -> None:
        asked.append((size, files))
        if size > 100:
            raise fail(errno.ENOSPC)

    monkeypatch.setattr(store.capacity, "check_room", check_room)
    batch = [Publication(str(path.with_name(f"{size}")), [bytes(size)]) for size in (40, 50, 101)]
    assert store.publish(batch[:2]) == [STORED, STORED]
    assert asked == [(90, 2)]
    outcomes = store.publish([replace_path(item, "again") for item in batch])
    assert (outcomes[:2], number_of(outcomes[2])) == ([STORED, STORED], errno.ENOSPC)
    assert asked[1:] == [(191, 3), (40, 1), (50, 1), (101, 1)]


def replace_path(item: Publication, ending: str) -> Publication:
    return Publication(item.path + ending, item.source)


def test_upload_that_has_its_room_already_is_published_without_more(
    store: FileStore, path: Path, temporary: TemporaryFolder, request: pytest.FixtureRequest
) -> None:
    upload = uploaded(temporary)
    request.getfixturevalue("no_room")
    assert publish_file(store, path, upload) is STORED
    upload.discard()


def test_publications_know_their_size(temporary: TemporaryFolder, path: Path) -> None:
    upload = temporary.create()
    upload.write([b"abc", b"de"])
    assert Publication(str(path), upload).size == 5
    assert Publication(str(path), [b"abc", b"", b"d"]).size == 4
    upload.discard()
