"""What exists, is loaded or opened is whole, and in use; what is broken makes place for another."""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cache_actors.storage.files.store import FileStore, Lookup, Version
from cache_actors.storage.files.temporary import TemporaryFile, TemporaryFolder
from cache_actors.storage.integrity.checksum import ATTRIBUTE
from tests.storage.stores import (
    EXISTS,
    STORED,
    empty,
    flip,
    held,
    load,
    loaded,
    make_old,
    number_of,
    open_descriptors,
    publish,
    publish_file,
    refusing,
    replace,
    shorten,
    times_of,
    uploaded,
)

Ask = Callable[[FileStore, Path], bool]


# Each way to ask for a file.


def opens(store: FileStore, path: Path) -> bool:
    file = store.open(path)
    if file is not None:
        file.close()
    return file is not None


def loads(store: FileStore, path: Path) -> bool:
    found = load(store, path)
    assert not isinstance(found, OSError)
    return found is not None


def touches(store: FileStore, path: Path) -> bool:
    return store.touch(path, time.time_ns())


each_way = pytest.mark.parametrize("ask", [FileStore.exists, opens, loads, touches])


@each_way
def test_file_is_there_from_its_publication_to_its_end(
    store: FileStore, path: Path, ask: Ask
) -> None:
    assert not ask(store, path)
    publish(store, path, b"x")
    assert ask(store, path)
    path.unlink()
    assert not ask(store, path)


def below_a_file(path: Path) -> None:
    path.parent.rmdir()
    path.parent.write_bytes(b"")


def folder(path: Path) -> None:
    path.mkdir()


def link(path: Path) -> None:
    path.symlink_to("/etc/hostname")


@each_way
@pytest.mark.parametrize("make", [below_a_file, folder, link])
def test_what_is_no_file_is_not_there_and_not_left_open(
    relaxed: FileStore, path: Path, make: Callable[[Path], None], ask: Ask
) -> None:
    path.parent.mkdir(parents=True)
    make(path)
    before = open_descriptors()
    assert not ask(relaxed, path)
    assert open_descriptors() <= before


def lengthen(path: Path) -> None:
    os.truncate(path, path.stat().st_size + 1)


def keep_one(path: Path) -> None:
    os.truncate(path, 1)


@each_way
@pytest.mark.parametrize("damage", [empty, keep_one, shorten, lengthen])
def test_torn_file_makes_place_for_a_new_one_and_is_kept(
    store: FileStore, root: Path, path: Path, damage: Callable[[Path], None], ask: Ask
) -> None:
    publish(store, path, b"0123456789")
    damage(path)
    torn = path.read_bytes()
    assert not ask(store, path)
    assert not path.exists()
    publish(store, path, b"0123456789")
    damage(path)
    assert publish(store, path, b"0123456789") is STORED
    assert publish(store, path, b"0123456789") is EXISTS
    assert path.read_bytes() == b"0123456789"
    assert held(root) == [torn] * 2


@each_way
def test_unrecorded_file_is_believed_unless_it_is_empty(
    store: FileStore, root: Path, path: Path, ask: Ask
) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"value")
    assert ask(store, path)
    path.write_bytes(b"")
    assert not ask(store, path)
    assert held(root) == [b""]


@each_way
@pytest.mark.parametrize("damage", [empty, shorten])
def test_broken_file_that_cannot_be_moved_is_not_there_either(
    relaxed: FileStore,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path], None],
    ask: Ask,
) -> None:
    publish(relaxed, path, b"0123456789")
    monkeypatch.setattr(os, "rename", refusing(errno.EROFS))
    damage(path)
    assert not ask(relaxed, path)
    assert path.exists()


# Whether it exists.


