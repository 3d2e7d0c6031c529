"""A process's latest report in shared memory, which other processes may read at any time."""

from __future__ import annotations

import os
import struct
import zlib

SLOT_BYTES = 4 * 1024 * 1024
"""Largest report, in bytes. Memory is taken for what has been written, not for this."""

ATTEMPTS = 5
"""Number of attempts to read a report: both slots may be replaced meanwhile."""

_HEAD = struct.Struct("=QQL")  # number of the report, its length, its CRC-32


class SharedReport:
    """Holds one report, by one writer, for any number of readers in any process.

    Neither waits for the other, whatever becomes of it. Reports go to two slots in turn, with a
    number and a checksum: while one is being written, or if its writer died over that, the other
    is still whole.

    Args:
        fd: an existing shared report's descriptor; without one, a new shared report is made.
    """

    def __init__(self, fd: int | None = None) -> None:
        self.fd = os.memfd_create("cache-actors-report") if fd is None else fd
        self._number = max(number for number, _, _ in self._heads())

    def write(self, report: bytes) -> None:
        """Write `report` in place of the one before.

        Raises:
            ValueError: it is larger than a slot.
        """
        if _HEAD.size + len(report) > SLOT_BYTES:
            raise ValueError(f"a report of {len(report)} bytes does not fit")
        self._number += 1
        head = _HEAD.pack(self._number, len(report), zlib.crc32(report))
        os.pwrite(self.fd, head + report, self._number % 2 * SLOT_BYTES)

    def read(self) -> bytes | None:
        """The latest report, or None if there is none."""
        for _ in range(ATTEMPTS):
            for number, length, checksum in sorted(self._heads(), reverse=True):
                report = os.pread(self.fd, length, number % 2 * SLOT_BYTES + _HEAD.size)
                if number and zlib.crc32(report) == checksum:
                    return report
        return None

    def clear(self) -> None:
        """Remove what the writer has written: it is gone."""
        os.ftruncate(self.fd, 0)

    def close(self) -> None:
        """Close this process's descriptor."""
        os.close(self.fd)

    def _heads(self) -> list[tuple[int, int, int]]:
        heads = (os.pread(self.fd, _HEAD.size, slot * SLOT_BYTES) for slot in (0, 1))
        return [_HEAD.unpack(head.ljust(_HEAD.size, b"\0")) for head in heads]
