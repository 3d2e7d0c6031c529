"""Entries are loaded in their latest version, or none; those in memory are in use all the same."""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING

import pytest

from cache_actors.storage.files import FileStore, Lookup, Version
from cache_actors.storage.record import ATTRIBUTE

from .stores import (
    empty,
    flip,
    held,
    load,
    loaded,
    make_old,
    number_of,
    refusing,
    replace,
    shorten,
    times_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_file_that_is_not_there_loads_as_none(store: FileStore, path: Path, root: Path) -> None:
    (root / "file").write_bytes(b"")
    assert load(store, path) is None
    assert load(store, root / "file" / "x") is None


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
    first, failed, missing, last = store.load([Lookup(p, None) for p in paths])
    assert isinstance(first, Version)
    assert isinstance(last, Version)
    assert (first.data, last.data) == (b"a", b"b")
    assert number_of(failed) == errno.ENAMETOOLONG
    assert missing is None


# Broken ones.


@pytest.mark.parametrize("damage", [flip, empty, shorten])
def test_damaged_entry_loads_as_none_and_can_be_written_again(
    store: FileStore, root: Path, path: Path, damage: Callable[[Path], None]
) -> None:
    replace(store, path, b"value")
    version = loaded(store, path)
    damage(path)
    damaged = path.read_bytes()
    assert load(store, path, version) is None
    assert not path.exists()
    assert held(root) == [damaged]
    replace(store, path, b"value")
    assert loaded(store, path).data == b"value"


def test_unrecorded_entry_is_believed_unless_it_is_empty(
    store: FileStore, root: Path, path: Path
) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"value")
    assert loaded(store, path).data == b"value"
    path.write_bytes(b"")
    assert load(store, path) is None
    assert held(root) == [b""]


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


# Uses.


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
