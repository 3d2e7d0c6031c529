"""On which machine something was measured, and what else that did."""

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from tempfile import gettempdir

from cache_actors.nginx.binary import nginx_version

from .plain_nginx import debian_nginx
from .results import Machine


def load_average() -> float:
    """How many processes wanted a core, on average over a minute."""
    return round(os.getloadavg()[0], 2)


LOAD_BEFORE = load_average()
"""That of the minute before the benchmark began; before a part, it would be of the one before."""


def describe(others: Mapping[str, str] | None = None) -> Machine:
    """This machine; `others` are versions of what has been measured beside the service."""
    versions = {
        "python": platform.python_version(),
        "nginx": ".".join(map(str, nginx_version(debian_nginx()))),
        "wrk": first_number(["wrk", "-v"]),
        **(others or {}),
    }
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(
        date=datetime.now(UTC).date().isoformat(),
        cores=len(os.sched_getaffinity(0)),
        processor=_processor(),
        memory_bytes=memory,
        kernel=platform.release(),
        disk=_file_system(Path(gettempdir())),
        versions=versions,
        loads=(LOAD_BEFORE, load_average()),
    )


def _processor() -> str:
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()


def first_number(command: list[str]) -> str:
    """The first number that a command prints, as its version; not one within a name, as h2load."""
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"\b\d[\w.]*", said.stdout + said.stderr)
    return found[0] if found else "?"


def _file_system(folder: Path) -> str:
    """The kind of file system that a folder lies on."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    above = [mount for mount in mounts if folder.resolve().is_relative_to(mount[1])]
    return max(above, key=lambda mount: len(mount[1]))[2]
