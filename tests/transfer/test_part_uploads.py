"""Parts of one upload follow each other, and those that wait are in nobody's way."""

import os
from pathlib import Path
from typing import Self

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from cache_actors.kinds import Kind
from cache_actors.storage.errors import StorageLocked
from cache_actors.storage.files.store import FileStore, Publication, Published
from cache_actors.storage.files.temporary import TemporaryFile, TemporaryFolder
from cache_actors.storage.files.unfinished import IDLE_SECONDS, UnfinishedUploads
from cache_actors.storage.layout import TEMPORARY, Key, Project
from cache_actors.supervision import Shares
from cache_actors.transfer import part_uploads
from cache_actors.transfer.part_uploads import NOTED_SECONDS, PartUploads
from cache_actors.transfer.upload import SMALL_BYTES, Upload
from tests.actors.helpers import FastBody, in_chunks
from tests.support.metrics import new_metrics

PROJECT = Project("acme", "app")
KEY = Key(PROJECT, Kind.MODULE, "ab" * 32)
OWNER = (PROJECT, "sender")


class Writer:
    """Receives parts as the disk writer's client does, and publishes at once."""

    def __init__(
        self, store: FileStore, temporary: TemporaryFolder, threads: trio.CapacityLimiter
    ) -> None:
        self._receive_with = (store, temporary, Shares(4 * SMALL_BYTES))
        self._store, self._threads, self._metrics = store, threads, new_metrics()

    def upload(self, owner: tuple[object, ...]) -> Upload:
        return Upload(*self._receive_with, owner, self._threads, self._metrics)

    async def publish(self, key: Key, source: TemporaryFile, _owner: object) -> Published:
        publication = Publication(str(key.path(self._store.root)), source)
        (outcome,) = await trio.to_thread.run_sync(self._store.publish, [publication])
        assert isinstance(outcome, Published)
        return outcome


class Uploading:
    """Uploads that have one thread for their trips to the disk."""

    def __init__(self, store: FileStore, temporary: TemporaryFolder) -> None:
        self.unfinished = UnfinishedUploads(store, temporary)
        self.threads = trio.CapacityLimiter(1)
        writer = Writer(store, temporary, self.threads)
        self.parts = PartUploads(self.unfinished, store, writer, self.threads)

    async def start(self) -> str:
        upload_id = await self.parts.start(KEY)
        assert upload_id is not None
        return upload_id

    async def put(self, upload_id: str, number: int = 1, body: bytes = b"part") -> None:
        await self.parts.put(upload_id, PROJECT, number, in_chunks(body), len(body), None, OWNER)

    async def complete(self, upload_id: str) -> Published | None:
        return await self.parts.complete(upload_id, PROJECT, [1], None, OWNER)


class SlowBody:
    """A body that gives its first piece at once, and each other one when there is `more`."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = list(reversed(pieces))
        self._given = trio.Semaphore(1)
        self.more = self._given.release

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if not self._pieces:
            raise StopAsyncIteration
        await self._given.acquire()
        return self._pieces.pop()


@pytest.fixture
def uploading(store: FileStore, temporary: TemporaryFolder) -> Uploading:
    return Uploading(store, temporary)


async def test_those_who_wait_for_an_upload_take_no_thread(uploading: Uploading) -> None:
    upload_id, other = await uploading.start(), await uploading.start()
    held = uploading.unfinished.open(upload_id, PROJECT)
    async with trio.open_nursery() as nursery:
        for number in range(1, 4):
            nursery.start_soon(uploading.put, upload_id, number)
        await trio.testing.wait_all_tasks_blocked()
        await uploading.put(other)  # if they had the thread, this would come when they give up
        assert held.parts == {}
        held.close()
    with uploading.unfinished.open(upload_id, PROJECT) as upload:
        assert upload.parts.keys() == {1, 2, 3}


async def test_upload_that_another_has_for_long_is_locked(
    uploading: Uploading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_uploads, "LOCK_SECONDS", 0.0)
    upload_id = await uploading.start()
    with uploading.unfinished.open(upload_id, PROJECT), pytest.raises(StorageLocked):
        await uploading.put(upload_id)


async def test_thread_reads_on_in_a_large_part(uploading: Uploading, storage: Path) -> None:
    body = FastBody(bytes(3 * SMALL_BYTES))
    upload_id = await uploading.start()
    await uploading.parts.put(upload_id, PROJECT, 1, body, 3 * SMALL_BYTES, None, OWNER)
    await uploading.complete(upload_id)
    assert body.by_threads > 0
    assert KEY.path(storage).read_bytes() == bytes(3 * SMALL_BYTES)


async def test_part_that_is_still_coming_keeps_its_upload(
    uploading: Uploading, storage: Path, mock_clock: MockClock, no_threads: None
) -> None:
    upload_id = await uploading.start()
    (folder,) = (storage / TEMPORARY / "uploads").glob(f"*.{upload_id}")
    body = SlowBody(b"p", b"ar", b"t")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(uploading.parts.put, upload_id, PROJECT, 1, body, 4, None, OWNER)
        await trio.testing.wait_all_tasks_blocked()
        long_ago = folder.stat().st_mtime - IDLE_SECONDS - 1
        os.utime(folder, (long_ago, long_ago))
        mock_clock.jump(NOTED_SECONDS)
        body.more()
        await trio.testing.wait_all_tasks_blocked()
        uploading.unfinished.sweep()  # which spares it, though it began so long ago
        body.more()
    with uploading.unfinished.open(upload_id, PROJECT) as upload:
        assert upload.parts == {1: 4}


async def test_many_ends_of_one_upload_are_one(uploading: Uploading, storage: Path) -> None:
    upload_id = await uploading.start()
    await uploading.put(upload_id)
    outcomes: list[Published | None] = []

    async def complete() -> None:
        outcomes.append(await uploading.complete(upload_id))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(complete)
    assert sorted(map(str, outcomes)) == ["None"] * 19 + [str(Published.STORED)]
    assert KEY.path(storage).read_bytes() == b"part"
