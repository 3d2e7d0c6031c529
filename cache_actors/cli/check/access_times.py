"""Access times: whether reads of a file update them, as eviction needs."""

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
    """When reads move a file's access time."""

    ALWAYS = "at every read"
    ONCE_A_DAY = "relatime"
    NEVER = "noatime, or a view that is read-only"


def atime_policy_of(path: Path, read: Callable[[], object]) -> AtimePolicy:
    """Try it on the file at `path`, which belongs to this user.

    With `relatime` the kernel believes in a time in the future, and corrects one of two days ago.

    Args:
        path: the file.
        read: reads it, on the way that is to be tried.

    Raises:
        OSError: the file is not there, or not this user's.
    """

    def moves_from(accessed: int) -> bool:
        os.utime(path, ns=(accessed, path.stat().st_mtime_ns))
        before = path.stat().st_atime_ns
        read()
        return path.stat().st_atime_ns != before

    if moves_from(time.time_ns() + _DAY_NS):
        return AtimePolicy.ALWAYS
    return AtimePolicy.ONCE_A_DAY if moves_from(time.time_ns() - 2 * _DAY_NS) else AtimePolicy.NEVER
