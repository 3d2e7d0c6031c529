"""When a file was used last, as the file system itself knows it.

nginx's reads move access times, where the mount allows that. What uses a file without reading it
moves them by hand (`touch`): the modification time stays as it is, since it is in nginx's ETag.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def last_use(status: os.stat_result) -> int:
    """When a file was used last, in nanoseconds since the epoch: read, touched or written."""
    return max(status.st_atime_ns, status.st_mtime_ns)


def touch(fd: int, status: os.stat_result, when: int) -> None:
    """Note that the open file `fd`, of that status, was used at `when`, unless it was used since.

    Raises:
        OSError: the disk failed, or the file belongs to somebody else.
    """
    if last_use(status) < when:
        os.utime(fd, ns=(when, status.st_mtime_ns))


def touch_path(path: str | Path, when: int) -> bool:
    """Touch the file at `path`; False if there is none.

    Raises:
        OSError: the disk failed, or the file belongs to somebody else.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        touch(fd, os.fstat(fd), when)
    finally:
        os.close(fd)
    return True
