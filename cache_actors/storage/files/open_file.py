"""A published file, open for reading."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from cache_actors.storage.integrity.quarantine import DAMAGE

if TYPE_CHECKING:
    from collections.abc import Callable


class OpenFile:
    """A published file, open for reading.

    Attributes:
        size: bytes.
        mtime: modification time, in whole seconds since the epoch.
        digest: SHA-256; None if none is recorded.
    """

    __slots__ = ("_fd", "_quarantine", "digest", "mtime", "size")

    def __init__(
        self,
        fd: int,
        status: os.stat_result,
        digest: bytes | None,
        quarantine: Callable[[], object],
    ) -> None:
        self._fd = fd
        self._quarantine = quarantine
        self.size = status.st_size
        self.mtime = status.st_mtime_ns // 1_000_000_000  # exact, for the same ETag as nginx's
        self.digest = digest

    def read(self, start: int, size: int) -> bytes:
        """Read up to `size` bytes from the offset `start`; none at the end of the file.

        Raises:
            OSError: the disk failed. A file whose bytes are lost is moved to quarantine.
        """
        try:
            piece = os.pread(self._fd, size, start)
        except OSError as error:
            if error.errno in DAMAGE:
                self._quarantine()
            raise
        if not piece and start < self.size:
            self._quarantine()
            raise OSError(errno.EIO, "an artifact is shorter than it was")
        return piece

    def close(self) -> None:
        """Close the file; further calls do nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
