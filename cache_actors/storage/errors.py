"""What storage reports to its callers. Anything else that it raises is a bug."""

from __future__ import annotations

import errno

FULL = {errno.ENOSPC, errno.EDQUOT}
"""Errors that say that there is no room."""

_BUSY = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


OF_THE_MOMENT = FULL | _BUSY | {errno.EIO, errno.EROFS}
"""Errors that say nothing of what a file system can do: it is full, busy, or the disk fails."""


class Unfit(OSError):
    """The storage cannot do what is needed: `strerror` says what, `advice` what to do about it."""

    def __init__(self, number: int | None, text: str, advice: str) -> None:
        super().__init__(number, text)
        self.advice = advice


class StorageError(Exception):
    """The storage could not do what it was asked; nothing partial is left behind."""


class StorageFull(StorageError):
    """There is no room: no bytes, no inodes, or no quota left."""


class StorageBusy(StorageError):
    """Not at the moment: too many files are open, or there is no memory."""


class StorageLocked(StorageBusy):
    """Not at the moment: another has the lock, and has not given it up for long."""


def storage_error(error: OSError) -> StorageError:
    """What an operating system error means to a caller. It names no path: clients may see it."""
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
