"""Validation of stored files: the definition of a broken file, shared by readers and the scrub.

A file is valid if it is a regular file, is not empty, and has the recorded size and SHA-256. The
SHA-256 is checked by scrubs, all else whenever a file is opened. A broken file is moved to
quarantine when it is found, so that its key can be stored again.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from .checksum import read_checksum
from .quarantine import DAMAGE, Quarantine

if TYPE_CHECKING:
    from .checksum import StoredChecksum

_GONE = {errno.ENOENT, errno.ENOTDIR}
_NOT_A_FILE = {errno.ELOOP, errno.ENXIO}  # a link, a socket
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Fault(Enum):
    """A fault of a stored file."""

    NOT_A_FILE = "is not a file"
    EMPTY = "is empty"
    SIZE = "has another size than recorded"
    DIGEST = "has other bytes than recorded"
    FORM = "is not an entry"
    UNREADABLE = "cannot be read"


def open_or_fault(path: str | Path, more_flags: int = 0) -> int | Fault | None:
    """Open the file at `path`, and return its descriptor, its fault, or None if there is no file.

    Raises:
        OSError: the file could not be opened, for a reason that is no fault of the file.
    """
    try:
        return os.open(path, _FLAGS | more_flags)
    except OSError as error:
        if error.errno in _GONE:
            return None
        if error.errno in _NOT_A_FILE:
            return Fault.NOT_A_FILE
        if error.errno in DAMAGE:
            return Fault.UNREADABLE
        raise


def fault_of(status: os.stat_result, recorded: StoredChecksum | None) -> Fault | None:
    """The fault of a file that its status and recorded checksum show, or None."""
    if not stat.S_ISREG(status.st_mode):
        return Fault.NOT_A_FILE
    if status.st_size == 0:
        return Fault.EMPTY
    return None if recorded is None or recorded.size == status.st_size else Fault.SIZE


class ValidFiles:
    """Opens valid files, and moves broken ones to `quarantine`."""

    def __init__(self, quarantine: Quarantine) -> None:
        self._quarantine = quarantine

    def open(self, path: str | Path) -> tuple[int, os.stat_result, StoredChecksum | None] | None:
        """The descriptor, status and checksum of the file at `path`; None if missing or broken.

        Raises:
            OSError: the file could not be opened, for a reason that is no fault of the file.
        """
        fd = open_or_fault(path)
        if fd is None:
            return None
        if isinstance(fd, Fault):
            self.quarantine(path)
            return None
        try:
            status = os.fstat(fd)
            recorded = read_checksum(fd)
        except OSError as error:
            os.close(fd)
            if error.errno not in DAMAGE:
                raise
            self.quarantine(path)
            return None
        if fault_of(status, recorded) is None:
            return fd, status, recorded
        self.quarantine(path, status.st_ino)
        os.close(fd)  # not before: the inode number of a closed, removed file may be reused
        return None

    def quarantine(self, path: str | Path, inode: int | None = None) -> None:
        """Move a broken file to quarantine; one that cannot be moved is left to the next reader."""
        path = Path(path)
        with suppress(OSError):
            self._quarantine.take(path, path.lstat().st_ino if inode is None else inode)
