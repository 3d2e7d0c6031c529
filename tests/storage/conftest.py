"""Fixtures of the storage tests: folders on a real disk, and stores in them."""

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cache_actors.storage.files import FileStore
from cache_actors.storage.layout import TEMPORARY
from cache_actors.storage.temporary import TemporaryFolder
from tests.support.stored import Stored

from .stores import PUBLISH, REPLACE, Disk, Journal, Way, fail


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The storage folder."""
    root = tmp_path / "cas"
    root.mkdir()
    return root


@pytest.fixture
def temporary(root: Path) -> Iterator[TemporaryFolder]:
    """The folder for temporary files, on the same device."""
    folder = TemporaryFolder(root / TEMPORARY)
    yield folder
    folder.remove()


@pytest.fixture(params=[True, False], ids=["durable", "relaxed"])
def store(root: Path, temporary: TemporaryFolder, request: pytest.FixtureRequest) -> FileStore:
    """A store of either sort."""
    return FileStore(root, temporary, durable=request.param)


@pytest.fixture
def durable(root: Path, temporary: TemporaryFolder) -> FileStore:
    return FileStore(root, temporary, durable=True)


@pytest.fixture
def relaxed(root: Path, temporary: TemporaryFolder) -> FileStore:
    return FileStore(root, temporary, durable=False)


@pytest.fixture(params=[PUBLISH, REPLACE], ids=["publish", "replace"])
def way(request: pytest.FixtureRequest) -> Way:
    """Either way to write a file."""
    way: Way = request.param
    return way


@pytest.fixture
def path(root: Path) -> Path:
    """Where a file may go; none of the folders above is there yet."""
    return root / "acme" / "app" / "cas" / "AB" / "01AB"


@pytest.fixture
def stored(root: Path) -> Stored:
    return Stored(root)


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch) -> Journal:
    return Journal(monkeypatch)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """What the disk says of itself, for tests that change that."""
    disk = Disk()
    monkeypatch.setattr(os, "statvfs", lambda _: disk)
    return disk


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that has room for one more byte per write."""
    full: set[int] = set()

    def writev(fd: int, buffers: Sequence[bytes]) -> int:
        if fd in full:
            raise fail(errno.ENOSPC)
        full.add(fd)
        return os.write(fd, b"".join(buffers)[:1])

    monkeypatch.setattr(os, "writev", writev)
