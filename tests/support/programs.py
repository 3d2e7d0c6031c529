"""Programs, and a library, that tests need and that may be missing."""

import ctypes
import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn

import pytest


def find_program(name: str) -> str:
    """The path of a program; without it the test is skipped, or fails where CI is set."""
    path = shutil.which(name)
    if path is None:
        _skip(f"{name} is not installed")
    return path


def require_library(name: str) -> None:
    """Without a library that a program loads, as with a program that is missing."""
    try:
        ctypes.CDLL(name)
    except OSError:
        _skip(f"{name} is not installed")


def _skip(message: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def find_script(name: str) -> str:
    """The path of a program that comes with a Python package, beside the Python that runs this."""
    return find_program(str(Path(sys.executable).with_name(name)))
