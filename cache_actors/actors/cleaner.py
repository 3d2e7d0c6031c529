"""The cleaner: moves a project's files to the trash, and empties the trash little by little.

The move is quick, and done before a clean is answered. Emptying the trash may take minutes, and
goes on after a crash or a restart, since the trash is on disk.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import trio

from cache_actors.storage.errors import StorageError
from cache_actors.storage.known_cleans import note_clean
from cache_actors.storage.trash import Removed, clean, empty_trash
from cache_actors.supervision import Actor, Address, Call, Envelope
from cache_actors.transfer.disk_threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cache_actors.metrics.registry import Metrics
    from cache_actors.storage.files.store import FileStore
    from cache_actors.storage.layout import Project
    from cache_actors.supervision import Mailbox, Started

FILES_PER_STEP = 64
"""Number of files that one call of a thread removes, which takes some milliseconds."""

CHECK_TRASH_SECONDS = 60.0
"""Longest pause between two checks of the trash, in seconds, for files of killed processes."""


class CleanerClient:
    """Cleans projects."""

    def __init__(self, cleaner: Address) -> None:
        self._cleaner = cleaner

    async def clean(self, project: Project) -> None:
        """Move all stored files of `project` to the trash; on return they are gone for good.

        Raises:
            StorageError: a folder cannot be moved to the trash, and stays.
            ActorError: the cleaner is overloaded, or did not answer.
        """
        await self._cleaner.call(Clean(project))


@dataclass(frozen=True, slots=True)
class Clean(Call[None]):
    """Move all stored files of `project` to the trash."""

    project: Project


class Cleaner(Actor):
    """Cleans projects of a `store`, and keeps its trash empty.

    Args:
        store: the file store.
        metrics: metrics to count in.
        threads: limit on threads for disk access.
        log: logs cleans and failures, with the event's name and fields.
        is_shared: whether other nodes have the same projects, in a bucket.
    """

    batch_limit: ClassVar[int] = 16

    def __init__(
        self,
        store: FileStore,
        metrics: Metrics,
        threads: trio.CapacityLimiter,
        log: Callable[..., object],
        *,
        is_shared: bool = False,
    ) -> None:
        self._store = store
        self._is_shared = is_shared
        self._metrics = metrics
        self._threads = threads
        self._log = log
        self._look = trio.Event()

    async def run(self, mailbox: Mailbox, started: Started) -> None:
        """Run one incarnation: one task reads the mailbox, another empties the trash."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_empty)
            await super().run(mailbox, started)
            nursery.cancel_scope.cancel()

    async def handle(self, batch: list[Envelope]) -> None:
        """Clean projects, one after the other."""
        for envelope in batch:
            if isinstance(message := envelope.message, Clean):
                try:
                    was_there = await in_thread(self._clean, message.project, threads=self._threads)
                except StorageError as error:
                    envelope.fail(error)
                else:
                    self._metrics.cleaned_projects.inc(was_there)
                    self._log("project_cleaned", project=str(message.project), stored=was_there)
                    envelope.reply(None)
        self._look.set()

    def _clean(self, project: Project) -> bool:
        if self._is_shared:  # first of all, so that nothing comes back from the bucket
            note_clean(self._store.root, project, time.time_ns(), durable=self._store.durable)
        return clean(self._store.root, project, durable=self._store.durable)

    async def _keep_empty(self) -> None:
        while True:
            self._look = trio.Event()
            try:
                await self._empty()
            except StorageError as error:
                self._log("clean_failed", reason=str(error))
            with trio.move_on_after(CHECK_TRASH_SECONDS):
                await self._look.wait()

    async def _empty(self) -> None:
        """Empty the trash, resting as long as each step took, so that other disk access goes on."""
        files, gone = empty_trash(self._store.root), Removed()
        try:
            while True:
                begun = trio.current_time()
                removed = await in_thread(_advance, files, threads=self._threads)
                if not removed.files:
                    return
                self._metrics.cleaned(removed.files, removed.bytes)
                gone += removed
                await trio.sleep(trio.current_time() - begun)
        finally:
            if gone.files:
                self._store.capacity.forget_scan()
                self._log("trash_emptied", files=gone.files, bytes=gone.bytes)


def _advance(files: Iterator[Removed]) -> Removed:
    return sum(itertools.islice(files, FILES_PER_STEP), Removed())
