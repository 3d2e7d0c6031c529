"""The last use of a file, recorded in its access time by the file system.

nginx's reads update the access time, if the mount allows that. A use without a read sets it
(`touch`) and leaves the modification time, which is part of nginx's ETag.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

WRONG_CLOCK_NS = 86_400_000_000_000
"""Nanoseconds into the future beyond which a timestamp must come from a wrong clock: a day."""


def last_use(status: os.stat_result) -> int:
    """The time of the last read, touch or write of a file, in nanoseconds since the epoch."""
    return max(status.st_atime_ns, status.st_mtime_ns)


def touch(fd: int, status: os.stat_result, when: int, tolerance: int = 0) -> None:
    """Set the access time of the open file `fd` to `when`, unless its last use is late enough.

    Timestamps from a wrong clock are corrected, both of them, or no later use could be recorded.

    Args:
        fd: descriptor of the file.
        status: status of the file.
        when: time of the use, in nanoseconds since the epoch.
        tolerance: nanoseconds by which the recorded last use may be earlier than `when`.

    Raises:
        OSError: the disk failed, or the file belongs to somebody else.
    """
    used = last_use(status)
    if used > when + WRONG_CLOCK_NS:
        os.utime(fd, ns=(when, min(when, status.st_mtime_ns)))
    elif used < when - tolerance:
        os.utime(fd, ns=(when, status.st_mtime_ns))


def touch_path(path: str | Path, when: int) -> bool:
    """Touch the file at `path` (see `touch`), and return whether it exists.

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
        error.filename = str(path)  # the error of a descriptor has no path
        raise
    finally:
        os.close(fd)
    return True
