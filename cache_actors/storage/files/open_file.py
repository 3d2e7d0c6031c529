"""A published file, open for reading."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from cache_actors.storage.integrity.quarantine import DAMAGE

if TYPE_CHECKING:
    from collections.abc import Callable


class OpenFile:
    """A published file, open for reading; `digest` is its SHA-256, if that is known."""

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
        self.mtime = status.st_mtime_ns // 1_000_000_000  # exact, as nginx has it
        self.digest = digest

    def read(self, start: int, size: int) -> bytes:
        """Up to `size` bytes from the offset `start`; none from the end on.

        Raises:
            OSError: the disk failed. If the bytes are lost, the file is in quarantine from then on.
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
        """Close the file. May be called again."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
