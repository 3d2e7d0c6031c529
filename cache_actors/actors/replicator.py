"""The replicator: has what is stored put into the bucket, by a process of its own.

It forwards what it is told to the process, and keeps the books of what that reports. A process that
is replaced (`bucket_process.py`) begins with a walk over the disk. So nothing that goes wrong with
the bucket, or with what is sent there, reaches the rest of the tree.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import trio

from cache_actors.replicator_process.protocol import (
    Announcement,
    ReplicatorConfig,
    Report,
    StoredFile,
    decode_report,
)
from cache_actors.supervision import (
    Actor,
    ActorError,
    ActorStopped,
    Address,
    Call,
    Cast,
    Envelope,
    MailboxFull,
)

from .bucket_process import BucketProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cache_actors.actor_process.client import ActorProcess
    from cache_actors.metrics.registry import Metrics
    from cache_actors.s3.status import SharedMonitor
    from cache_actors.storage.layout import Key, StoredKey
    from cache_actors.supervision import Mailbox, Started

COMMAND: tuple[str, ...] = (sys.executable, "-P", "-m", "cache_actors.replicator_process")
"""Command that runs the process; its configuration is one more argument."""

MAX_UNSENT = 20_000
"""Largest number of announced files that wait for the process to take them."""

FLUSH_SECONDS = 1.0
"""Time for which a stop waits until the process has taken what was announced, in seconds."""


class ReplicatorClient:
    """Reports stored files to the replicator, and waits until they are in the bucket.

    Args:
        replicator: the address of the replicator.
        monitor: the status of the bucket.
        entries: whether entries go there.
        wait: longest wait in seconds; 0 to never wait.
    """

    def __init__(
        self, replicator: Address, monitor: SharedMonitor, *, entries: bool, wait: float
    ) -> None:
        self._replicator = replicator
        self._monitor = monitor
        self._entries = entries
        self._wait = wait

    async def stored(self, batch: Sequence[StoredKey]) -> None:
        """Report stored files; what the mailbox has no room for is found by a walk."""
        wanted = tuple(each for each in batch if self._is_wanted(each.key))
        if wanted:
            try:
                await self._replicator.cast(StoredFiles(wanted), wait_for_room=False)
            except (MailboxFull, ActorStopped):
                self._monitor.complete = False

    async def shared(self, key: Key) -> None:
        """Wait until the file of `key`, which was reported as stored, is in the bucket.

        The wait has its limit, and there is none while the bucket is known to fail.
        """
        if self._wait == 0 or self._monitor.fails("replicator") or not self._is_wanted(key):
            return
        with trio.move_on_after(self._wait), suppress(ActorError):
            await self._replicator.call(AwaitShared(key))

    def _is_wanted(self, key: Key) -> bool:
        return self._entries or not key.kind.refers


@dataclass(frozen=True, slots=True)
class StoredFiles(Cast):
    """Files have been stored under these keys."""

    batch: tuple[StoredKey, ...]


@dataclass(frozen=True, slots=True)
class AwaitShared(Call[None]):
    """Wait until the file of `key` is in the bucket, or is not going to be soon."""

    key: Key


class Replicator(Actor):
    """Has what is stored put into the bucket.

    Args:
        config: makes the configuration of the process of its descriptor.
        monitor: the status of the bucket to update.
        metrics: where requests are counted.
        log: logs changes of the state and trouble, with the event's name and fields.
    """

    batch_limit: ClassVar[int] = 1024

    def __init__(
        self,
        config: Callable[[int], ReplicatorConfig],
        monitor: SharedMonitor,
        metrics: Metrics,
        log: Callable[..., object],
    ) -> None:
        self._process = BucketProcess(
            "replicator", COMMAND, config, decode_report, monitor, metrics, log
        )
        self._monitor = monitor
        self._metrics = metrics
        self._log = log
        self._unsent: list[StoredFile] = []
        self._told = trio.Event()
        self._taken = trio.Event()
        self._pending: set[str] = set()  # places of which the process has to report
        self._waiting: defaultdict[str, list[Envelope]] = defaultdict(list)

    async def run(self, mailbox: Mailbox, started: Started) -> None:
        """Run one incarnation: one task reads the mailbox, another keeps a process running."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._process.keep, self._use, self._settle_all)
            await super().run(mailbox, started)
            with trio.move_on_after(FLUSH_SECONDS):
                while self._unsent:
                    await self._taken.wait()
            nursery.cancel_scope.cancel()

    async def handle(self, batch: list[Envelope]) -> None:
        """Pass on what is stored, and note who waits for it."""
        for envelope in batch:
            match envelope.message:
                case StoredFiles(stored):
                    for each in stored:
                        self._announce(StoredFile(each.key.place, each.size))
                case AwaitShared(key):
                    if key.place in self._pending:
                        self._waiting[key.place].append(envelope)
                    else:
                        envelope.reply(None)

    def _announce(self, file: StoredFile) -> None:
        if len(self._unsent) >= MAX_UNSENT:
            self._monitor.complete = False
            return
        self._unsent.append(file)
        self._pending.add(file.place)
        self._told.set()

    def _settle_all(self) -> None:
        """Answer all who wait: the process has ended, and the next one does not know of it."""
        for place in list(self._pending):
            self._settle(place)

    async def _use(self, process: ActorProcess) -> None:
        """Talk to a process until it dies."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(process.watch)
            nursery.start_soon(self._feed, process)
            while True:
                self._note(await self._process.next_report(process))

    async def _feed(self, process: ActorProcess) -> None:
        """Tell the process what is stored."""
        while True:
            await self._told.wait()
            self._told = trio.Event()
            files, complete = self._unsent.copy(), self._monitor.complete
            self._monitor.complete = True
            await process.send(Announcement(files, complete))
            del self._unsent[: len(files)]
            self._taken.set()
            self._taken = trio.Event()

    def _note(self, report: Report) -> None:
        self._process.note(report.bucket)
        self._monitor.note_backlog(report.files, report.bytes, report.oldest)
        if not self._monitor.complete:
            self._told.set()
        for file in report.finished:
            if file.lag is not None and file.is_shared:
                self._metrics.replicated(file.lag)
            if file.reason is not None:
                self._log("replication_failed", path=file.place, reason=file.reason)
            waiting = self._waiting.get(file.place, [])
            if file.reason is None or all(each.abandoned for each in waiting):
                self._settle(file.place)  # else it is tried again soon, and may be in time
        for line in report.troubles:
            self._log("replication_failed", reason=line)
        if self._monitor.fails("replicator"):  # nobody is held up for longer
            for place in list(self._waiting):
                self._settle(place)

    def _settle(self, place: str) -> None:
        """Answer those who wait for a file."""
        self._pending.discard(place)
        for envelope in self._waiting.pop(place, ()):
            envelope.reply(None)
