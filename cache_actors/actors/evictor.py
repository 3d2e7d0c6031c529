"""The evictor: sees to it that the disk never fills.

It looks at the disk when writers have told it of enough bytes, and every few seconds in any case,
since others fill the disk too. Past the high watermark it has a pass run, in a process of its own:
scanning is work for a processor, and would hold up this one's requests.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import trio

from cache_actors.storage.capacity import Amount, Usage
from cache_actors.storage.errors import StorageError
from cache_actors.storage.last_eviction import last_eviction
from cache_actors.storage.quarantine import last_taken
from cache_actors.supervision import Actor, ActorStopped, Address, Cast, Envelope, MailboxFull

from .eviction_process import PassFailed, run_pass
from .threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cache_actors.storage.capacity import Capacity
    from cache_actors.storage.eviction_pass import Limits
    from cache_actors.storage.eviction_record import EvictionRecord
    from cache_actors.supervision import Mailbox, Started

LOOK_SECONDS = 5.0
"""Between two looks at the disk, at most."""

LOOK_SHARE = 0.01
"""Of the disk, or its inodes: so much stored since the last look calls for another."""

RESCAN_SHARE = 0.05
"""Of a limit of the folder's own: so much stored since the last scan calls for another, since
other processes store too."""

RESCAN_SECONDS = 3600.0
"""After which such a folder is scanned in any case."""

MEND_SECONDS = 60.0
"""Between two searches for entries whose artifacts have gone into quarantine, at least."""

HELD_SECONDS = 5.0
"""For which nginx may hold the space of files that are gone (its `open_file_cache`)."""

FRUITLESS_SECONDS = 30.0
"""After a pass over a full disk that found nothing to evict, if nothing is stored either: others
have filled it."""

RETRY_SECONDS = 5.0
"""After a pass that failed, or could not be made since another was running."""


class EvictorClient:
    """Tells the evictor of what is stored."""

    def __init__(self, evictor: Address) -> None:
        self._evictor = evictor

    async def stored(self, size: int, files: int = 1) -> None:
        """Say that files have been stored, which take `size` bytes on the disk.

        A hint: it is dropped if there are too many.
        """
        with suppress(MailboxFull, ActorStopped):
            await self._evictor.cast(Stored(size, files), wait_for_room=False)


@dataclass(frozen=True, slots=True)
class Stored(Cast):
    """So many files of `size` bytes on the disk have been stored."""

    size: int
    files: int


class Evictor(Actor):
    """Keeps a storage folder within its limits.

    Args:
        root: the storage folder.
        limits: how full it may be.
        capacity: how full it is.
        record: where what it does is noted.
        threads: for its looks at the disk.
        log: told what has been evicted, and what went wrong: the event's name and fields.
    """

    batch_limit: ClassVar[int] = 1024

    def __init__(
        self,
        root: Path,
        limits: Limits,
        capacity: Capacity,
        record: EvictionRecord,
        threads: trio.CapacityLimiter,
        log: Callable[..., object],
    ) -> None:
        self._root = root
        self._limits = limits
        self._capacity = capacity
        self._record = record
        self._threads = threads
        self._log = log
        self._stored = Amount()  # since the last look
        self._enough = Amount()  # that calls for another; no number of files is none
        self._look = trio.Event()
        self._held = _Held()

    async def run(self, mailbox: Mailbox, started: Started) -> None:
        """Live one life, with a task that looks and evicts beside the one that listens."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_within_limits)
            await super().run(mailbox, started)
            nursery.cancel_scope.cancel()

    async def handle(self, batch: list[Envelope]) -> None:
        """Count what has been stored."""
        stored = [e.message for e in batch if isinstance(e.message, Stored)]
        size = sum(message.size for message in stored)
        self._capacity.note_stored(size)
        files = self._stored.files + sum(message.files for message in stored)
        self._stored = Amount(self._stored.bytes + size, files)
        if self._stored.bytes >= self._enough.bytes or 0 < self._enough.files <= files:
            self._look.set()

    async def _keep_within_limits(self) -> None:
        while True:
            pause = LOOK_SECONDS
            try:
                if await self._look_and_evict():
                    pause = FRUITLESS_SECONDS
            except (StorageError, PassFailed) as error:
                self._record.note_failure(str(error))
                self._log("eviction_failed", reason=str(error))
                await trio.sleep(RETRY_SECONDS)
            with trio.move_on_after(pause):
                await self._look.wait()

    async def _look_and_evict(self) -> bool:
        """Look, and have a pass run if there is a reason for one.

        Returns whether the disk is full and there is nothing that may go.

        Raises:
            StorageError: the disk failed.
            PassFailed: the pass did.
        """
        self._look = trio.Event()
        self._stored = Amount()
        before, must_scan = await in_thread(self._inspect, threads=self._threads)
        self._enough = Amount(
            max(1, int(before.limit.bytes * LOOK_SHARE)), int(before.limit.files * LOOK_SHARE)
        )
        is_full = self._limits.high < 1 and self._held.without(before).share >= self._limits.high
        if not is_full and not must_scan:
            return False
        limits = self._limits if is_full else replace(self._limits, target=1.0)
        self._record.note(running=True)
        begun = self._capacity.begin_scan()
        try:
            report = await run_pass(self._root, limits)
        finally:
            self._record.note(running=False)
        if report is None:  # another process's is running
            await trio.sleep(RETRY_SECONDS)
            return False
        self._record.note_pass(report)
        self._capacity.note_scan(report.stored_bytes, begun)
        if report.artifacts or report.entries or report.folders:
            self._log("evicted", **asdict(report))
        after, _ = await in_thread(self._inspect, threads=self._threads)
        gone = Amount(report.bytes, report.artifacts + report.entries + report.folders)
        if self._limits.max_bytes is None:  # such a limit is for what has a name
            self._held.note(before.used, gone, self._stored, after.used)
        if gone:
            self._look.set()  # it may not have been enough
        return is_full and not gone

    def _inspect(self) -> tuple[Usage, bool]:
        """How full it is, and whether there is another reason for a pass."""
        last = last_eviction(self._root)
        if last != self._record.status().last:
            self._record.note(last=last)
            if last is not None:
                self._capacity.note_scan(last.stored_bytes)
        usage = self._capacity.usage()
        self._record.note(used=usage.share, high_watermark=self._limits.high)
        checked, ended = (last.entries_checked, last.ended) if last else (0.0, 0.0)
        now = time.time()
        must_mend = checked < last_taken(self._root) and ended < now - MEND_SECONDS
        is_old = self._limits.max_bytes is not None and ended < now - RESCAN_SECONDS
        return usage, must_mend or is_old or self._capacity.needs_scan(RESCAN_SHARE)


class _Held:
    """Space of evicted files that somebody still holds open: it will be free without a pass."""

    def __init__(self) -> None:
        self._amount = Amount()
        self._until = 0.0

    def note(self, before: Amount, gone: Amount, stored: Amount, after: Amount) -> None:
        """Take in what was used before and after a pass, what went, and what was stored since."""
        self._amount = Amount(
            max(0, after.bytes - (before.bytes - gone.bytes + stored.bytes)),
            max(0, after.files - (before.files - gone.files + stored.files)),
        )
        self._until = trio.current_time() + HELD_SECONDS

    def without(self, usage: Usage) -> Usage:
        """What would be used if it were free already."""
        if trio.current_time() > self._until:
            return usage
        used = Amount(
            usage.used.bytes - self._amount.bytes, max(0, usage.used.files - self._amount.files)
        )
        return Usage(used, usage.limit)
