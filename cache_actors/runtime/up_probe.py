"""The instance that an environment belongs to: where it listens, and what its `/up` answers.

This is for commands that have to be quick and may be run where little is set: it needs nothing but
the standard library, and of the service's settings those alone that say where it listens.

In a folder of sockets there may be those of other containers too. The kernel tells which are ours:
the process behind a socket has no number in the namespace of another container.
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cache_actors.errors import CommandError

from .current_socket import CURRENT

if TYPE_CHECKING:
    from collections.abc import Mapping

SECONDS = 5.0
"""Longest time for each step of a question, in seconds."""

HIGHEST_PORT = 65_535


class BadAddress(CommandError):
    """The setting or URL that says where the service listens is wrong; the message says how."""


class NoAnswer(Exception):
    """Nobody answers there; the message says where, and why not."""


@dataclass(frozen=True, slots=True)
class UpAnswer:
    """The answer of `/up`."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class UpProbe:
    """A probe of `/up` of one instance, which listens at a host and a port, or at a Unix socket.

    Attributes:
        path: that of `/up` there.
        socket: the Unix socket, which then counts instead of the rest.
    """

    host: str = "localhost"
    port: int = 0
    tls: bool = False
    path: str = "/up"
    socket: Path | None = None

    def __str__(self) -> str:
        if self.socket is not None:
            return str(self.socket)
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{self.path}"

    def get(self) -> UpAnswer:
        """Ask `/up` and return what it answers, whatever that is.

        Raises:
            NoAnswer: there is none, or not within `SECONDS`.
        """
        connection = self._connection()
        try:
            connection.request("GET", self.path, headers={"Accept": "application/json"})
            response = connection.getresponse()
            return UpAnswer(response.status, response.read())
        except (OSError, HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise NoAnswer(f"{self} gives no answer: {reason}") from error
        finally:
            connection.close()

    def _connection(self) -> HTTPConnection:
        if self.socket is not None:
            return _UnixConnection(self.socket)
        kind = HTTPSConnection if self.tls else HTTPConnection
        return kind(self.host, self.port, timeout=SECONDS)


class _UnixConnection(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(SECONDS)
        self.sock.connect(str(self._path))


def own_instance(environment: Mapping[str, str]) -> UpProbe:
    """The instance with this environment.

    Args:
        environment: `SOCKET_DIR`, `SOCKET_PATH`, or else `BIND` and `PORT` count.

    Raises:
        BadAddress: these are bad.
        NoAnswer: nobody listens in `SOCKET_DIR`, or nobody that may be asked.
    """
    folder, path = environment.get("SOCKET_DIR"), environment.get("SOCKET_PATH")
    if folder and path:
        raise BadAddress("SOCKET_PATH and SOCKET_DIR are both set; allowed: one of them")
    if folder:
        return UpProbe(socket=_own_socket(Path(folder)))
    if path:
        return UpProbe(socket=Path(path))
    return UpProbe(environment.get("BIND") or "127.0.0.1", _port(environment.get("PORT") or "4000"))


def instance_at(url: str) -> UpProbe:
    """The instance at an http or https URL, with or without the path of `/up`.

    Raises:
        BadAddress: it is no such URL.
    """
    try:
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        port = parts.port or (443 if tls else 80)
    except ValueError as error:
        raise BadAddress(f"{url!r} is not a URL: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadAddress(f"{url!r} is not an http or https URL")
    return UpProbe(parts.hostname, port, tls, parts.path.rstrip("/") or "/up")


def _port(text: str) -> int:
    with suppress(ValueError):
        if 0 < int(text) <= HIGHEST_PORT:
            return int(text)
    raise BadAddress(f"PORT is {text!r}; allowed: a whole number from 1 to {HIGHEST_PORT}")


def _own_socket(folder: Path) -> Path:
    """The socket of this namespace's instance, the newest if there are several."""
    try:
        sockets = [path for path in folder.iterdir() if path.suffix == ".sock"]
        ours = [path for path in sockets if path.name != CURRENT and _is_ours(path)]
    except OSError as error:
        raise NoAnswer(f"{error.filename or folder}: {error.strerror}") from error
    if not ours:
        raise NoAnswer(f"No instance listens in {folder}")
    return max(ours, key=lambda path: path.lstat().st_mtime_ns)


def _is_ours(path: Path) -> bool:
    """Whether a process that we can see listens there.

    Raises:
        PermissionError: that is not for us to know.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # one that hangs, with others waiting, would have us wait too
        try:
            probe.connect(str(path))
        except PermissionError as error:
            raise PermissionError(error.errno, error.strerror, str(path)) from error
        except OSError:
            return False
        peer = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid: int = struct.unpack("3i", peer)[0]
    return pid != 0
