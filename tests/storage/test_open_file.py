"""Files that are being read: what they are known to hold, and what becomes of those that fail."""

from __future__ import annotations

import errno
import hashlib
import os
from typing import TYPE_CHECKING

import pytest

from cache_actors.storage.files import FileStore, Publication
from cache_actors.storage.layout import QUARANTINE
from cache_actors.storage.record import ATTRIBUTE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cache_actors.storage.open_file import OpenFile
    from cache_actors.storage.temporary import TemporaryFolder

CONTENT = b"0123456789"
DAMAGES = [errno.EIO, errno.EUCLEAN, errno.EBADMSG]


@pytest.fixture
def store(root: Path, temporary: TemporaryFolder) -> FileStore:
    return FileStore(root, temporary, durable=False)


@pytest.fixture
def path(root: Path, store: FileStore) -> Path:
    """An artifact."""
    path = root / "acme" / "app" / "cas" / "AB" / "01AB"
    publish(store, path, CONTENT)
    return path


@pytest.fixture
def file(store: FileStore, path: Path) -> Iterator[OpenFile]:
    file = opened(store, path)
    yield file
    file.close()


def publish(store: FileStore, path: Path, content: bytes) -> None:
    (outcome,) = store.publish([Publication(path, [content])])
    assert not isinstance(outcome, OSError)


def opened(store: FileStore, path: Path) -> OpenFile:
    file = store.open(path)
    assert file is not None
    return file


def held(root: Path) -> list[bytes]:
    """What the files in quarantine hold."""
    return [path.read_bytes() for path in (root / QUARANTINE).rglob("*") if path.is_file()]


def fail_reads(patch: pytest.MonkeyPatch, number: int) -> None:
    def pread(*_: object) -> bytes:
        raise OSError(number, os.strerror(number))

    patch.setattr(os, "pread", pread)


def shorten(path: Path, size: int) -> None:
    os.truncate(path, size)


# What is known.


def test_digest_is_that_of_the_bytes(file: OpenFile) -> None:
    assert file.digest == hashlib.sha256(CONTENT).digest()


def test_digest_that_has_not_been_recorded_is_unknown(store: FileStore, path: Path) -> None:
    os.removexattr(path, ATTRIBUTE)
    file = opened(store, path)
    assert file.digest is None
    assert file.read(0, 100) == CONTENT
    file.close()


# Files that are broken already.


@pytest.mark.parametrize("size", [0, 1, len(CONTENT) - 1, len(CONTENT) + 1])
def test_file_of_another_size_is_not_opened_but_put_in_quarantine(
    store: FileStore, root: Path, path: Path, size: int
) -> None:
    shorten(path, size)
    assert store.open(path) is None
    assert not path.exists()
    assert held(root) == [CONTENT.ljust(size, b"\0")[:size]]


def test_empty_file_without_a_record_is_broken_and_any_other_is_not(
    store: FileStore, root: Path, path: Path
) -> None:
    os.removexattr(path, ATTRIBUTE)
    shorten(path, 1)
    opened(store, path).close()
    shorten(path, 0)
    assert store.open(path) is None
    assert held(root) == [b""]


@pytest.mark.parametrize("size", [0, 3])
def test_broken_file_that_cannot_be_moved_is_not_opened_either(
    store: FileStore, path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    def rename(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "rename", rename)
    shorten(path, size)
    assert store.open(path) is None
    assert path.exists()


# Files that fail while they are read.


@pytest.mark.parametrize("number", DAMAGES, ids=errno.errorcode.get)
def test_file_whose_bytes_are_lost_is_put_in_quarantine(
    root: Path, path: Path, file: OpenFile, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with monkeypatch.context() as patch:
        fail_reads(patch, number)
        with pytest.raises(OSError, match=os.strerror(number)):
            file.read(0, 1)
    assert not path.exists()
    assert held(root) == [CONTENT]


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.ETIMEDOUT], ids=errno.errorcode.get)
def test_file_that_cannot_be_read_at_the_moment_stays(
    root: Path, path: Path, file: OpenFile, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with monkeypatch.context() as patch:
        fail_reads(patch, number)
        with pytest.raises(OSError, match=os.strerror(number)):
            file.read(0, 1)
    assert path.read_bytes() == CONTENT
    assert held(root) == []
    assert file.read(0, 1) == b"0"


def test_file_that_becomes_shorter_fails_where_it_ends_and_is_put_in_quarantine(
    root: Path, path: Path, file: OpenFile
) -> None:
    shorten(path, 4)
    assert file.read(0, 10) == b"0123"
    assert path.exists()
    with pytest.raises(OSError, match="shorter") as caught:
        file.read(4, 6)
    assert caught.value.errno == errno.EIO
    assert not path.exists()
    assert held(root) == [b"0123"]


def test_end_of_a_file_is_no_damage(root: Path, path: Path, file: OpenFile) -> None:
    assert file.read(len(CONTENT), 1) == b""
    assert file.read(len(CONTENT) + 5, 1) == b""
    assert path.exists()
    assert held(root) == []


def test_file_that_has_taken_the_broken_ones_place_stays(
    store: FileStore, root: Path, path: Path, file: OpenFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.unlink()
    publish(store, path, b"new")
    with monkeypatch.context() as patch:
        fail_reads(patch, errno.EIO)
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            file.read(0, 1)
    assert path.read_bytes() == b"new"
    assert held(root) == []


def test_failure_is_told_if_the_file_cannot_be_moved(
    path: Path, file: OpenFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rename(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "rename", rename)
    fail_reads(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        file.read(0, 1)
    assert path.exists()


def test_broken_file_makes_place_for_a_new_one(
    store: FileStore, path: Path, file: OpenFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        fail_reads(patch, errno.EIO)
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            file.read(0, 1)
    assert store.open(path) is None
    assert not store.exists(path)
    publish(store, path, CONTENT)
    again = opened(store, path)
    assert again.read(0, 100) == CONTENT
    again.close()
