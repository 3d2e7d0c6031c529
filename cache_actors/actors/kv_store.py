"""The key-value store: entries and actions, which can be replaced, with the recent ones in memory.

An entry is the exact body of the response that retrieves it, and its file is what nginx serves.
Files are the truth: other processes replace and remove them at any time, so an entry in memory
counts only while its file's fingerprint is the same.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import trio

from cache_actors.storage.capacity import on_disk
from cache_actors.storage.entries import EntryWrite, MissingArtifact, has_blobs
from cache_actors.storage.errors import storage_error
from cache_actors.storage.files.commit import attempt
from cache_actors.storage.files.store import FileStore, Lookup, Version
from cache_actors.storage.layout import Key, StoredKey
from cache_actors.supervision import Actor, Address, Call, Envelope
from cache_actors.writer_process.client import supervised

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from cache_actors.metrics.registry import Metrics
    from cache_actors.storage.layout import Project
    from cache_actors.supervision import Mailbox, Owner, Started, Turns
    from cache_actors.writer_process.client import Committer

ENTRY_OVERHEAD = 600
"""Bytes that an entry costs in memory beside its body: path, fingerprint, places in tables."""


CHECKED_AT_ONCE = 64
"""Largest number of an action's blobs that are looked for with it: looking takes 20 µs for each,
while others wait."""

MTIME_STABLE_NS = 100_000_000
"""Age of a version, in nanoseconds, from which its fingerprint is certain to be its own; kernels'
clocks for files tick every 10 ms at the slowest."""


class KeyValueStoreClient:
    """Retrieves and stores key-value entries.

    Args:
        store: the address of the key-value store.
        root: the storage folder.
        turns: of what is stored.
        shared: called with the key of what has been stored, before its client hears of it.
    """

    def __init__(
        self,
        store: Address,
        root: Path,
        turns: Turns,
        shared: Callable[[Key], Awaitable[None]] | None = None,
    ) -> None:
        self._store = store
        self._root = root
        self._turns = turns
        self._shared = shared

    async def get(self, key: Key) -> bytes | None:
        """The body stored for `key`, or None.

        Raises:
            StorageError: the file could not be read.
            ActorError: the store is overloaded, or did not answer.
        """
        return await self._store.call(Get(f"{self._root}/{key.place}"))

    async def get_action(self, key: Key) -> bytes | None:
        """The content of the file of an action, or None if one of its blobs is missing.

        Only the first `CHECKED_AT_ONCE` blobs have been looked for, and are in use from now on. The
        caller has to look for the others (`ArtifactReader.missing`).

        Raises:
            As `get`.
        """
        return await self._store.call(Get(f"{self._root}/{key.place}", key.project))

    async def put_action(self, key: Key, content: bytes, owner: Owner = ()) -> None:
        """Store an action, in place of what there was; it is there to stay on return.

        Args:
            key: which action.
            content: that of its file (`storage/actions.py`).
            owner: whose turn it takes; the project's, unless it is said.

        Raises:
            MissingArtifact: one of its blobs does not exist; nothing has been stored.
            StorageError, ActorError: as `put`.
        """
        async with self._turns.turn(owner or (key.project,)):
            await self._store.call(Put(key, content, frozenset()))
        if self._shared is not None:
            await self._shared(key)

    async def put(
        self, key: Key, body: bytes, artifacts: frozenset[str], owner: Owner = ()
    ) -> str | None:
        """Store `body` for `key`, in place of what there was; it is there to stay on return.

        Args:
            key: which entry.
            body: what retrieves it answers.
            artifacts: the ids of those that it refers to. They are in use from now on.
            owner: whose turn it takes; the project's, unless it is said.

        Returns the id of one of them that does not exist, where that is allowed.

        Raises:
            MissingArtifact: one of them does not exist; nothing has been stored.
            StorageError: the storage is full, or failed.
            ActorError: the store is overloaded, or did not answer.
        """
        async with self._turns.turn(owner or (key.project,)):
            missing = await self._store.call(Put(key, body, artifacts))
        if self._shared is not None:
            await self._shared(key)
        return missing


@dataclass(frozen=True, slots=True)
class Get(Call[bytes | None]):
    """Retrieve the body at `path`, of an action if its `project` is given."""

    path: str
    project: Project | None = None


@dataclass(frozen=True, slots=True)
class Put(Call[str | None]):
    """Store `body` for `key`, which refers to `artifacts`."""

    key: Key
    body: bytes = field(repr=False)
    artifacts: frozenset[str] = field(repr=False)

    @property
    def weight(self) -> int:
        """Bytes of memory that the message holds."""
        return len(self.body)


class KeyValueStore(Actor):
    """Works through batches: the reads in one trip to a thread, then the writes by its committer.

    Whoever waits for a write has not been told yet, so reads may go first.

    Args:
        store: where the files are.
        committer: writes them.
        announce: told of each batch of what has been stored, under which keys.
        memory_bytes: how much memory the recent entries may take.
        threads: for reads.
        metrics: where its commits are counted.
    """

    batch_limit: ClassVar[int] = 256

    def __init__(
        self,
        store: FileStore,
        committer: Committer[EntryWrite, str | MissingArtifact | OSError | None],
        announce: Callable[[Sequence[StoredKey]], Awaitable[None]],
        memory_bytes: int,
        threads: trio.CapacityLimiter,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._committer = committer
        self._announce = announce
        self._recent = _Recent(memory_bytes)
        self._threads = threads
        self._metrics = metrics

    async def run(self, mailbox: Mailbox, started: Started) -> None:
        """Live one life, with its committer; it ends when that is lost."""
        async with supervised(self._committer):
            await super().run(mailbox, started)

    async def handle(self, batch: list[Envelope]) -> None:
        """Handle reads and writes; one that the disk fails is its sender's to hear about."""
        gets = [(e, e.message) for e in batch if isinstance(e.message, Get)]
        puts = [(e, e.message) for e in batch if isinstance(e.message, Put)]
        if gets:
            await self._get(gets)
        if puts:
            await self._put(puts)

    async def _get(self, gets: list[tuple[Envelope, Get]]) -> None:
        lookups = [Lookup(get.path, self._recent.get(get.path)) for _, get in gets]
        projects = [get.project for _, get in gets]
        found = await trio.to_thread.run_sync(self._load, lookups, projects, limiter=self._threads)
        for (envelope, get), result in zip(gets, found, strict=True):
            if isinstance(result, OSError):
                envelope.fail(storage_error(result))
            else:
                version, has_its_blobs = result
                self._recent.keep(get.path, version)
                envelope.reply(version.data if version and has_its_blobs else None)

    def _load(
        self, lookups: Sequence[Lookup], projects: Sequence[Project | None]
    ) -> list[tuple[Version | None, bool] | OSError]:
        """The version at each path, and whether the blobs of an action are there; in a thread."""
        versions = self._store.load(lookups)
        return [
            version
            if isinstance(version, OSError)
            else attempt(partial(self._with_blobs, project), version)
            for version, project in zip(versions, projects, strict=True)
        ]

    def _with_blobs(
        self, project: Project | None, version: Version | None
    ) -> tuple[Version | None, bool]:
        if project is None or version is None:
            return version, True
        return version, has_blobs(self._store, project, version.data, CHECKED_AT_ONCE)

    async def _put(self, puts: list[tuple[Envelope, Put]]) -> None:
        writes = [EntryWrite(put.key, put.body, put.artifacts) for _, put in puts]
        with self._metrics.commit(Counter(put.key.kind.label for _, put in puts)):
            outcomes = await self._committer.commit(writes)
        stored: list[StoredKey] = []
        for (envelope, put), outcome in zip(puts, outcomes, strict=True):
            self._recent.keep(f"{self._store.root}/{put.key.place}", None)
            match outcome:
                case OSError():
                    envelope.fail(storage_error(outcome))
                case MissingArtifact():
                    envelope.fail(outcome)
                case missing:
                    envelope.reply(missing)
                    stored.append(StoredKey(put.key, on_disk(len(put.body))))
        if stored:
            await self._announce(stored)


class _Recent:
    """The entries used last, as many as fit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._versions: OrderedDict[str, Version] = OrderedDict()

    def get(self, path: str) -> Version | None:
        """The version in memory, which may be out of date."""
        return self._versions.get(path)

    def keep(self, path: str, version: Version | None) -> None:
        """Take in what the disk says of `path` now.

        A version that is only just there is not kept: with a coarse clock, the next one could have
        the same time, and its file the same number and size.
        """
        self._forget(path)
        if version is None or time.time_ns() - version.fingerprint.mtime_ns < MTIME_STABLE_NS:
            return
        self._versions[path] = version
        self._size += len(version.data) + ENTRY_OVERHEAD
        while self._size > self._limit:
            self._forget(next(iter(self._versions)))

    def _forget(self, path: str) -> None:
        version = self._versions.pop(path, None)
        if version is not None:
            self._size -= len(version.data) + ENTRY_OVERHEAD
