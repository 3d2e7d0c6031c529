"""Files that are made ready to be published, also those from another device."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from cache_actors.storage.files import FileStore, Publication
from cache_actors.storage.health import StorageState
from cache_actors.storage.temporary import TemporaryFile, TemporaryFolder
from tests.support.mounts import other_device

from .stores import (
    STORED,
    Journal,
    files_below,
    leftovers,
    number_of,
    publish_file,
    refusing,
    uploaded,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


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
    ready = durable.ready(upload)
    monkeypatch.delattr(os, "fdatasync")
    monkeypatch.delattr(os, "setxattr")
    assert durable.publish([Publication(path, ready)]) == [STORED]
    ready.discard()


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
        durable.ready(upload)
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


def test_uploads_that_have_been_synced_already_stay_in_memory(
    durable: FileStore, path: Path, temporary: TemporaryFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel drops what is written when it is told to begin writing."""
    hinted: list[TemporaryFile] = []
    monkeypatch.setattr(TemporaryFile, "start_sync", lambda file: hinted.append(file))
    upload = uploaded(temporary, b"x")
    durable.ready(upload)
    both = [Publication(path.with_name(name), [b"x"]) for name in "ab"]
    durable.publish([Publication(path, upload), *both])
    assert len(hinted) == 2
    assert upload not in hinted
    upload.discard()
