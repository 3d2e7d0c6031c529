"""Access times: a test of whether reads update them, which eviction needs."""

from __future__ import annotations

import os
import time
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_DAY_NS = 86_400_000_000_000


class AtimePolicy(Enum):
    """How often reads update a file's access time."""

    ALWAYS = "at every read"
    ONCE_A_DAY = "relatime"
    NEVER = "noatime, or a view that is read-only"


def atime_policy_of(path: Path, read: Callable[[], object]) -> AtimePolicy:
    """The policy for the file at `path`, found by setting its access time and reading it.

    With `relatime` a read leaves an access time in the future, and updates one of two days ago.

    Args:
        path: the file, which must belong to this user.
        read: reads the file, through the mount or server under test.

    Raises:
        OSError: the file does not exist, or belongs to another user.
    """

    def moves_from(accessed: int) -> bool:
        os.utime(path, ns=(accessed, path.stat().st_mtime_ns))
        before = path.stat().st_atime_ns
        read()
        return path.stat().st_atime_ns != before

    if moves_from(time.time_ns() + _DAY_NS):
        return AtimePolicy.ALWAYS
    return AtimePolicy.ONCE_A_DAY if moves_from(time.time_ns() - 2 * _DAY_NS) else AtimePolicy.NEVER
