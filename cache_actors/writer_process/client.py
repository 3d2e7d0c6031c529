"""Committers of an actor's batches. That of a running service is a process of its own."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Generic, Protocol, Self, TypeVar

import trio

from cache_actors.actor_process.client import ActorProcess, ProcessDied
from cache_actors.storage.entries import EntryWrite, MissingArtifact
from cache_actors.storage.files.store import FileStore, Publication, Published
from cache_actors.storage.recovery import Recovered

from .protocol import (
    ArtifactItem,
    CommitResponse,
    Done,
    EntryItem,
    Failed,
    Missing,
    PublishRequest,
    PutRequest,
    WriterConfig,
    decode_recovered,
    decode_response,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from cache_actors.storage.files.temporary import TemporaryFile

COMMAND: tuple[str, ...] = (sys.executable, "-P", "-m", "cache_actors.writer_process")
"""Command that runs the process; its configuration is one more argument. `-P` has it import
nothing from the working directory."""

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
Given = TypeVar("Given", contravariant=True)
Found = TypeVar("Found", covariant=True)


class Committer(Protocol[Given, Found]):
    """Commits batches, while it is entered as a context manager."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...

    async def commit(self, batch: Sequence[Given]) -> Sequence[Found]:
        """Commit a batch and return each item's outcome."""

    async def watch(self) -> None:
        """Never return.

        Raises:
            ProcessDied: they can do nothing any more.
        """


@asynccontextmanager
async def supervised(committer: Committer[Given, Found]) -> AsyncGenerator[None, None]:
    """Enter `committer`, and watch it meanwhile: what is done inside ends as soon as it is lost.

    Raises:
        ProcessDied: they are.
    """
    lost: ExceptionGroup[ProcessDied] | None = None
    try:
        async with committer, trio.open_nursery() as nursery:
            nursery.start_soon(committer.watch)
            yield
            nursery.cancel_scope.cancel()
    except* ProcessDied as errors:  # a batch may have noticed it at the same time
        lost = errors
    if lost is not None:  # raised in `except*`, it would be in a group before Python 3.11.4
        raise ProcessDied("the process that commits is gone") from lost


class ThreadCommitter(Generic[Item, Outcome]):
    """Commits in a thread of this process, by calling `action` with the batch."""

    def __init__(
        self, action: Callable[[Sequence[Item]], Sequence[Outcome]], threads: trio.CapacityLimiter
    ) -> None:
        self._action = action
        self._threads = threads

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """There is nothing to release."""

    async def commit(self, batch: Sequence[Item]) -> Sequence[Outcome]:
        """Commit a batch and return each item's outcome."""
        return await trio.to_thread.run_sync(self._action, batch, limiter=self._threads)

    async def watch(self) -> None:
        """Never return: threads are not lost."""
        await trio.sleep_forever()


class WriterProcess(ActorProcess):
    """One process that commits, from when it is entered until it is left.

    Args:
        store: of which it is given a twin.
        synced: told how many seconds each of its syncs took.
        require_artifacts: whether it refuses entries whose artifacts are missing.
        recovered: called with what a recovery has done, if the logs held something, and when:
            at its `start`, or while it was `running`, after a checkpoint that failed.
    """

    def __init__(
        self,
        store: FileStore,
        synced: Callable[[float], None],
        *,
        require_artifacts: bool = True,
        recovered: Callable[[Recovered, str], None] = lambda _, __: None,
    ) -> None:
        super().__init__()
        self._store = store
        self._synced = synced
        self._require_artifacts = require_artifacts
        self._recovered = recovered

    async def __aenter__(self) -> Self:
        """Start it, and wait until it is ready.

        Raises:
            ProcessDied: it ended instead.
            OSError: it could not be started.
        """
        await self.start(COMMAND, self._config)
        try:
            self._tell(await self.receive(decode_recovered), "start")
        except BaseException:
            await self.end(kill=True)
            raise
        return self

    def _config(self, channel: int) -> WriterConfig:
        return WriterConfig(
            channel,
            str(self._store.root),
            self._store.durable,
            self._store.capacity.max_bytes,
            self._require_artifacts,
        )

    async def __aexit__(self, *error: object) -> None:
        """Have it end: at once if something went wrong, and within seconds in any case."""
        await self.end(kill=error[0] is not None)

    async def ask(self, batch: PublishRequest | PutRequest, size: int) -> CommitResponse:
        """Have a batch of `size` items committed.

        Raises:
            ProcessDied: the process is gone, or talks nonsense; nobody knows how far it got.
        """
        await self.send(batch)
        report = await self.receive(decode_response)
        if len(report.outcomes) != size:
            raise ProcessDied("not as many outcomes as items")
        for seconds in report.syncs:
            self._synced(seconds)
        self._tell(report.recovered, "running")
        return report

    def _tell(self, recovered: Recovered, when: str) -> None:
        if recovered != Recovered():
            self._recovered(recovered, when)


class ArtifactWriterProcess(WriterProcess):
    """Publishes small artifacts."""

    async def commit(self, batch: Sequence[Publication]) -> list[Published | OSError]:
        """Publish a batch, and note in the store how it went."""
        files = [ArtifactItem(item.path, _pieces(item.source)) for item in batch]
        store, size = self._store, sum(item.size for item in batch)
        with (
            store.publishing({item.path for item in batch}),
            store.capacity.reserve_elsewhere(size) as others,
        ):
            report = await self.ask(PublishRequest(files, *others), len(batch))
        outcomes = [_published(each) for each in report.outcomes]
        store.health.note([each for each in outcomes if each is not Published.EXISTS])
        return outcomes


class EntryWriterProcess(WriterProcess):
    """Stores entries."""

    async def commit(
        self, batch: Sequence[EntryWrite]
    ) -> list[str | MissingArtifact | OSError | None]:
        """Store a batch, and note in the store how it went."""
        report = await self.ask(PutRequest([_line(write) for write in batch]), len(batch))
        outcomes = [_put(each) for each in report.outcomes]
        # Entries may use the reserve: that they can be written does not say that artifacts can.
        self._store.health.note([each for each in outcomes if isinstance(each, OSError)])
        return outcomes


def _pieces(source: Sequence[bytes] | TemporaryFile) -> tuple[bytes, ...]:
    assert isinstance(source, tuple), "a temporary file stays in its process"  # noqa: S101
    return source


def _line(write: EntryWrite) -> EntryItem:
    project = write.key.project
    return EntryItem(
        project.account,
        project.name,
        write.key.id,
        write.body,
        tuple(write.artifacts),
        write.key.kind.folder,
    )


def _published(outcome: Done | Missing | Failed) -> Published | OSError:
    if isinstance(outcome, Failed):
        return outcome.error()
    try:
        return Published(outcome.text if isinstance(outcome, Done) else None)
    except ValueError as error:
        raise ProcessDied(f"not how an artifact is published: {outcome}") from error


def _put(outcome: Done | Missing | Failed) -> str | MissingArtifact | OSError | None:
    match outcome:
        case Failed():
            return outcome.error()
        case Missing():
            return MissingArtifact(outcome.artifact_id)
    return outcome.text
