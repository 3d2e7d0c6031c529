"""Errors of storage, as its callers see them. Anything else that it raises is a bug."""

from __future__ import annotations

import errno

FULL = {errno.ENOSPC, errno.EDQUOT}
"""Errors that say that there is no room."""

_BUSY = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EBUSY}


class StorageError(Exception):
    """The storage could not do what it was asked; nothing partial is left behind."""


class StorageFull(StorageError):
    """There is no room: no bytes, no inodes, or no quota left."""


class StorageBusy(StorageError):
    """Not at the moment: too many files are open, there is no memory, or another has the lock."""


def storage_error(error: OSError) -> StorageError:
    """The storage error for an operating system error. It names no path: clients may see it."""
    reason = error.strerror or type(error).__name__
    kind, what = StorageError, "failed"
    if error.errno in FULL:
        kind, what = StorageFull, "is full"
    elif error.errno in _BUSY:
        kind, what = StorageBusy, "is busy"
    meaning = kind(f"The storage {what}: {reason}")
    meaning.__cause__ = error
    return meaning
