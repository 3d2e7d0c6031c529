"""Nix expressions, evaluated by the real evaluator without its store."""

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.support.programs import find_program

HERE = Path(__file__).parent


class NixError(Exception):
    """An expression that Nix refuses; the message is what it said."""


def parse(*paths: Path) -> None:
    """Read files.

    Raises:
        NixError: one of them is not Nix.
    """
    _nix_instantiate("--parse", *map(str, paths))


def evaluate(expression: str) -> Any:
    """The value of an expression, with everything in it. Paths are relative to this package.

    Raises:
        NixError: it has none.
    """
    return json.loads(_nix_instantiate("--eval", "--strict", "--json", "-E", expression))


def evaluate_hosts(*, change: str = "{ }", parameters: str = "{ }") -> Any:
    """The hosts, by name, each with its `config` and its `failed` assertions: see `hosts.nix`.

    Raises:
        NixError: they cannot be evaluated.
    """
    return evaluate(f"import ./hosts.nix {{ change = {change}; parameters = {parameters}; }}")


def _nix_instantiate(*arguments: str) -> str:
    run = subprocess.run(
        [find_program("nix-instantiate"), "--store", "dummy://", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=HERE,
    )
    if run.returncode != 0:
        raise NixError(run.stderr)
    return run.stdout
