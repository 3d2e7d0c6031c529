"""Probes of `/up` at a running instance, which is found by its environment or a URL.

`healthcheck` and `status` have to start fast, often without the service's full environment. So this
module needs only the standard library, and reads only the settings of the address.

A folder of sockets may be shared by several containers. A socket whose listener has no process id
in this container's namespace belongs to another container.
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

TIMEOUT_SECONDS = 5.0
"""Timeout of each socket operation of a request, in seconds."""

HIGHEST_PORT = 65_535


class BadAddress(CommandError):
    """A setting or URL is not a valid address of the service; the message says which and why."""


class NoAnswer(Exception):
    """The instance does not answer; the message has its address and the reason."""


@dataclass(frozen=True, slots=True)
class UpAnswer:
    """The HTTP response of `/up`."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class UpProbe:
    """A probe of `/up` at one instance, by host and port or by Unix socket.

    Attributes:
        path: the path of `/up` in the URL.
        socket: the Unix socket; if set, host, port and TLS are ignored.
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
        """Send `GET /up` and return the response, of any status.

        Raises:
            NoAnswer: the connection failed, timed out, or did not carry HTTP.
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
        return kind(self.host, self.port, timeout=TIMEOUT_SECONDS)


class _UnixConnection(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_SECONDS)
        self.sock.connect(str(self._path))


def own_instance(environment: Mapping[str, str]) -> UpProbe:
    """A probe of the instance that has this environment.

    Args:
        environment: the variables `SOCKET_DIR` or `SOCKET_PATH`, or else `BIND` and `PORT`.

    Raises:
        BadAddress: a variable is invalid, or `SOCKET_DIR` and `SOCKET_PATH` are both set.
        NoAnswer: no instance of this container listens in `SOCKET_DIR`, or it cannot be read.
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
    """A probe of the instance at an http or https URL; a URL without a path gets `/up`.

    Raises:
        BadAddress: `url` is not an http or https URL.
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
    """The newest socket in `folder` at which an instance of this container listens.

    Raises:
        NoAnswer: there is none, or the folder or a socket may not be opened.
    """
    try:
        sockets = [path for path in folder.iterdir() if path.suffix == ".sock"]
        ours = [path for path in sockets if path.name != CURRENT and _is_ours(path)]
    except OSError as error:
        raise NoAnswer(f"{error.filename or folder}: {error.strerror}") from error
    if not ours:
        raise NoAnswer(f"No instance listens in {folder}")
    return max(ours, key=lambda path: path.lstat().st_mtime_ns)


def _is_ours(path: Path) -> bool:
    """Whether a process of this container's namespace listens at `path`.

    Raises:
        PermissionError: this user may not connect to the socket.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # a full backlog would block the connect
        try:
            probe.connect(str(path))
        except PermissionError as error:
            raise PermissionError(error.errno, error.strerror, str(path)) from error
        except OSError:
            return False
        peer = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid: int = struct.unpack("3i", peer)[0]
    return pid != 0
