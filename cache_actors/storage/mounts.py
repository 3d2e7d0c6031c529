"""File systems, as the kernel's table of mounts names them."""

from __future__ import annotations

import os
from pathlib import Path


def file_system_at(path: Path) -> str:
    """The kind of file system that `path` lies on, such as ext4; empty if that is not known.

    Raises:
        OSError: there is no such path.
    """
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, file_system = line.partition(" - ")
        if mount.split()[2] == wanted:
            return file_system.split()[0]
    return ""
