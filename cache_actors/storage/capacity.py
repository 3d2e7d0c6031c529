"""Capacity: the usage of the storage, and the check for room before each write.

Without `max_bytes` the usage is that of the file system, by all users. With `max_bytes` it is
that of the storage folder: the bytes that the last scan found, and those stored since.
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
"""Smallest reserve, in bytes. Uploads leave the reserve free for entries and eviction: it is
`RESERVE_SHARE` of the file system, and at most `MAX_RESERVE_BYTES`."""


BLOCK_BYTES = 4096
"""Allocation unit of most file systems, in bytes."""


def on_disk(size: int) -> int:
    """Disk usage, in bytes, of a file of `size` bytes."""
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


@dataclass(frozen=True, slots=True)
class Amount:
    """An amount of storage: bytes on disk, and files."""

    bytes: int = 0
    files: int = 0

    def __bool__(self) -> bool:
        return self.bytes > 0 or self.files > 0


@dataclass(frozen=True, slots=True)
class Usage:
    """The amount used and its limit; 0 bytes or files as a limit means unlimited."""

    used: Amount
    limit: Amount

    @property
    def share(self) -> float:
        """The used share of bytes or of files, whichever is larger; above 1 only of `max_bytes`."""
        pairs = [(self.used.bytes, self.limit.bytes), (self.used.files, self.limit.files)]
        return max(used / limit if limit else 0.0 for used, limit in pairs)

    def excess(self, share: float) -> Amount:
        """The amount to remove until at most `share` of the limit is used."""
        files = self.used.files - int(share * self.limit.files) if self.limit.files else 0
        return Amount(max(0, self.used.bytes - int(share * self.limit.bytes)), max(0, files))


class Capacity:
    """The usage of the storage folder `root` and the room left for it; safe to use from threads.

    Attributes:
        max_bytes: limit on the folder's bytes; None for the file system's own.
    """

    def __init__(self, root: Path, max_bytes: int | None = None) -> None:
        self._root = root
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._stored = 0  # bytes that count towards max_bytes
        self._ever_stored = 0  # bytes, by this process
        self._since_scan: int | None = None  # bytes, by this process; None before the first scan
        self._reserved = 0  # bytes that are about to be written

    def note_stored(self, size: int) -> None:
        """Count `size` bytes that have been stored."""
        with self._lock:
            self._ever_stored += size
            self._stored += size
            if self._since_scan is not None:
                self._since_scan += size

    def begin_scan(self) -> int:
        """Begin a scan, and return the mark that `note_scan` takes as `begun`."""
        return self._ever_stored

    def note_scan(self, size: int, begun: int | None = None) -> None:
        """Record that a scan found `size` bytes.

        Bytes stored since the mark `begun` are added, whether or not the scan saw them.
        """
        with self._lock:
            self._since_scan = 0 if begun is None else self._ever_stored - begun
            self._stored = size + self._since_scan

    def forget_scan(self) -> None:
        """Invalidate the last scan, as after large removals."""
        self._since_scan = None

    def needs_scan(self, share: float) -> bool:
        """Whether `max_bytes` is set, and no scan is valid or `share` of it was stored since."""
        if self.max_bytes is None:
            return False
        return self._since_scan is None or self._since_scan >= share * self.max_bytes

    def usage(self) -> Usage:
        """The current usage.

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
            + room.f_bavail * room.f_frsize,  # without blocks reserved for root, as in df
            used.files + room.f_favail if room.f_files else 0,
        )
        return Usage(used, limit)

    @contextmanager
    def reserve(self, size: int, files: int = 1) -> Iterator[None]:
        """Reserve room for `size` bytes in `files` files until the context ends.

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
        """Reserve `size` bytes, unchecked, for another process that checks for room itself.

        Yields the bytes stored and those reserved by others, for that process to `load_counts`.
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
        """Replace the counts of stored and reserved bytes by those of another process."""
        with self._lock:
            self._stored, self._reserved = stored, reserved

    def check_room(self, size: int, files: int = 1) -> None:
        """Check that there is room for `size` bytes in `files` files, in excess of the reserve.

        Raises:
            NoRoom: the disk or `max_bytes` has too little room.
            OSError: the disk failed.
        """
        room = os.statvfs(self._root)
        reserve = min(MAX_RESERVE_BYTES, int(room.f_blocks * room.f_frsize * RESERVE_SHARE))
        reserve = max(MIN_RESERVE_BYTES, reserve)
        reserved_files = int(room.f_files * RESERVE_SHARE)
        self.check_limit(size)
        if room.f_files > 0 and room.f_favail < reserved_files + files:
            raise NoRoom(Shortage.INODES)
        if room.f_bavail * room.f_frsize < size + self._reserved + reserve:
            raise NoRoom(Shortage.BYTES)

    def check_limit(self, size: int) -> None:
        """Check that `max_bytes` leaves room for `size` bytes, whether or not the disk does.

        Raises:
            NoRoom: it does not.
        """
        if self.max_bytes is not None and self._stored + self._reserved + size > self.max_bytes:
            raise NoRoom(Shortage.LIMIT)
