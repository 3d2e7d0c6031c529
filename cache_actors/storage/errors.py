"""Errors of storage, as its callers see them. Anything else that it raises is a bug."""

from __future__ import annotations

import errno
import os
from enum import StrEnum

FULL = {errno.ENOSPC, errno.EDQUOT}
"""Errors that say that there is no room."""

_BUSY = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


OF_THE_MOMENT = FULL | _BUSY | {errno.EIO, errno.EROFS}
"""Errors that say nothing of what a file system can do: it is full, busy, or the disk fails."""


class Shortage(StrEnum):
    """What there is too little of, when the storage is full."""

    BYTES = "bytes"
    """Bytes on the disk, beside the reserve."""

    INODES = "inodes"
    """Inodes on the disk, beside the reserve."""

    LIMIT = "limit"
    """Bytes of `STORAGE_MAX_BYTES`."""

    QUOTA = "quota"
    """The user's quota, as the kernel says (EDQUOT)."""

    DISK = "disk"
    """Bytes or inodes, as the kernel says when something is written (ENOSPC)."""


class NoRoom(OSError):
    """There is no room, as was found before anything was written; it lacks `shortage`."""

    def __init__(self, shortage: Shortage) -> None:
        super().__init__(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.shortage = shortage


class Unfit(OSError):
    """The storage cannot do what is needed: `strerror` says what, `advice` what to do about it."""

    def __init__(self, number: int | None, text: str, advice: str) -> None:
        super().__init__(number, text)
        self.advice = advice


class StorageError(Exception):
    """The storage could not do what it was asked; nothing partial is left behind."""


class StorageFull(StorageError):
    """There is no room."""

    @property
    def shortage(self) -> Shortage:
        """What there is too little of."""
        cause = self.__cause__
        if isinstance(cause, NoRoom):
            return cause.shortage
        over_quota = isinstance(cause, OSError) and cause.errno == errno.EDQUOT
        return Shortage.QUOTA if over_quota else Shortage.DISK


class StorageBusy(StorageError):
    """Not at the moment: too many files are open, or there is no memory."""


class StorageLocked(StorageBusy):
    """Not at the moment: another has the lock, and has not given it up for long."""


def storage_error(error: OSError) -> StorageError:
    """The storage error for an operating system error. It names no path: clients may see it."""
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
