"""Checksums of stored files: SHA-256 and size, recorded in an extended attribute.

The attribute is set before the file gets its name, so that no file is ever seen without it. Its 40
bytes fit into an ext4 inode of 256 bytes; text would take another disk block for every file. File
systems without such attributes (tmpfs before Linux 6.6, some network file systems) store files
without a checksum: those can be read, but later damage to them goes unnoticed.
"""

from __future__ import annotations

import errno
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

ATTRIBUTE = "user.cache_actors"
_FORM = struct.Struct(">32sQ")
_UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOSYS}
_MISSING = _UNSUPPORTED | {errno.ENODATA, errno.ENOENT, errno.ENOTDIR, errno.EPERM}


@dataclass(frozen=True, slots=True)
class StoredChecksum:
    """A file's SHA-256, and its size in bytes."""

    digest: bytes
    size: int


def write_checksum(fd: int, record: StoredChecksum) -> None:
    """Record the checksum of the open file `fd`, if the file system has extended attributes.

    Raises:
        OSError: the disk failed, or has no room for the attribute.
    """
    try:
        os.setxattr(fd, ATTRIBUTE, _FORM.pack(record.digest, record.size))
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


def read_checksum(file: int | Path) -> StoredChecksum | None:
    """The recorded checksum of a file, or None; a symbolic link is not followed.

    Raises:
        OSError: the disk failed.
    """
    try:
        value = os.getxattr(file, ATTRIBUTE, follow_symlinks=isinstance(file, int))
    except OSError as error:
        if error.errno in _MISSING:
            return None
        raise
    return StoredChecksum(*_FORM.unpack(value)) if len(value) == _FORM.size else None


def has_checksums(folder: Path) -> bool:
    """Whether the file system of `folder` can record checksums.

    Raises:
        OSError: the disk failed.
    """
    try:
        os.getxattr(folder, ATTRIBUTE)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return False
        if error.errno not in _MISSING:
            raise
    return True
