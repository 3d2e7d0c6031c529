"""The folder of the service's socket, and the link in it that nginx connects to."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from cache_actors.runtime.current_socket import CURRENT, is_listening

from .result import CheckResult, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cache_actors.settings import Settings

MAX_PATH_BYTES = 107
"""Longest path of a Unix socket, in bytes: `sun_path` in unix(7) has 108, with a zero at the
end."""

AN_INSTANCE = "0123456789ab.sock"
"""Example of a socket's name, as long as all of them."""


def check_sockets(settings: Settings) -> Iterator[CheckResult]:
    """Check the socket or the folder of sockets, if one is configured."""
    if settings.socket_dir is not None:
        yield _folder(settings.socket_dir)
        yield from _length(settings.socket_dir / AN_INSTANCE)
        yield from _current(settings.socket_dir / CURRENT)
    elif settings.socket_path is not None:
        yield _folder(settings.socket_path.parent)
        yield from _length(settings.socket_path)


def _folder(folder: Path) -> CheckResult:
    if not os.path.isdir(folder):  # noqa: PTH112 - which is not upset by what it may not see
        advice = "Make it, or mount the volume."
        return CheckResult("socket folder", Verdict.BROKEN, f"{folder} is no folder", advice)
    if not os.access(folder, os.W_OK | os.X_OK):
        advice = f"Give it to user {os.geteuid()}, mode 2770, with a group that nginx is in."
        return CheckResult(
            "socket folder", Verdict.BROKEN, f"{folder} cannot be written to", advice
        )
    mode = folder.stat().st_mode
    advice = f"`chmod 2770 {folder}`, with a group that nginx is in."
    if not mode & stat.S_IXGRP:
        return CheckResult(
            "socket folder", Verdict.WARNING, f"{folder} is closed to its group", advice
        )
    if not mode & stat.S_ISGID:
        text = f"{folder} does not give sockets its group: nginx may not be let in"
        return CheckResult("socket folder", Verdict.WARNING, text, advice)
    return CheckResult("socket folder", Verdict.OK, f"{folder} can be written to")


def _length(path: Path) -> Iterator[CheckResult]:
    length = len(os.fsencode(path))
    if length > MAX_PATH_BYTES:
        text = f"the path of a socket has {MAX_PATH_BYTES} bytes at most, {path} has {length}"
        yield CheckResult("socket path", Verdict.BROKEN, text, "Use a folder with a shorter path.")


def _current(link: Path) -> Iterator[CheckResult]:
    if link.is_symlink():
        target = link.readlink()
        if is_listening(link):
            yield CheckResult(
                CURRENT, Verdict.OK, f"it leads to {target}, where an instance listens"
            )
        else:
            text = f"it leads to {target}, where nobody listens"
            advice = "Start the service: nginx answers 503. One that runs mends it in a second."
            yield CheckResult(CURRENT, Verdict.WARNING, text, advice)
    elif link.exists():
        text = f"{link} is not a link, and in the way"
        yield CheckResult(CURRENT, Verdict.BROKEN, text, "Move it away, and start the service.")
