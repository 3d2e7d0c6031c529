"""The replicator: has what is stored put into the bucket, by a process of its own.

It forwards what it is told to the process, and keeps the books of what that reports. A process that
dies, or says nothing for long, is replaced after a pause, and begins with a walk over the disk. So
nothing that goes wrong with the bucket, or with what is sent there, reaches the rest of the tree.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import trio

from cache_actors.actor_process.client import ActorProcess, ProcessDied
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

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cache_actors.metrics.registry import Metrics
    from cache_actors.s3.status import SharedMonitor
    from cache_actors.storage.layout import Key, StoredKey
    from cache_actors.supervision import Mailbox, Started

COMMAND: tuple[str, ...] = (sys.executable, "-P", "-m", "cache_actors.replicator_process")
"""Command that runs the process; its configuration is one more argument."""

MAX_UNSENT = 20_000
"""Largest number of announced files that wait for the process to take them."""

SILENCE_SECONDS = 60.0
"""Time in seconds without a report after which the process counts as dead; it reports each second.
"""

RESTART_SECONDS = 1.0
"""Pause in seconds before a process that has died is replaced; it doubles each time."""

MAX_RESTART_SECONDS = 60.0
"""Longest such pause, and the life after which a process counts as sound."""

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
        if self._wait == 0 or self._monitor.status().fails or not self._is_wanted(key):
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
        self._config = config
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
            nursery.start_soon(self._keep_process)
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

    async def _keep_process(self) -> None:
        """Run one process after the other."""
        pause = RESTART_SECONDS
        while True:
            began = trio.current_time()
            reason = await self._run_process()
            self._monitor.note("unreachable", f"the process that sends has ended: {reason}")
            self._log("replicator_process_died", reason=reason)
            for place in list(self._pending):
                self._settle(place)
            if trio.current_time() - began > MAX_RESTART_SECONDS:
                pause = RESTART_SECONDS
            await trio.sleep(pause)
            pause = min(2 * pause, MAX_RESTART_SECONDS)

    async def _run_process(self) -> str:
        """Run a process until it dies, and return the reason."""
        process = ActorProcess()
        try:
            await process.start(COMMAND, self._config)
        except OSError as error:
            return str(error.strerror)
        reason = ""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(process.watch)
                nursery.start_soon(self._feed, process)
                await self._listen(process)
        except* ProcessDied as errors:
            reason = str(errors.exceptions[0])
        finally:
            await process.end(kill=bool(reason))
        return reason

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

    async def _listen(self, process: ActorProcess) -> None:
        """Take in what the process reports."""
        while True:
            with trio.move_on_after(SILENCE_SECONDS) as silence:
                self._note(await process.receive(decode_report))
            if silence.cancelled_caught:
                raise ProcessDied("it says nothing")

    def _note(self, report: Report) -> None:
        if self._monitor.note(report.state, report.reason):
            self._log("shared_state", state=report.state, reason=report.reason)
        self._monitor.note_backlog(report.files, report.bytes, report.oldest)
        if not self._monitor.complete:
            self._told.set()
        for request in report.requests:
            self._metrics.shared_requested(request.operation, request.outcome, request.seconds)
        for file in report.finished:
            if file.lag is not None and file.is_shared:
                self._metrics.replicated(file.lag)
            if file.reason is not None:
                self._log("replication_failed", path=file.place, reason=file.reason)
            self._settle(file.place)
        for line in report.troubles:
            self._log("replication_failed", reason=line)
        if self._monitor.status().fails:  # nobody is held up for longer
            for place in list(self._waiting):
                self._settle(place)

    def _settle(self, place: str) -> None:
        """Answer those who wait for a file."""
        self._pending.discard(place)
        for envelope in self._waiting.pop(place, ()):
            envelope.reply(None)
