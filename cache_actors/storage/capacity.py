"""Capacity: how full the storage is, and when that is too full.

What counts is the file system itself, whoever fills it; or, with a `max_bytes` of its own, what
the storage folder holds: what the last scan has found, and what this process has stored since.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import NoRoom, Shortage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RESERVE_SHARE = 0.01
MAX_RESERVE_BYTES = 1 << 30
MIN_RESERVE_BYTES = 1 << 20
"""Of the room, in bytes, that uploads leave alone: entries, and eviction itself, need some."""


BLOCK_BYTES = 4096
"""Size in which most disks give space to files, in bytes."""


def on_disk(size: int) -> int:
    """The bytes that a file of `size` bytes takes on the disk."""
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


@dataclass(frozen=True, slots=True)
class Amount:
    """Bytes on disk, and files."""

    bytes: int = 0
    files: int = 0

    def __bool__(self) -> bool:
        return self.bytes > 0 or self.files > 0


@dataclass(frozen=True, slots=True)
class Usage:
    """The used amount of a limit. A limit of 0 is none."""

    used: Amount
    limit: Amount

    @property
    def share(self) -> float:
        """The used share of what is scarcest, from 0 to 1 (or more, of a limit of our own)."""
        pairs = [(self.used.bytes, self.limit.bytes), (self.used.files, self.limit.files)]
        return max(used / limit if limit else 0.0 for used, limit in pairs)

    def excess(self, share: float) -> Amount:
        """The amount that has to go for no more than `share` of the limit to be used."""
        files = self.used.files - int(share * self.limit.files) if self.limit.files else 0
        return Amount(max(0, self.used.bytes - int(share * self.limit.bytes)), max(0, files))


class Capacity:
    """The room for the storage folder `root`, of which it may take `max_bytes` if that is set.

    Threads and the event loop share it.

    Attributes:
        max_bytes: that limit.
    """

    def __init__(self, root: Path, max_bytes: int | None = None) -> None:
        self._root = root
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._stored = 0  # bytes, of a limit of our own
        self._ever_stored = 0  # bytes, by this process
        self._since_scan: int | None = None  # of those; None before the first scan
        self._reserved = 0  # bytes that are about to be written

    def note_stored(self, size: int) -> None:
        """Take in that `size` more bytes have been stored."""
        with self._lock:
            self._ever_stored += size
            self._stored += size
            if self._since_scan is not None:
                self._since_scan += size

    def begin_scan(self) -> int:
        """Take in that a scan begins, and return what `note_scan` has to know of that."""
        return self._ever_stored

    def note_scan(self, size: int, begun: int | None = None) -> None:
        """Take in that a scan has found `size` bytes.

        What has been stored since it had `begun` counts too, whether or not it was seen.
        """
        with self._lock:
            self._since_scan = 0 if begun is None else self._ever_stored - begun
            self._stored = size + self._since_scan

    def forget_scan(self) -> None:
        """Take in that much has been removed, so that the last scan says nothing any more."""
        self._since_scan = None

    def needs_scan(self, share: float) -> bool:
        """Whether a limit of our own is set, and `share` of it was stored since the last scan."""
        if self.max_bytes is None:
            return False
        return self._since_scan is None or self._since_scan >= share * self.max_bytes

    def usage(self) -> Usage:
        """The usage at the moment.

        Raises:
            OSError: the disk failed.
        """
        if self.max_bytes is not None:
            return Usage(Amount(self._stored), Amount(self.max_bytes))
        room = os.statvfs(self._root)
        used = Amount(
            (room.f_blocks - room.f_bfree) * room.f_frsize,
            room.f_files - room.f_ffree if room.f_files else 0,
        )
        limit = Amount(
            used.bytes
            + room.f_bavail * room.f_frsize,  # without what is root's alone, as df has it
            used.files + room.f_favail if room.f_files else 0,
        )
        return Usage(used, limit)

    @contextmanager
    def reserve(self, size: int, files: int = 1) -> Iterator[None]:
        """Keep room for `size` bytes of uploads from other uploads, until they are written.

        Args:
            size: in bytes.
            files: how many they will be.

        Raises:
            As `check_room`.
        """
        with self._lock:
            self.check_room(size, files)
            self._reserved += size
        try:
            yield
        finally:
            with self._lock:
                self._reserved -= size

    @contextmanager
    def reserve_elsewhere(self, size: int) -> Iterator[tuple[int, int]]:
        """Speak for `size` bytes that another process writes, which looks itself whether it may.

        Yields how many bytes are stored, and are reserved by others, for it to `load_counts`.
        """
        with self._lock:
            others = self._stored, self._reserved
            self._reserved += size
        try:
            yield others
        finally:
            with self._lock:
                self._reserved -= size

    def load_counts(self, stored: int, reserved: int) -> None:
        """Take over another process's count of what is stored and reserved, in bytes."""
        with self._lock:
            self._stored, self._reserved = stored, reserved

    def check_room(self, size: int, files: int = 1) -> None:
        """Make sure that there is room for `size` bytes, in so many files, beside the reserve.

        Raises:
            NoRoom: there isn't.
            OSError: the disk failed.
        """
        size += self._reserved
        room = os.statvfs(self._root)
        reserve = min(MAX_RESERVE_BYTES, int(room.f_blocks * room.f_frsize * RESERVE_SHARE))
        reserve = max(MIN_RESERVE_BYTES, reserve)
        reserved_files = int(room.f_files * RESERVE_SHARE)
        if self.max_bytes is not None and self._stored + size > self.max_bytes:
            raise NoRoom(Shortage.LIMIT)
        if room.f_files > 0 and room.f_favail < reserved_files + files:
            raise NoRoom(Shortage.INODES)
        if room.f_bavail * room.f_frsize < size + reserve:
            raise NoRoom(Shortage.BYTES)