def test_torn_file_that_comes_at_the_last_moment_is_not_said_to_exist(
    store: FileStore, root: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_link = TemporaryFile.link

    def link_too_late(file: TemporaryFile, target: str) -> None:
        Path(target).write_bytes(b"")
        really_link(file, target)

    with monkeypatch.context() as patch:
        patch.setattr(TemporaryFile, "link", link_too_late)
        assert number_of(publish(store, path, b"bytes")) == errno.EEXIST
    assert held(root) == [b""]
    assert publish(store, path, b"bytes") is STORED


@pytest.mark.parametrize("ask", ["exists", "publish", "publish a file"])
def test_artifact_that_is_said_to_exist_is_in_use_from_then_on(
    store: FileStore, path: Path, temporary: TemporaryFolder, ask: str
) -> None:
    """Its client goes on to put an entry that refers to it."""
    publish(store, path, b"x")
    _, written = make_old(path)
    began = time.time_ns()
    if ask == "exists":
        assert store.exists(path)
    elif ask == "publish":
        assert publish(store, path, b"y") is EXISTS
    else:
        upload = uploaded(temporary, b"y")
        assert publish_file(store, path, upload) is EXISTS
        upload.discard()
    assert times_of(path)[0] >= began
    assert times_of(path)[1] == written


# The latest version of an entry, or none.


def test_known_version_is_returned_while_it_is_the_latest(store: FileStore, path: Path) -> None:
    replace(store, path, b"a")
    version = loaded(store, path)
    assert version.data == b"a"
    assert loaded(store, path, version) is version


def test_replaced_version_is_read_again_even_if_its_size_is_the_same(
    store: FileStore, path: Path
) -> None:
    replace(store, path, b"a")
    version = loaded(store, path)
    replace(store, path, b"b")
    assert loaded(store, path, version).data == b"b"


def touch_later(path: Path) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def grow_at_the_same_time(path: Path) -> None:
    status = path.stat()
    path.write_bytes(b"bb")
    os.removexattr(path, ATTRIBUTE)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("change", [touch_later, grow_at_the_same_time])
def test_version_is_told_by_its_fingerprint(
    store: FileStore, path: Path, change: Callable[[Path], None]
) -> None:
    replace(store, path, b"a")
    version = loaded(store, path)
    change(path)
    assert loaded(store, path, version) is not version


def test_version_that_was_removed_loads_as_none(store: FileStore, path: Path) -> None:
    replace(store, path, b"a")
    version = loaded(store, path)
    path.unlink()
    assert load(store, path, version) is None
    assert not path.exists()


def test_batch_is_loaded_in_order_and_failures_hurt_nobody_else(
    store: FileStore, path: Path
) -> None:
    replace(store, path, b"a")
    replace(store, path.with_name("b"), b"b")
    long = path.with_name("x" * 300)
    paths = [path, long, path.with_name("c"), path.with_name("b")]
    first, failed, missing, last = store.load([Lookup(str(p), None) for p in paths])
    assert isinstance(first, Version)
    assert isinstance(last, Version)
    assert (first.data, last.data) == (b"a", b"b")
    assert number_of(failed) == errno.ENAMETOOLONG
    assert missing is None


def test_damaged_entry_loads_as_none_and_can_be_written_again(
    store: FileStore, root: Path, path: Path
) -> None:
    replace(store, path, b"value")
    version = loaded(store, path)
    flip(path)
    damaged = path.read_bytes()
    assert load(store, path, version) is None
    assert not path.exists()
    assert held(root) == [damaged]
    replace(store, path, b"value")
    assert loaded(store, path).data == b"value"


@pytest.mark.parametrize("number", [errno.EIO, errno.EBADMSG, errno.ENOMEM])
def test_entry_whose_bytes_are_lost_is_none_and_one_that_is_not_is_an_error(
    store: FileStore, root: Path, path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    replace(store, path, b"value")
    with monkeypatch.context() as patch:
        patch.setattr(os, "getxattr", refusing(number))
        found = load(store, path)
    if number == errno.ENOMEM:
        assert number_of(found) == number
        assert path.exists()
    else:
        assert found is None
        assert held(root) == [b"value"]


def test_good_entry_that_replaces_a_damaged_one_meanwhile_stays(
    store: FileStore, root: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace(store, path, b"value")
    flip(path)
    really_take = store.quarantine.take

    def take(at: Path, inode: int) -> Path | None:
        replace(store, path, b"good")
        return really_take(at, inode)

    monkeypatch.setattr(store.quarantine, "take", take)
    assert load(store, path) is None
    assert path.read_bytes() == b"good"
    assert held(root) == []


def test_entry_from_memory_is_in_use_and_stays_the_same_version(
    store: FileStore, path: Path
) -> None:
    replace(store, path, b"a")
    _, written = make_old(path)
    version = loaded(store, path)
    make_old(path)
    os.utime(path, ns=(times_of(path)[0], written))
    began = time.time_ns()
    assert loaded(store, path, version) is version
    assert times_of(path)[0] >= began
    assert times_of(path)[1] == written
    assert loaded(store, path, version) is version


def test_use_of_an_entry_from_memory_is_noted_once_a_minute(store: FileStore, path: Path) -> None:
    replace(store, path, b"a")
    _, written = make_old(path)
    version = loaded(store, path)
    for age, is_noted in ((0.0, False), (55.0, False), (65.0, True)):
        used = time.time_ns() - int(age * 1e9)
        os.utime(path, ns=(used, written))
        assert loaded(store, path, version) is version
        assert (times_of(path)[0] != used) is is_noted


def test_entry_whose_use_cannot_be_noted_is_served_all_the_same(
    store: FileStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace(store, path, b"a")
    make_old(path)
    version = loaded(store, path)
    make_old(path)
    os.utime(path, ns=(0, version.fingerprint.mtime_ns))
    monkeypatch.setattr(os, "utime", refusing(errno.EROFS))
    assert loaded(store, path, version) is version
