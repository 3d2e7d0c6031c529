"""The evictor: keeps the disk from filling up.

The evictor checks the disk's usage when writers have stored enough bytes, and every few seconds
besides, since others fill the disk too. Above the high watermark it starts a pass of eviction in
a separate process, since a scan takes CPU time and would delay this one's requests.
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

CHECK_USAGE_SECONDS = 5.0
"""Longest pause between two checks of disk usage, in seconds."""

CHECK_USAGE_SHARE = 0.01
"""Share of the disk's bytes or inodes that, stored since the last check, triggers an early one."""

RESCAN_SHARE = 0.05
"""Share of `STORAGE_MAX_BYTES` that, stored by this process since the last scan, triggers one."""

RESCAN_SECONDS = 3600.0
"""Longest time between two scans of a folder with `STORAGE_MAX_BYTES`, in seconds."""

MEND_SECONDS = 60.0
"""Shortest time between two searches for entries of quarantined artifacts, in seconds."""

PENDING_FREE_SECONDS = 5.0
"""Time in seconds for which nginx may hold the space of removed files (`open_file_cache`)."""

RETRY_WHEN_FULL_SECONDS = 30.0
"""Pause in seconds after a pass that found nothing to evict on a full disk, as others fill it."""

RETRY_PASS_SECONDS = 5.0
"""Pause in seconds after a pass that failed, or that found another one running."""


class EvictorClient:
    """Reports stored files to the evictor."""

    def __init__(self, evictor: Address) -> None:
        self._evictor = evictor

    async def stored(self, batch: Sequence[StoredKey]) -> None:
        """Report stored files; the report is a hint, and is dropped if the mailbox is full."""
        with suppress(MailboxFull, ActorStopped):
            await self._evictor.cast(Stored(tuple(batch)), wait_for_room=False)


@dataclass(frozen=True, slots=True)
class Stored(Cast):
    """Files have been stored under these keys."""

    batch: tuple[StoredKey, ...]


class PassFailed(Exception):
    """A pass of eviction failed; the message has the reason."""


