"""Programs and libraries that tests need; without one, a test is skipped, or fails if CI is set."""

import ctypes
import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn

import pytest


def find_program(name: str) -> str:
    """The path of the program `name`."""
    path = shutil.which(name)
    if path is None:
        _skip(f"{name} is not installed")
    return path


def require_library(name: str) -> None:
    """Require the shared library `name`, which a program loads."""
    try:
        ctypes.CDLL(name)
    except OSError:
        _skip(f"{name} is not installed")


def _skip(message: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def find_script(name: str) -> str:
    """The path of a Python package's program, which is beside this process's Python."""
    return find_program(str(Path(sys.executable).with_name(name)))
