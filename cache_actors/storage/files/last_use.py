"""When a file was used last, as the file system itself knows it.

nginx's reads move access times, where the mount allows that. What uses a file without reading it
moves them by hand (`touch`): the modification time stays as it is, since it is in nginx's ETag.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

WRONG_CLOCK_NS = 86_400_000_000_000
"""Distance in nanoseconds from which a time in the future is that of a wrong clock."""


def last_use(status: os.stat_result) -> int:
    """When a file was used last, in nanoseconds since the epoch: read, touched or written."""
    return max(status.st_atime_ns, status.st_mtime_ns)


def touch(fd: int, status: os.stat_result, when: int, tolerance: int = 0) -> None:
    """Note that the open file `fd`, of that status, was used at `when` (nanoseconds).

    Unless it was used since, or no more than `tolerance` (nanoseconds) before. Times that only a
    wrong clock can have set are put right, both: else no use could be noted ever after.

    Raises:
        OSError: the disk failed, or the file belongs to somebody else.
    """
    used = last_use(status)
    if used > when + WRONG_CLOCK_NS:
        os.utime(fd, ns=(when, min(when, status.st_mtime_ns)))
    elif used < when - tolerance:
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
    except OSError as error:
        error.filename = str(path)  # of a descriptor nobody knows what it was
        raise
    finally:
        os.close(fd)
    return True