class Evictor(Actor):
    """Keeps a storage folder within its limits.

    Args:
        root: the storage folder.
        limits: limits on the usage.
        capacity: usage of the folder.
        monitor: status of eviction to update.
        threads: limit on threads for disk access.
        log: logs passes and failures, with the event's name and fields.
        dropped: called with the number of files that a pass has evicted and no bucket has.
    """

    batch_limit: ClassVar[int] = 1024

    def __init__(
        self,
        root: Path,
        limits: Limits,
        capacity: Capacity,
        monitor: EvictionMonitor,
        threads: trio.CapacityLimiter,
        log: Callable[..., object],
        dropped: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._root = root
        self._dropped = dropped
        self._limits = limits
        self._capacity = capacity
        self._monitor = monitor
        self._threads = threads
        self._log = log
        self._stored = Amount()  # since the last check
        self._enough = Amount()  # stored since then, triggers the next one; 0 files is unlimited
        self._look = trio.Event()
        self._held = _PendingFree()

    async def run(self, mailbox: Mailbox, started: Started) -> None:
        """Run one incarnation: one task reads the mailbox, another checks usage and evicts."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_within_limits)
            await super().run(mailbox, started)
            nursery.cancel_scope.cancel()

    async def handle(self, batch: list[Envelope]) -> None:
        """Count stored files, and trigger a check if there are enough."""
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
            pause = CHECK_USAGE_SECONDS
            try:
                if await self._look_and_evict():
                    pause = RETRY_WHEN_FULL_SECONDS
            except (StorageError, PassFailed) as error:
                self._monitor.note_failure(str(error))
                self._log("eviction_failed", reason=str(error))
                await trio.sleep(RETRY_PASS_SECONDS)
            with trio.move_on_after(pause):
                await self._look.wait()

    async def _look_and_evict(self) -> bool:
        """Check the usage, and run a pass if there is a reason for one.

        Returns whether the high watermark is exceeded and a pass has found nothing to evict.

        Raises:
            StorageError: the disk failed.
            PassFailed: the pass failed.
        """
        self._look = trio.Event()
        self._stored = Amount()
        before, must_scan = await in_thread(self._inspect, threads=self._threads)
        self._enough = Amount(
            max(1, int(before.limit.bytes * CHECK_USAGE_SHARE)),
            int(before.limit.files * CHECK_USAGE_SHARE),
        )
        is_full = self._limits.high < 1 and self._held.without(before).share >= self._limits.high
        if not is_full and not must_scan:
            return False
        limits = self._limits if is_full else replace(self._limits, target=1.0)
        self._monitor.note(running=True)
        begun = self._capacity.begin_scan()
        try:
            report = await run_pass(self._root, limits)
        finally:
            self._monitor.note(running=False)
        if report is None:  # another process runs one
            await trio.sleep(RETRY_PASS_SECONDS)
            return False
        self._monitor.note_pass(report)
        if report.dropped:
            self._dropped(report.dropped)
        self._capacity.note_scan(report.stored_bytes, begun)
        if report.artifacts or report.entries or report.folders:
            self._log("evicted", **asdict(report))
        after, _ = await in_thread(self._inspect, threads=self._threads)
        gone = Amount(report.bytes, report.artifacts + report.entries + report.folders)
        if self._limits.max_bytes is None:  # max_bytes counts no removed files that are open
            self._held.note(before.used, gone, self._stored, after.used)
        if gone:
            self._look.set()  # it may not have been enough
        return is_full and not gone

    def _inspect(self) -> tuple[Usage, bool]:
        """The current usage, and whether there is a reason for a pass other than that."""
        last = last_eviction(self._root)
        if last != self._monitor.status().last:
            self._monitor.note(last=last)
            if last is not None:
                self._capacity.note_scan(last.stored_bytes)
        usage = self._capacity.usage()
        self._monitor.note(used=usage.share, high_watermark=self._limits.high)
        checked, ended = (last.entries_checked, last.ended) if last else (0.0, 0.0)
        now = time.time()
        must_mend = checked < last_taken(self._root) and ended < now - MEND_SECONDS
        is_old = self._limits.max_bytes is not None and ended < now - RESCAN_SECONDS
        return usage, must_mend or is_old or self._capacity.needs_scan(RESCAN_SHARE)


class _PendingFree:
    """Space of evicted files that nginx still has open, and that becomes free without a pass."""

    def __init__(self) -> None:
        self._amount = Amount()
        self._until = 0.0

    def note(self, before: Amount, gone: Amount, stored: Amount, after: Amount) -> None:
        """Compute the pending space of a pass that removed `gone`.

        `before` and `after` are the usage before and after the pass, `stored` what was stored
        meanwhile.
        """
        self._amount = Amount(
            max(0, after.bytes - (before.bytes - gone.bytes + stored.bytes)),
            max(0, after.files - (before.files - gone.files + stored.files)),
        )
        self._until = trio.current_time() + PENDING_FREE_SECONDS

    def without(self, usage: Usage) -> Usage:
        """The usage without the pending space."""
        if trio.current_time() > self._until:
            return usage
        used = Amount(
            usage.used.bytes - self._amount.bytes, max(0, usage.used.files - self._amount.files)
        )
        return Usage(used, usage.limit)


async def run_pass(root: Path, limits: Limits) -> PassReport | None:
    """Run a pass over the storage folder `root` in a process; None if another pass is running.

    Cancellation ends the process, which leaves the storage consistent.

    Raises:
        PassFailed: the process could not be started, or failed.
    """
    command = [sys.executable, "-P", "-m", "cache_actors", "evict", "--json", f"--storage={root}"]
    command += [f"--high={limits.high * 100}", f"--target={limits.target * 100}"]
    command += [f"--parent={os.getpid()}"]
    if limits.max_bytes is not None:
        command += [f"--max-bytes={limits.max_bytes}"]
    if limits.bucket is not None:
        command += [f"--bucket={limits.bucket}", f"--share-entries={limits.share_entries}"]
    try:
        ended: CompletedProcess[bytes] = await trio.run_process(
            command,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            process_group=0,  # on a terminal's Ctrl-C the service ends the pass itself
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
