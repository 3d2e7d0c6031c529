"""Checksums of stored files: SHA-256 and size, recorded in an extended attribute.

The attribute is set before the file gets its name, so that no file is ever seen without it. Its 40
bytes fit into an ext4 inode of 256 bytes; text would take another disk block for every file. File
systems without such attributes (tmpfs before Linux 6.6, some network file systems) store files
without a checksum: those can be read, but later damage to them goes unnoticed.

With a bucket (`s3/`), a file that has been put there gets a *mark* in the same attribute: when, and
into which bucket. That makes 48 bytes, and up to 60 would fit into the inode; an attribute of its
own would take a disk block for every file. What follows the mark is for later versions. A version
without marks reads a file with one as if it had no checksum: it serves the file, but does not
notice damage to it.
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
_MARK = struct.Struct(">II")
_UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOSYS}
_MISSING = _UNSUPPORTED | {errno.ENODATA, errno.ENOENT, errno.ENOTDIR, errno.EPERM}


@dataclass(frozen=True, slots=True)
class Mark:
    """A mark on a file that is in a bucket.

    Attributes:
        put: time of the last put, in whole seconds since the epoch.
        target: the number of the bucket and prefix (`BucketConfig.target`).
    """

    put: int
    target: int


@dataclass(frozen=True, slots=True)
class StoredChecksum:
    """A file's SHA-256, its size in bytes, and its mark, if it was ever put into a bucket."""

    digest: bytes
    size: int
    mark: Mark | None = None


def write_checksum(fd: int, record: StoredChecksum) -> None:
    """Record checksum and mark of the open file `fd`, if the file system has such attributes.

    Raises:
        OSError: the disk failed, or has no room for the attribute.
    """
    value = _FORM.pack(record.digest, record.size)
    if record.mark is not None:
        value += _MARK.pack(record.mark.put, record.mark.target)
    try:
        os.setxattr(fd, ATTRIBUTE, value)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


def read_checksum(file: int | str | Path) -> StoredChecksum | None:
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
    has_mark = len(value) >= _FORM.size + _MARK.size
    if len(value) != _FORM.size and not has_mark:
        return None
    mark = Mark(*_MARK.unpack_from(value, _FORM.size)) if has_mark else None
    digest, size = _FORM.unpack_from(value)
    return StoredChecksum(digest, size, mark)


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
