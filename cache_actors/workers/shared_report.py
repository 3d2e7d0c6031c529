"""The latest report of a process, in shared memory that other processes may read at any time."""

from __future__ import annotations

import os
import struct
import zlib

SLOT_BYTES = 4 * 1024 * 1024
"""Size of a slot, in bytes: the largest report with its head. Only bytes written take memory."""

ATTEMPTS = 5
"""Number of attempts to read a report, as both slots may be replaced during one of them."""

_HEAD = struct.Struct("=QQL")  # number of the report, its length, its CRC-32


class SharedReport:
    """The latest report of one writer, for readers in any process.

    Writer and readers never wait for each other. Reports go to two slots in turn, with a number and
    a checksum: while one is being written, or if its writer died meanwhile, the other is whole.

    Args:
        fd: the descriptor of an existing shared report; without it, a new one is made.
    """

    def __init__(self, fd: int | None = None) -> None:
        self.fd = os.memfd_create("cache-actors-report") if fd is None else fd
        self._number = max(number for number, _, _ in self._heads())

    def write(self, report: bytes) -> None:
        """Replace the report with `report`.

        Raises:
            ValueError: `report` is larger than a slot.
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
        """Remove the reports of a writer that has ended."""
        os.ftruncate(self.fd, 0)

    def close(self) -> None:
        """Close this process's descriptor."""
        os.close(self.fd)

    def _heads(self) -> list[tuple[int, int, int]]:
        heads = (os.pread(self.fd, _HEAD.size, slot * SLOT_BYTES) for slot in (0, 1))
        return [_HEAD.unpack(head.ljust(_HEAD.size, b"\0")) for head in heads]
