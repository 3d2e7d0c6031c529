"""Programs that tests need and that may be missing."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest


def find_program(name: str) -> str:
    """The path of a program; without it the test is skipped, or fails where CI is set."""
    path = shutil.which(name)
    if path is None:
        message = f"{name} is not installed"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path


def find_script(name: str) -> str:
    """The path of a program that comes with a Python package, beside the Python that runs this."""
    return find_program(str(Path(sys.executable).with_name(name)))
