"""Whether an artifact exists: then it is whole, and in use; a torn one makes place."""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING

import pytest

from cache_actors.storage.files.temporary import TemporaryFile, TemporaryFolder
from tests.storage.stores import (
    EXISTS,
    STORED,
    held,
    make_old,
    number_of,
    publish,
    publish_file,
    times_of,
)

if TYPE_CHECKING:
    from pathlib import Path

    from cache_actors.storage.files.store import FileStore


def test_exists_says_what_is_published(store: FileStore, path: Path) -> None:
    assert not store.exists(path)
    publish(store, path, b"x")
    assert store.exists(path)
    path.unlink()
    assert not store.exists(path)


# Torn ones.


@pytest.mark.parametrize("size", [0, 5])
def test_torn_file_makes_place_for_a_new_upload_and_is_kept(
    store: FileStore, root: Path, path: Path, size: int
) -> None:
    publish(store, path, b"0123456789")
    os.truncate(path, size)
    assert not store.exists(path)
    publish(store, path, b"0123456789")
    os.truncate(path, size)
    assert publish(store, path, b"0123456789") is STORED
    assert publish(store, path, b"0123456789") is EXISTS
    assert path.read_bytes() == b"0123456789"
    assert held(root) == [b"01234"[:size]] * 2


def test_torn_file_that_comes_at_the_last_moment_is_not_said_to_exist(
    store: FileStore, root: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_link = TemporaryFile.link

    def link_too_late(file: TemporaryFile, target: Path) -> None:
        target.write_bytes(b"")
        really_link(file, target)

    with monkeypatch.context() as patch:
        patch.setattr(TemporaryFile, "link", link_too_late)
        assert number_of(publish(store, path, b"bytes")) == errno.EEXIST
    assert held(root) == [b""]
    assert publish(store, path, b"bytes") is STORED


# Uses.


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
        upload = temporary.create()
        upload.write([b"y"])
        assert publish_file(store, path, upload) is EXISTS
        upload.discard()
    assert times_of(path)[0] >= began
    assert times_of(path)[1] == written


def test_asking_for_what_is_not_there_changes_nothing(store: FileStore, path: Path) -> None:
    publish(store, path.with_name("other"), b"x")
    before = make_old(path.with_name("other"))
    assert not store.exists(path)
    assert times_of(path.with_name("other")) == before


def test_touch_says_whether_there_is_a_whole_file(store: FileStore, path: Path, root: Path) -> None:
    assert not store.touch(path, time.time_ns())
    publish(store, path, b"0123")
    assert store.touch(path, time.time_ns())
    os.truncate(path, 2)
    assert not store.touch(path, time.time_ns())
    assert held(root) == [b"01"]
