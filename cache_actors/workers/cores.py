"""The number of cores that this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
"""File with the CPU limit of this container's control group (cgroup v2): the time per period, or
`max`, and the period, in microseconds."""


def usable_cores(cpu_max: Path = CPU_MAX) -> int:
    """The number of cores in this process's affinity, limited by its control group."""
    bound_to = len(os.sched_getaffinity(0))
    try:
        quota, period = map(int, cpu_max.read_text().split())
    except (OSError, ValueError):  # no control group of version 2, or no limit
        return bound_to
    return min(bound_to, max(1, math.ceil(quota / period)))
