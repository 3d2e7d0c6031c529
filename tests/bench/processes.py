"""What processes cost: the CPU time and the memory of some, and of all below them."""

import os
import resource
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

TICK = 1 / os.sysconf("SC_CLK_TCK")
"""Seconds in which the kernel counts CPU time."""


def allow_open_files(wanted: int) -> int:
    """Let what is started from now on have so many open files, and return how many it may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # only root may raise the limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def family(pid: int) -> list[int]:
    """A process and all that it has started, as far as they live."""
    members = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in task.read_text().split():
                members += family(int(child))
    return members


def cpu_seconds(pids: Iterable[int]) -> float:
    """The CPU time that processes have had so far."""
    ticks = 0
    for pid in pids:
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks * TICK


def memory_bytes(pids: Iterable[int]) -> int:
    """The memory that processes take; what several share counts once."""
    kilobytes = 0
    for pid in pids:
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    kilobytes += int(line.split()[1])
    return kilobytes * 1024
