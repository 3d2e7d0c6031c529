"""The number of cores for this process."""

from __future__ import annotations

import math
import os
from pathlib import Path

CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
"""File with the CPU limit of the control group: microseconds of CPU time, or `max`, and the period
that they are of. In a container, the file at this path is its own."""


def usable_cores(cpu_max: Path = CPU_MAX) -> int:
    """The cores that this process may use: those it is bound to, at most what its group may."""
    bound_to = len(os.sched_getaffinity(0))
    try:
        quota, period = map(int, cpu_max.read_text().split())
    except (OSError, ValueError):  # no such file, or no limit
        return bound_to
    return min(bound_to, max(1, math.ceil(quota / period)))
