"""The address of the service: a port, a Unix socket, or a folder of sockets with its link."""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from cache_actors.runtime.current_socket import CURRENT, is_listening
from cache_actors.runtime.listen_socket import bind_tcp, bind_unix
from cache_actors.runtime.ports import listener_at

from .result import CheckResult, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cache_actors.settings import Settings

MAX_PATH_BYTES = 107
"""Longest path of a Unix socket, in bytes: `sun_path` has 108, with a NUL at its end (unix(7))."""

_ADVICE = {
    errno.EACCES: "Set PORT to one from 1024 on, or give the service CAP_NET_BIND_SERVICE.",
    errno.EADDRNOTAVAIL: "Set BIND to an address that this host has.",
}

AN_INSTANCE = "0123456789ab.sock"
"""Example of a socket's name in the folder; all are equally long."""


def check_sockets(settings: Settings) -> Iterator[CheckResult]:
    """Check the folder of sockets, the Unix socket or the port, whichever is set."""
    if settings.socket_dir is not None:
        yield _folder(settings.socket_dir)
        yield from _length(settings.socket_dir / AN_INSTANCE)
        yield from _current(settings.socket_dir / CURRENT)
    elif settings.socket_path is not None:
        yield _folder(settings.socket_path.parent)
        yield from _length(settings.socket_path)
    else:
        yield _port(settings.bind, settings.port)


def _folder(folder: Path) -> CheckResult:
    if not os.path.isdir(folder):  # noqa: PTH112 - unlike Path.is_dir, it never raises
        advice = "Make it, or mount the volume."
        return CheckResult("socket folder", Verdict.BROKEN, f"{folder} is no folder", advice)
    try:
        group = _try_socket(folder)
    except PermissionError:
        advice = f"Give it to user {os.geteuid()}, mode 2770, with a group that nginx is in."
        return CheckResult(
            "socket folder", Verdict.BROKEN, f"{folder} cannot be written to", advice
        )
    except OSError as error:
        text = f"{folder} cannot have sockets and links: {error.strerror}"
        return CheckResult("socket folder", Verdict.BROKEN, text, "Use a local disk, or tmpfs.")
    mode = folder.stat().st_mode
    advice = f"`chmod 2770 {folder}`, with a group that nginx is in."
    if not mode & stat.S_IXGRP:
        return CheckResult(
            "socket folder", Verdict.WARNING, f"{folder} is closed to its group", advice
        )
    if not mode & stat.S_ISGID:
        text = f"{folder} does not give sockets its group: nginx may not be let in"
        return CheckResult("socket folder", Verdict.WARNING, text, advice)
    if group != folder.stat().st_gid:
        text = f"sockets in {folder} belong to group {group}: nginx may not be let in"
        return CheckResult("socket folder", Verdict.WARNING, text, advice)
    return CheckResult("socket folder", Verdict.OK, f"{folder} can have sockets and links")


def _try_socket(folder: Path) -> int:
    """Make a socket and a link in `folder`, remove them, and return the socket's group.

    If the check is killed, the next start of the service removes them.
    """
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Through /proc, since the folder's own path may be too long for a socket.
        unready = Path(f"/proc/self/fd/{fd}") / f"{uuid4().hex[:12]}.init"
        link = unready.with_suffix(".link")
        try:
            bind_unix(unready).close()
            link.symlink_to(unready.name)
            link.replace(unready)
            unready.unlink()
            bind_unix(unready).close()
            return unready.stat().st_gid
        finally:
            for path in link, unready:
                path.unlink(missing_ok=True)
    finally:
        os.close(fd)


_IS_SERVICE = re.compile(r"[/ (]cache-actors (?:serve|dev)\b|-m cache_actors\b")
"""Pattern of the service's command, which no other command in a folder of its name matches."""


def _port(host: str, port: int) -> CheckResult:
    """Check that the service may listen at `host` and `port`, or does so already."""
    where = f"port {port} of {host}"
    try:
        bind_tcp(host, port).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            holder = listener_at(host, port)
            if _IS_SERVICE.search(holder):
                return CheckResult("port", Verdict.OK, f"{where} is the service's, {holder}")
            advice = "If that is not the service, end it, or set PORT to another port."
            return CheckResult("port", Verdict.WARNING, f"{where} is taken by {holder}", advice)
        advice = _ADVICE.get(error.errno or 0, "Look at BIND and PORT.")
        text = f"{where} cannot be listened at: {error.strerror}"
        return CheckResult("port", Verdict.BROKEN, text, advice)
    return CheckResult("port", Verdict.OK, f"{where} can be listened at")


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
