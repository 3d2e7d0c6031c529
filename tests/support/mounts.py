"""Small file systems, for tests of full or broken ones.

Where a file system or a right is missing, the test is skipped, or fails if CI is set.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .waiting import eventually


@contextmanager
def tmpfs(path: Path, options: str) -> Iterator[Path]:
    """Mount a tmpfs with `options` at `path`."""
    path.mkdir(parents=True, exist_ok=True)
    refusal = _mount("-t", "tmpfs", "-o", options, "tmpfs", str(path))
    if refusal is not None:
        _skip(f"cannot mount a tmpfs: {refusal}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)  # noqa: S607


def remount(path: Path, options: str) -> None:
    """Change the mount options at `path`, as soon as no open file prevents that."""
    eventually(lambda: _mount("-o", f"remount,{options}", str(path)) is None)


@contextmanager
def other_device(path: Path) -> Iterator[Path]:
    """A folder on a device other than that of `path`."""
    memory = Path("/dev/shm")  # noqa: S108
    if not memory.is_dir() or memory.stat().st_dev == path.stat().st_dev:
        _skip("there is no second file system")
    with tempfile.TemporaryDirectory(prefix="cache-actors-other-", dir=memory) as folder:
        yield Path(folder)


def require_root() -> None:
    """Skip the test, or fail it if CI is set, unless root runs it."""
    if os.geteuid() != 0:
        _skip("only root can do this")


def _skip(message: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def _mount(*arguments: str) -> str | None:
    """Run `mount`, and return None on success, else its error message."""
    run = subprocess.run(
        ["mount", *arguments],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    return None if run.returncode == 0 else run.stderr.strip()
