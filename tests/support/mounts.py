"""Small file systems of their own, for tests of what happens when one is full or broken."""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REMOUNT_SECONDS = 10


@contextmanager
def tmpfs(path: Path, options: str) -> Iterator[Path]:
    """A tmpfs at `path`; where mounting is refused, the test is skipped, or fails if CI is set."""
    path.mkdir(parents=True, exist_ok=True)
    refusal = _mount("-t", "tmpfs", "-o", options, "tmpfs", str(path))
    if refusal is not None:
        message = f"cannot mount a tmpfs: {refusal}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)  # noqa: S607


def remount(path: Path, options: str) -> None:
    """Change the options of what is mounted at `path`, as soon as no file stands in the way."""
    deadline = time.monotonic() + REMOUNT_SECONDS
    while (refusal := _mount("-o", f"remount,{options}", str(path))) is not None:
        assert time.monotonic() < deadline, refusal
        time.sleep(0.05)


def require_root() -> None:
    """Without root the test is skipped, or fails where CI is set."""
    if os.geteuid() != 0:
        message = "only root can do this"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


def _mount(*arguments: str) -> str | None:
    """None if it worked, else why it did not."""
    run = subprocess.run(
        ["mount", *arguments],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    return None if run.returncode == 0 else run.stderr.strip()
