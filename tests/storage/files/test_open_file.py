"""Files that are being read: what they are known to hold, and what becomes of those that fail."""

from __future__ import annotations

import errno
import hashlib
import os
from typing import TYPE_CHECKING

import pytest

from cache_actors.storage.integrity.checksum import ATTRIBUTE
from tests.storage.stores import held, open_descriptors, opened, publish, refusing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cache_actors.storage.files.open_file import OpenFile
    from cache_actors.storage.files.store import FileStore

CONTENT = b"0123456789"
DAMAGES = [errno.EIO, errno.EUCLEAN, errno.EBADMSG]


@pytest.fixture
def artifact(relaxed: FileStore, path: Path) -> Path:
    publish(relaxed, path, CONTENT)
    return path


@pytest.fixture
def file(relaxed: FileStore, artifact: Path) -> Iterator[OpenFile]:
    file = opened(relaxed, artifact)
    yield file
    file.close()


# Reading.


def test_open_file_reads_any_part(relaxed: FileStore, artifact: Path) -> None:
    file = opened(relaxed, artifact)
    assert file.size == 10
    assert file.mtime == int(artifact.stat().st_mtime)
    assert file.read(3, 4) == b"3456"
    assert file.read(0, 3) == b"012"
    assert file.read(8, 100) == b"89"
    assert file.read(10, 1) == b""
    artifact.unlink()
    assert file.read(0, 1) == b"0"
    file.close()


def test_modification_time_is_cut_to_whole_seconds(relaxed: FileStore, artifact: Path) -> None:
    os.utime(artifact, ns=(0, 1_700_000_000_999_999_999))
    file = opened(relaxed, artifact)
    assert file.mtime == 1_700_000_000
    file.close()


def test_closing_again_closes_nobody_elses_file(relaxed: FileStore, artifact: Path) -> None:
    file = opened(relaxed, artifact)
    file.close()
    another = os.open(artifact, os.O_RDONLY)  # gets the number that was just freed
    file.close()
    assert os.read(another, 1) == b"0"
    os.close(another)


def test_nothing_is_opened_where_there_is_no_file(
    relaxed: FileStore, path: Path, root: Path
) -> None:
    (root / "file").write_bytes(b"")
    assert relaxed.open(path) is None
    assert relaxed.open(root / "file" / "x") is None


def test_folder_is_no_file_and_is_not_left_open(relaxed: FileStore, path: Path) -> None:
    path.mkdir(parents=True)
    before = open_descriptors()
    assert relaxed.open(path) is None
    assert open_descriptors() == before


def test_symbolic_link_is_not_followed(relaxed: FileStore, path: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / "secret")
    assert relaxed.open(path) is None


# What is known.


def test_digest_is_that_of_the_bytes(file: OpenFile) -> None:
    assert file.digest == hashlib.sha256(CONTENT).digest()


def test_digest_that_has_not_been_recorded_is_unknown(relaxed: FileStore, artifact: Path) -> None:
    os.removexattr(artifact, ATTRIBUTE)
    file = opened(relaxed, artifact)
    assert file.digest is None
    assert file.read(0, 100) == CONTENT
    file.close()


# Files that are broken already.


@pytest.mark.parametrize("size", [0, 1, len(CONTENT) - 1, len(CONTENT) + 1])
def test_file_of_another_size_is_not_opened_but_put_in_quarantine(
    relaxed: FileStore, root: Path, artifact: Path, size: int
) -> None:
    os.truncate(artifact, size)
    assert relaxed.open(artifact) is None
    assert not artifact.exists()
    assert held(root) == [CONTENT.ljust(size, b"\0")[:size]]


def test_empty_file_without_a_record_is_broken_and_any_other_is_not(
    relaxed: FileStore, root: Path, artifact: Path
) -> None:
    os.removexattr(artifact, ATTRIBUTE)
    os.truncate(artifact, 1)
    opened(relaxed, artifact).close()
    os.truncate(artifact, 0)
    assert relaxed.open(artifact) is None
    assert held(root) == [b""]


@pytest.mark.parametrize("size", [0, 3])
def test_broken_file_that_cannot_be_moved_is_not_opened_either(
    relaxed: FileStore, artifact: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(os, "rename", refusing(errno.EROFS))
    os.truncate(artifact, size)
    assert relaxed.open(artifact) is None
    assert artifact.exists()


# Files that fail while they are read.


@pytest.mark.parametrize("number", DAMAGES, ids=errno.errorcode.get)
def test_file_whose_bytes_are_lost_is_put_in_quarantine(
    root: Path, artifact: Path, file: OpenFile, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", refusing(number))
        with pytest.raises(OSError, match=os.strerror(number)):
            file.read(0, 1)
    assert not artifact.exists()
    assert held(root) == [CONTENT]


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.ETIMEDOUT], ids=errno.errorcode.get)
def test_file_that_cannot_be_read_at_the_moment_stays(
    root: Path, artifact: Path, file: OpenFile, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", refusing(number))
        with pytest.raises(OSError, match=os.strerror(number)):
            file.read(0, 1)
    assert artifact.read_bytes() == CONTENT
    assert held(root) == []
    assert file.read(0, 1) == b"0"


def test_file_that_becomes_shorter_fails_where_it_ends_and_is_put_in_quarantine(
    root: Path, artifact: Path, file: OpenFile
) -> None:
    os.truncate(artifact, 4)
    assert file.read(0, 10) == b"0123"
    assert artifact.exists()
    with pytest.raises(OSError, match="shorter") as caught:
        file.read(4, 6)
    assert caught.value.errno == errno.EIO
    assert not artifact.exists()
    assert held(root) == [b"0123"]


def test_end_of_a_file_is_no_damage(root: Path, artifact: Path, file: OpenFile) -> None:
    assert file.read(len(CONTENT), 1) == b""
    assert file.read(len(CONTENT) + 5, 1) == b""
    assert artifact.exists()
    assert held(root) == []


def test_file_that_has_taken_the_broken_ones_place_stays(
    relaxed: FileStore, root: Path, artifact: Path, file: OpenFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact.unlink()
    publish(relaxed, artifact, b"new")
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", refusing(errno.EIO))
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            file.read(0, 1)
    assert artifact.read_bytes() == b"new"
    assert held(root) == []


def test_failure_is_told_if_the_file_cannot_be_moved(
    artifact: Path, file: OpenFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "rename", refusing(errno.EROFS))
    monkeypatch.setattr(os, "pread", refusing(errno.EIO))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        file.read(0, 1)
    assert artifact.exists()


def test_broken_file_makes_place_for_a_new_one(
    relaxed: FileStore, artifact: Path, file: OpenFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", refusing(errno.EIO))
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            file.read(0, 1)
    assert relaxed.open(artifact) is None
    assert not relaxed.exists(artifact)
    publish(relaxed, artifact, CONTENT)
    again = opened(relaxed, artifact)
    assert again.read(0, 100) == CONTENT
    again.close()
