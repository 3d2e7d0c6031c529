"""The disk writer: it publishes artifacts, those of one id in order, in groups that share syncs.

There is one in a process of the service. Different ids hardly wait for each other: a commit takes
milliseconds, what is large is ready before it comes here, and those that wait share the next one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, ClassVar

import trio

from cache_actors.storage.capacity import on_disk
from cache_actors.storage.errors import StorageError, storage_error
from cache_actors.storage.files.store import FileStore, Publication, Published
from cache_actors.storage.layout import Key, StoredKey
from cache_actors.supervision import Actor, Address, Call, Envelope
from cache_actors.transfer.upload import Upload
from cache_actors.writer_process.client import ThreadCommitter, supervised

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Awaitable, Callable, Sequence

    from cache_actors.metrics.registry import Metrics
    from cache_actors.storage.files.temporary import TemporaryFile, TemporaryFolder
    from cache_actors.supervision import Mailbox, Owner, Shares, Started, Turns
    from cache_actors.writer_process.client import Committer


class DiskWriterClient:
    """Stores artifacts.

    Args:
        writer: the disk writer's address.
        store: where the artifacts go.
        temporary: where large uploads wait for their end; may be on another device.
        memory: what all small uploads together may hold in memory, in bytes, by their owners.
        threads: how many threads may write uploads to temporary files at once.
        metrics: where temporary files are counted.
        turns: of what is published.
        shared: called with the key of what has been stored, before its client hears of it.
    """

    def __init__(
        self,
        writer: Address,
        store: FileStore,
        temporary: TemporaryFolder,
        memory: Shares,
        threads: trio.CapacityLimiter,
        metrics: Metrics,
        turns: Turns,
        shared: Callable[[Key], Awaitable[None]] | None = None,
    ) -> None:
        self._shared = shared
        self._turns = turns
        self._writer = writer
        self._store = store
        self._temporary = temporary
        self._memory = memory
        self._threads = threads
        self._metrics = metrics

    async def store(
        self,
        key: Key,
        chunks: AsyncIterable[bytes],
        expected_size: int | None = None,
        expected_digest: bytes | None = None,
        owner: Owner = (),
    ) -> Published:
        """Store what `chunks` yields as `key`, unless it exists; then they may be left unread.

        When this returns, the artifact is there to stay, whoever stored it.

        Args:
            key: which artifact.
            chunks: its bytes, as they arrive.
            expected_size: how many bytes will come, if known.
            expected_digest: their SHA-256, if known. It is not checked if they are left unread.
            owner: whose share of the memory they take; the project's, unless it is said.

        Raises:
            EmptyUpload: there was not one byte.
            WrongDigest: the bytes are not those that were declared.
            StorageError: the storage is full, or failed; nothing has been stored.
            ActorError: the writer did not answer.
        """
        owner = owner or (key.project,)
        async with self.upload(owner) as upload:
            if not await upload.receive(key, chunks, expected_size, expected_digest):
                return Published.EXISTS
            await upload.prepare()
            return await self.publish(key, upload.source(), owner)

    def upload(self, owner: Owner) -> Upload:
        """An upload that takes its memory from the share of `owner`."""
        return Upload(
            self._store, self._temporary, self._memory, owner, self._threads, self._metrics
        )

    async def publish(
        self, key: Key, source: tuple[bytes, ...] | TemporaryFile, owner: Owner
    ) -> Published:
        """Publish as `key` what has been received: pieces, or a file from `FileStore.prepare`.

        Raises:
            StorageError: the storage is full, or failed; nothing has been stored.
            ActorError: the writer did not answer.
        """
        published = await self._publish(key, source, owner)
        if self._shared is not None and published is Published.STORED:
            await self._shared(key)
        return published

    async def _publish(
        self, key: Key, source: tuple[bytes, ...] | TemporaryFile, owner: Owner
    ) -> Published:
        async with self._turns.turn(owner):
            if isinstance(source, tuple):
                return await self._writer.call(Publish(key, source), wait_for_room=True)
            # The writer reads from a temporary file: it must not be discarded meanwhile.
            with trio.CancelScope(shield=True):
                return await self._writer.call(Publish(key, source), wait_for_room=True)
            raise AssertionError("a scope that nobody cancels has swallowed something")

    async def publish_batch(
        self, batch: Sequence[tuple[Key, bytes]], owner: Owner
    ) -> list[Published | StorageError]:
        """Publish small files in one message; the outcome of each is in the same place.

        Raises:
            ActorError: the writer did not answer.
        """
        async with self._turns.turn(owner):
            files = tuple((key, (data,)) for key, data in batch)
            outcomes = await self._writer.call(PublishBatch(files), wait_for_room=True)
        if self._shared is not None:
            async with trio.open_nursery() as nursery:
                for (key, _), outcome in zip(batch, outcomes, strict=True):
                    if outcome is Published.STORED:
                        nursery.start_soon(self._shared, key)
        return outcomes


@dataclass(frozen=True, slots=True)
class Publish(Call[Published]):
    """Publish `source`, a small artifact's pieces or a large one's temporary file, as `key`."""

    key: Key
    source: tuple[bytes, ...] | TemporaryFile = field(repr=False)

    @property
    def files(self) -> tuple[tuple[Key, tuple[bytes, ...] | TemporaryFile]]:
        """The one file, as a batch has its."""
        return ((self.key, self.source),)

    @property
    def weight(self) -> int:
        """Bytes of memory that the message holds."""
        return sum(map(len, self.source)) if isinstance(self.source, tuple) else 0


@dataclass(frozen=True, slots=True)
class PublishBatch(Call["list[Published | StorageError]"]):
    """Publish each of `files`, under its key."""

    files: tuple[tuple[Key, tuple[bytes]], ...] = field(repr=False)

    @property
    def weight(self) -> int:
        """Bytes of memory that the message holds."""
        return sum(len(data) for _, (data,) in self.files)


class DiskWriter(Actor):
    """Publishes one batch after the other: the small artifacts by its committer, large ones beside.

    It has no state but the disk, so there is nothing for a crash to lose.

    Args:
        committer: publishes small artifacts.
        store: where large ones go, from a thread.
        announce: told of each batch of what has been stored, under which keys.
        threads: for large artifacts.
        metrics: where its commits are counted.
    """

    batch_limit: ClassVar[int] = 64

    def __init__(
        self,
        committer: Committer[Publication, Published | OSError],
        store: FileStore,
        announce: Callable[[Sequence[StoredKey]], Awaitable[None]],
        threads: trio.CapacityLimiter,
        metrics: Metrics,
    ) -> None:
        self._committer = committer
        self._large: ThreadCommitter[Publication, Published | OSError] = ThreadCommitter(
            lambda batch: store.publish(batch), threads
        )
        self._root = store.root
        self._announce = announce
        self._metrics = metrics

    async def run(self, mailbox: Mailbox, started: Started) -> None:
        """Live one life, with its committer; it ends when that is lost."""
        async with supervised(self._committer):
            await super().run(mailbox, started)

    async def handle(self, batch: list[Envelope]) -> None:
        """Publish a batch; a write that fails is its sender's to hear about, and not a crash."""
        small: list[tuple[Envelope, Publish | PublishBatch]] = []
        large: list[tuple[Envelope, Publish]] = []
        for envelope in batch:
            match envelope.message:
                case Publish(source=tuple()) | PublishBatch() as message:
                    small.append((envelope, message))
                case Publish() as message:
                    large.append((envelope, message))
        if not large:
            await self._commit(self._committer, small)
        elif not small:
            await self._commit(self._large, large)
        else:
            keys = {key for _, message in small for key, _ in message.files}
            beside = [each for each in large if each[1].key not in keys]
            behind = [each for each in large if each[1].key in keys]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._commit, self._large, beside)
                await self._commit(self._committer, small)
                await self._commit(self._large, behind)

    async def _commit(
        self,
        committer: Committer[Publication, Published | OSError],
        messages: Sequence[tuple[Envelope, Publish | PublishBatch]],
    ) -> None:
        if not messages:
            return
        keys = [key for _, message in messages for key, _ in message.files]
        publications = [
            Publication(f"{self._root}/{key.place}", source)
            for _, message in messages
            for key, source in message.files
        ]
        with self._metrics.commit(Counter(key.kind.label for key in keys)):
            outcomes = await committer.commit(publications)
        answers = iter(
            [storage_error(each) if isinstance(each, OSError) else each for each in outcomes]
        )
        for envelope, message in messages:
            if isinstance(message, PublishBatch):
                envelope.reply(list(islice(answers, len(message.files))))
            elif isinstance(answer := next(answers), StorageError):
                envelope.fail(answer)
            else:
                envelope.reply(answer)
        stored = [
            StoredKey(key, on_disk(publication.size))
            for key, publication, outcome in zip(keys, publications, outcomes, strict=True)
            if outcome is Published.STORED
        ]
        if stored:
            await self._announce(stored)
