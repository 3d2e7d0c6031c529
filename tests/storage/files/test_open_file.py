"""Files that are being read: what they are known to hold, and what becomes of those that fail."""

import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache_actors.storage.files.open_file import OpenFile
from cache_actors.storage.files.store import FileStore
from cache_actors.storage.integrity.checksum import ATTRIBUTE
from tests.storage.stores import held, open_descriptors, opened, publish, refusing

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
    os.utime(artifact, ns=(0, 1_700_000_000_999_999_999))
    file = opened(relaxed, artifact)
    assert (file.size, file.mtime) == (10, 1_700_000_000)
    assert file.read(3, 4) == b"3456"
    assert file.read(0, 3) == b"012"
    assert file.read(8, 100) == b"89"
    assert file.read(10, 1) == b""
    artifact.unlink()
    assert file.read(0, 1) == b"0"
    file.close()


def test_closing_again_closes_nobody_elses_file(relaxed: FileStore, artifact: Path) -> None:
    before = open_descriptors()
    file = opened(relaxed, artifact)
    file.close()
    assert open_descriptors() <= before
    another = os.open(artifact, os.O_RDONLY)  # gets the number that was just freed
    file.close()
    assert os.read(another, 1) == b"0"
    os.close(another)


# What is known.


def test_digest_is_that_of_the_bytes(file: OpenFile) -> None:
    assert file.digest == hashlib.sha256(CONTENT).digest()


def test_digest_that_has_not_been_recorded_is_unknown(relaxed: FileStore, artifact: Path) -> None:
    os.removexattr(artifact, ATTRIBUTE)
    file = opened(relaxed, artifact)
    assert file.digest is None
    assert file.read(0, 100) == CONTENT
    file.close()


# Files that fail while they are read.


def fail_to_read(file: OpenFile, number: int) -> None:
    """Have one read of the disk fail with that error, and expect to be told."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pread", refusing(number))
        with pytest.raises(OSError, match=os.strerror(number)):
            file.read(0, 1)


@pytest.mark.parametrize("number", DAMAGES, ids=errno.errorcode.get)
def test_file_whose_bytes_are_lost_is_put_in_quarantine(
    root: Path, artifact: Path, file: OpenFile, number: int
) -> None:
    fail_to_read(file, number)
    assert not artifact.exists()
    assert held(root) == [CONTENT]


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.ETIMEDOUT], ids=errno.errorcode.get)
def test_file_that_cannot_be_read_at_the_moment_stays(
    root: Path, artifact: Path, file: OpenFile, number: int
) -> None:
    fail_to_read(file, number)
    assert artifact.read_bytes() == CONTENT
    assert held(root) == []
    assert file.read(0, 1) == b"0"


def test_file_that_has_taken_the_broken_ones_place_stays(
    relaxed: FileStore, root: Path, artifact: Path, file: OpenFile
) -> None:
    artifact.unlink()
    publish(relaxed, artifact, b"new")
    fail_to_read(file, errno.EIO)
    assert artifact.read_bytes() == b"new"
    assert held(root) == []


def test_failure_is_told_if_the_file_cannot_be_moved(
    artifact: Path, file: OpenFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "rename", refusing(errno.EROFS))
    fail_to_read(file, errno.EIO)
    assert artifact.exists()


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
