"""What storage reports to its callers. Anything else that it raises is a bug."""

from __future__ import annotations

import errno

_FULL = {errno.ENOSPC, errno.EDQUOT}


class StorageError(Exception):
    """The storage could not do what it was asked; nothing partial is left behind."""


class StorageFull(StorageError):
    """There is no room: no bytes, no inodes, or no quota left."""


def storage_error(error: OSError) -> StorageError:
    """What an operating system error means to a caller. It names no path: clients may see it."""
    reason = error.strerror or type(error).__name__
    if error.errno in _FULL:
        return StorageFull(f"The storage is full: {reason}")
    return StorageError(f"The storage failed: {reason}")
