"""Opening what is whole: a file, with bytes, as many as have been recorded.

What is not that is put in quarantine wherever it is met, to make place for another.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from .checksum import read_checksum
from .quarantine import DAMAGE, Quarantine

if TYPE_CHECKING:
    from .checksum import StoredChecksum

_NOTHING = {errno.ENOENT, errno.ENOTDIR}
_NOT_A_FILE = {errno.ELOOP, errno.ENXIO}  # a link, a socket
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class ValidFiles:
    """Files that are whole; others go to `quarantine`."""

    def __init__(self, quarantine: Quarantine) -> None:
        self._quarantine = quarantine

    def open(self, path: str | Path) -> tuple[int, os.stat_result, StoredChecksum | None] | None:
        """The file at `path` as a descriptor, its status and its record; None if none is whole.

        Raises:
            OSError: it could not be opened, and that says nothing about the file.
        """
        try:
            fd = os.open(path, _FLAGS)
        except OSError as error:
            if error.errno in _NOTHING:
                return None
            if error.errno not in _NOT_A_FILE | DAMAGE:
                raise
            self.quarantine(path)
            return None
        try:
            status = os.fstat(fd)
            record = read_checksum(fd)
        except OSError as error:
            os.close(fd)
            if error.errno not in DAMAGE:
                raise
            self.quarantine(path)
            return None
        is_file = stat.S_ISREG(status.st_mode) and status.st_size > 0
        if is_file and (record is None or record.size == status.st_size):
            return fd, status, record
        self.quarantine(path, status.st_ino)
        os.close(fd)  # not before: the number of a file that nobody holds may be used again
        return None

    def quarantine(self, path: str | Path, inode: int | None = None) -> None:
        """Put a broken file in quarantine; one that cannot be moved is left to the next reader."""
        path = Path(path)
        with suppress(OSError):
            self._quarantine.take(path, path.lstat().st_ino if inode is None else inode)
