"""nginx's configuration: are the snippets of this version in it, whole and unchanged.

Each snippet has to stand in it as one run of lines; how they are indented, comments and empty lines
do not count. What the configuration includes is read in its place.
"""

from __future__ import annotations

import re
import sys
from importlib.resources import files
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from .result import CheckResult, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

SNIPPETS = ("http.conf", "server.conf")
STANDARD_INPUT = Path("-")
DEEPEST = 10
"""Deepest nesting of `include` that is followed: a configuration may include itself."""

_INCLUDE = re.compile(r"""include\s+["']?([^"';]+?)["']?\s*;""")


def check_nginx(config: Path) -> CheckResult:
    """Compare the configuration at `config`, or on standard input if that is `-`."""
    name = "standard input" if config == STANDARD_INPUT else str(config)
    try:
        reader = _Reader(config)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        advice = "Give the path of nginx's configuration, or - and it on standard input."
        return CheckResult("nginx", Verdict.BROKEN, f"{name} cannot be read: {reason}", advice)
    snippets = files("cache_actors.nginx") / "snippets"
    for snippet in SNIPPETS:
        wanted = _significant((snippets / snippet).read_text())
        number = _longest_start(wanted, reader.lines)
        if number < len(wanted):
            text = f"{name} is not that of this version: `{wanted[number]}` of {snippet} is missing"
            advice = _advice(reader.missing if number == 0 else [])
            return CheckResult("nginx", Verdict.BROKEN, f"{text}, or not in its place", advice)
    return CheckResult("nginx", Verdict.OK, f"{name} is that of this version")


def _advice(missing: Sequence[str]) -> str:
    """The advice for a missing snippet, which may be in a file that could not be read."""
    if missing:
        everything = "`nginx -T | cache-actors check --nginx-config -`"
        return f"It includes {missing[0]}, which is not to be read here; try {everything}."
    return "Make it again, with `cache-actors nginx-config` or from platform/nginx.nix."


class _Reader:
    """Reads a configuration with what it includes.

    Attributes:
        lines: those that count, with those of an included file in the place of its directive.
        missing: what is included, but could not be read.
    """

    def __init__(self, config: Path) -> None:
        self.missing: list[str] = []
        text = sys.stdin.read() if config == STANDARD_INPUT else config.read_text()
        self.lines = self._with_includes(text, config.parent, 0)

    def _with_includes(self, text: str, folder: Path, depth: int) -> list[str]:
        lines: list[str] = []
        for line in _significant(text):
            included = _INCLUDE.fullmatch(line)
            lines += self._included(included[1], folder, depth) if included else [line]
        return lines

    def _included(self, pattern: str, folder: Path, depth: int) -> list[str]:
        """The lines of the files that match `pattern`, which is relative to `folder`."""
        lines: list[str] = []
        try:
            where = folder / pattern
            paths = sorted(where.parent.glob(where.name)) if "*" in pattern else [where]
            for path in paths if depth < DEEPEST else []:
                lines += self._with_includes(path.read_text(), folder, depth + 1)
        except (OSError, UnicodeDecodeError):
            self.missing.append(pattern)
        return lines


def _significant(text: str) -> list[str]:
    """The lines that mean something, without their indentation."""
    stripped = (line.strip() for line in text.splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


def _longest_start(wanted: Sequence[str], lines: Sequence[str]) -> int:
    """The number of `wanted` lines that stand in `lines` one after the other, from the first on."""
    runs = (zip(wanted, lines[start:], strict=False) for start in range(len(lines)))
    return max((sum(1 for _ in takewhile(_are_same, run)) for run in runs), default=0)


def _are_same(pair: tuple[str, str]) -> bool:
    return pair[0] == pair[1]
