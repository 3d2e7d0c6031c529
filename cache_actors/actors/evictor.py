"""The evictor: sees to it that the disk never fills.

It looks at the disk when writers have told it of enough bytes, and every few seconds in any case,
since others fill the disk too. Past the high watermark it has a pass run, in a process of its own:
scanning is work for a processor, and would hold up this one's requests.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import msgspec
import trio

from cache_actors.storage.capacity import Amount, Usage
from cache_actors.storage.errors import StorageError
from cache_actors.storage.eviction.last_pass import EXIT_RUNNING, PassReport, last_eviction
from cache_actors.storage.integrity.quarantine import last_taken
from cache_actors.supervision import Actor, ActorStopped, Address, Cast, Envelope, MailboxFull
from cache_actors.transfer.disk_threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from subprocess import CompletedProcess

    from cache_actors.storage.capacity import Capacity
    from cache_actors.storage.eviction.run import Limits
    from cache_actors.storage.eviction.status import EvictionMonitor
    from cache_actors.storage.layout import StoredKey
    from cache_actors.supervision import Mailbox, Started

LOOK_SECONDS = 5.0
"""Longest pause between two checks of disk usage, in seconds."""

LOOK_SHARE = 0.01
"""Share of the disk, or of its inodes, after which usage is checked early: so much was stored since
the last check."""

RESCAN_SHARE = 0.05
"""Share of `STORAGE_MAX_BYTES` after which the folder is scanned again: so much was stored since
the last scan, by this process alone."""

RESCAN_SECONDS = 3600.0
"""Longest time between two scans of a folder with `STORAGE_MAX_BYTES`, in seconds."""

MEND_SECONDS = 60.0
"""Shortest time between two searches for entries whose artifacts went into quarantine, in
seconds."""

PENDING_FREE_SECONDS = 5.0
"""Time in seconds for which nginx may keep the space of removed files, as it has them open
(`open_file_cache`)."""

RETRY_WHEN_FULL_SECONDS = 30.0
"""Pause in seconds after a pass that found nothing to evict on a full disk: something else fills
it."""

RETRY_SECONDS = 5.0
"""Pause in seconds after a pass that failed, or that could not run beside another one."""


class EvictorClient:
    """Tells the evictor of what is stored."""

    def __init__(self, evictor: Address) -> None:
        self._evictor = evictor

    async def stored(self, batch: Sequence[StoredKey]) -> None:
        """Say what has been stored. A hint: it is dropped if there are too many."""
        with suppress(MailboxFull, ActorStopped):
            await self._evictor.cast(Stored(tuple(batch)), wait_for_room=False)


@dataclass(frozen=True, slots=True)
class Stored(Cast):
    """These have been stored."""

    batch: tuple[StoredKey, ...]


class PassFailed(Exception):
    """A pass of eviction failed; the message says why."""


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
        record: EvictionMonitor,
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
        self._held = _PendingFree()

    async def run(self, mailbox: Mailbox, started: Started) -> None:
        """Live one life, with a task that looks and evicts beside the one that listens."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_within_limits)
            await super().run(mailbox, started)
            nursery.cancel_scope.cancel()

    async def handle(self, batch: list[Envelope]) -> None:
        """Count what has been stored."""
        messages = [e.message for e in batch if isinstance(e.message, Stored)]
        sizes = [each.size for message in messages for each in message.batch]
        size = sum(sizes)
        self._capacity.note_stored(size)
        files = self._stored.files + len(sizes)
        self._stored = Amount(self._stored.bytes + size, files)
        if self._stored.bytes >= self._enough.bytes or 0 < self._enough.files <= files:
            self._look.set()

    async def _keep_within_limits(self) -> None:
        while True:
            pause = LOOK_SECONDS
            try:
                if await self._look_and_evict():
                    pause = RETRY_WHEN_FULL_SECONDS
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
        """The usage of the disk, and whether there is another reason for a pass."""
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


class _PendingFree:
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
        self._until = trio.current_time() + PENDING_FREE_SECONDS

    def without(self, usage: Usage) -> Usage:
        """The usage without the space that will be free soon."""
        if trio.current_time() > self._until:
            return usage
        used = Amount(
            usage.used.bytes - self._amount.bytes, max(0, usage.used.files - self._amount.files)
        )
        return Usage(used, usage.limit)


async def run_pass(root: Path, limits: Limits) -> PassReport | None:
    """Run a pass over the storage folder `root`; None if another one is running.

    If this is cancelled the process is ended, which it can be at any time.

    Raises:
        PassFailed: it could not be started, or failed.
    """
    command = [sys.executable, "-m", "cache_actors", "evict", "--json", f"--storage={root}"]
    command += [f"--high={limits.high * 100}", f"--target={limits.target * 100}"]
    command += [f"--parent={os.getpid()}"]
    if limits.max_bytes is not None:
        command += [f"--max-bytes={limits.max_bytes}"]
    try:
        ended: CompletedProcess[bytes] = await trio.run_process(
            command,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            process_group=0,  # a terminal's Ctrl-C is for the service, which ends the pass itself
        )
    except OSError as error:
        raise PassFailed(f"A pass could not be started: {error.strerror}") from error
    if ended.returncode == EXIT_RUNNING:
        return None
    if ended.returncode != 0:
        lines = ended.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else f"exit status {ended.returncode}"
        raise PassFailed(reason)
    return msgspec.json.decode(ended.stdout, type=PassReport)
