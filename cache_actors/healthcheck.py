"""`cache-actors healthcheck`: is this container's own instance up?

In a folder of sockets there may be those of other containers too. The kernel tells which are ours:
the process behind a socket has no number in the namespace of another container.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

import httpx

from .http.endpoint import CURRENT

if TYPE_CHECKING:
    from pathlib import Path

    from .settings import Settings

SECONDS = 5.0
"""How long `/up` may take."""


class Unhealthy(Exception):
    """The service is not up; the message says what it is."""


def check_health(settings: Settings) -> str:
    """Ask `/up`, and return what it answers.

    Raises:
        Unhealthy: there is no answer, or it is not 200.
    """
    try:
        return _ask(settings)
    except httpx.HTTPError as error:
        raise Unhealthy(f"No answer: {error}") from error
    except OSError as error:
        raise Unhealthy(f"No answer: {error.strerror}") from error


def _ask(settings: Settings) -> str:
    path = settings.socket_path
    if settings.socket_dir is not None:
        path = _own_socket(settings.socket_dir)
    transport = httpx.HTTPTransport(uds=str(path)) if path else None
    host = f"[{settings.bind}]" if ":" in settings.bind else settings.bind
    with httpx.Client(transport=transport, trust_env=False, timeout=SECONDS) as client:
        answer = client.get(f"http://{host}:{settings.port}/up")
    if answer.status_code != httpx.codes.OK:
        raise Unhealthy(f"/up answers {answer.status_code}: {answer.text}")
    return answer.text


def _own_socket(folder: Path) -> Path:
    """The socket of this namespace's instance, the newest if there are several."""
    ours = [path for path in folder.glob("*.sock") if path.name != CURRENT and _is_ours(path)]
    if not ours:
        raise Unhealthy(f"No instance listens in {folder}")
    return max(ours, key=lambda path: path.lstat().st_mtime_ns)


def _is_ours(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # one that hangs, with others waiting, would have us wait too
        try:
            probe.connect(str(path))
        except OSError:
            return False
        peer = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid: int = struct.unpack("3i", peer)[0]
    return pid != 0
