"""Storage errors: all that callers of the storage have to handle; any other exception is a bug."""

from __future__ import annotations

import errno
import os
from enum import StrEnum

FULL = {errno.ENOSPC, errno.EDQUOT}
"""Error numbers of a disk or quota that has no room."""

_BUSY = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


OF_THE_MOMENT = FULL | _BUSY | {errno.EIO, errno.EROFS}
"""Error numbers of a full, busy or failing disk, which prove no lack of a file system feature."""


class Shortage(StrEnum):
    """The resource that a full storage has too little of."""

    BYTES = "bytes"
    """Bytes on the disk, in excess of the reserve (`Capacity.check_room`)."""

    INODES = "inodes"
    """Inodes on the disk, in excess of the reserve (`Capacity.check_room`)."""

    LIMIT = "limit"
    """Bytes within `STORAGE_MAX_BYTES`."""

    QUOTA = "quota"
    """The user's disk quota: a write failed with EDQUOT."""

    DISK = "disk"
    """Bytes or inodes: a write failed with ENOSPC."""


class NoRoom(OSError):
    """A check before writing found no room; `shortage` is the resource that is missing."""

    def __init__(self, shortage: Shortage) -> None:
        super().__init__(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.shortage = shortage


class Unfit(OSError):
    """The file system lacks a needed feature: `strerror` names it, `advice` is for the operator."""

    def __init__(self, number: int | None, text: str, advice: str) -> None:
        super().__init__(number, text)
        self.advice = advice


class StorageError(Exception):
    """A storage operation failed; nothing partial is left behind."""


class StorageFull(StorageError):
    """The storage has no room."""

    @property
    def shortage(self) -> Shortage:
        """The resource that the storage has too little of."""
        cause = self.__cause__
        if isinstance(cause, NoRoom):
            return cause.shortage
        over_quota = isinstance(cause, OSError) and cause.errno == errno.EDQUOT
        return Shortage.QUOTA if over_quota else Shortage.DISK


class StorageBusy(StorageError):
    """The process or the machine has no file descriptor or memory left at the moment."""


class StorageLocked(StorageBusy):
    """A lock on a project or an upload is held by somebody else (EBUSY)."""


def storage_error(error: OSError) -> StorageError:
    """The storage error for an operating system error, without a path, since clients may see it."""
    reason = error.strerror or type(error).__name__
    kind, what = StorageError, "failed"
    if error.errno in FULL:
        kind, what = StorageFull, "is full"
    elif error.errno in _BUSY:
        kind, what = StorageBusy, "is busy"
    elif error.errno == errno.EBUSY:
        kind, what = StorageLocked, "is busy"
    meaning = kind(f"The storage {what}: {reason}")
    meaning.__cause__ = error
    return meaning
