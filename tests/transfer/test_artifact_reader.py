"""Artifacts are read in large pieces, and what the disk does is told apart from a miss."""

import errno
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cache_actors.kinds import Kind
from cache_actors.storage.actions import BlobReference
from cache_actors.storage.errors import StorageError
from cache_actors.storage.files.store import FileStore
from cache_actors.storage.known_cleans import note_clean
from cache_actors.storage.layout import Key
from cache_actors.transfer.artifact_reader import READ_BYTES, Artifact, ArtifactReader
from tests.actors.helpers import CountingThreads, artifact, fail_at

BODY = random.randbytes(2 * READ_BYTES + 1000)


@pytest.fixture
def path(storage: Path) -> Path:
    """Where the artifact `A` is stored."""
    path = artifact("A").path(storage)
    path.parent.mkdir(parents=True)
    path.write_bytes(BODY)
    return path


@pytest.fixture
def threads() -> CountingThreads:
    return CountingThreads()


@pytest.fixture
def reader(store: FileStore, threads: CountingThreads) -> ArtifactReader:
    return ArtifactReader(store, threads.as_limiter())


@pytest.fixture
async def opened(reader: ArtifactReader, path: Path) -> AsyncIterator[Artifact]:
    """The artifact, open while the test lasts."""
    opened = await reader.open(artifact("A"))
    assert opened is not None
    yield opened
    opened.close()


async def read(opened: Artifact, start: int, end: int) -> list[bytes]:
    return [piece async for piece in opened.read(start, end)]


async def test_artifact_is_read_whole(opened: Artifact, path: Path) -> None:
    assert opened.size == len(BODY)
    assert opened.mtime == int(os.stat(path).st_mtime)  # noqa: PTH116
    assert b"".join(await read(opened, 0, opened.size)) == BODY


@pytest.mark.parametrize(
    ("start", "end"),
    [(0, 1), (5, 5), (10, 1000), (READ_BYTES - 1, READ_BYTES + 1), (len(BODY) - 1, len(BODY))],
)
async def test_part_of_an_artifact(opened: Artifact, start: int, end: int) -> None:
    assert b"".join(await read(opened, start, end)) == BODY[start:end]


async def test_one_trip_to_a_thread_opens_and_one_each_reads_a_mebibyte(
    opened: Artifact, threads: CountingThreads
) -> None:
    assert threads.trips == 1
    pieces = await read(opened, 0, len(BODY))
    assert [len(piece) for piece in pieces] == [READ_BYTES, READ_BYTES, 1000]
    assert threads.trips == 1 + 3


async def test_what_does_not_exist_is_none(reader: ArtifactReader, path: Path) -> None:
    assert await reader.open(artifact("ABSENT")) is None
    path.unlink()
    assert await reader.open(artifact("A")) is None


async def test_artifact_that_is_open_is_read_to_its_end_though_it_was_evicted(
    opened: Artifact, path: Path
) -> None:
    path.unlink()
    assert b"".join(await read(opened, 0, len(BODY))) == BODY


async def test_artifact_that_has_become_shorter_is_an_error_and_not_a_short_body(
    opened: Artifact, path: Path
) -> None:
    os.truncate(path, READ_BYTES + 10)
    assert b"".join(await read(opened, 0, READ_BYTES + 10)) == BODY[: READ_BYTES + 10]
    with pytest.raises(StorageError):
        await read(opened, 0, len(BODY))


async def test_failing_disk_is_a_storage_error(opened: Artifact) -> None:
    opened.close()
    with pytest.raises(StorageError, match="Bad file descriptor"):
        await read(opened, 0, 1)


async def test_disk_that_cannot_be_opened_is_no_miss(
    reader: ArtifactReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(monkeypatch, "open", errno.EACCES)
    with pytest.raises(StorageError, match="Permission denied") as caught:
        await reader.open(artifact("A"))
    assert "/secret/path" not in str(caught.value)


async def test_blob_that_a_clean_is_about_to_take_is_to_be_uploaded_but_can_be_read(
    reader: ArtifactReader, path: Path, storage: Path
) -> None:
    project, blob = artifact("A").project, BlobReference("ab" * 32, len(BODY))
    new = Key(project, Kind.BLOB, blob.id).path(storage)
    new.parent.mkdir(parents=True)
    path.rename(new)
    assert await reader.missing(project, [blob]) == []
    note_clean(storage, project, new.stat().st_mtime_ns)
    assert await reader.missing(project, [blob]) == [0]
    assert await reader.missing(project, [blob], to_stay=False) == []
