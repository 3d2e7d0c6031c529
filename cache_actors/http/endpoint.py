"""Where the service listens: a TCP port, a Unix socket, or one of several in a folder.

The folder is for rollouts without a lost request. Each instance has a socket with a random name
there and, once it is up, makes the link `current.sock` point to it; nginx connects to the link. So
for a while two instances run: the new one gets all new connections, the old one finishes what it
has. The link is relative, since a container and its host may see the folder at different paths.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, Self
from uuid import uuid4

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from cache_actors.settings import Settings

CURRENT = "current.sock"
"""The link to the socket of the instance that takes new connections."""

BACKLOG = 4096


class CannotListen(Exception):
    """The address or socket to listen on is not to be had; the message says which and why."""


class Endpoint(Protocol):
    """Where connections come from, as the listener sees it."""

    async def serve(
        self, handle: Callable[[trio.SocketStream], Awaitable[None]], connections: trio.Nursery
    ) -> None:
        """Start `handle` in `connections` for each connection that comes, until cancelled."""

    def is_replaced(self) -> bool:
        """Whether another instance gets the new connections by now."""

    def close(self) -> None:
        """Take no more connections, ever. May be called again."""


class BoundSocket:
    """A socket of this process's own, and what it is called on disk, if it is a Unix socket.

    It outlives the incarnations of whoever accepts here: clients wait in its backlog.
    """

    def __init__(
        self, sock: socket.socket, path: Path | None = None, link: Path | None = None
    ) -> None:
        self._sock = sock
        self._path = path
        self._link = link

    def announce(self) -> None:
        """Have new connections come here: to be called once, when the service is up."""
        if self._link is not None and self._path is not None:
            link = self._path.with_suffix(".link")
            link.symlink_to(self._path.name)
            link.replace(self._link)

    def listen(self) -> trio.socket.SocketType:
        """Have connections wait here from now on, and return a socket to accept them with."""
        self._sock.listen(BACKLOG)
        return trio.socket.from_stdlib_socket(self._sock.dup())

    async def serve(
        self, handle: Callable[[trio.SocketStream], Awaitable[None]], connections: trio.Nursery
    ) -> None:
        """Start `handle` in `connections` for each connection that comes, until cancelled."""
        listener = trio.SocketListener(self.listen())
        await trio.serve_listeners(handle, [listener], handler_nursery=connections)

    def is_replaced(self) -> bool:
        """Whether another instance gets the new connections by now."""
        return self._link is not None and not self._is_current(self._link)

    def close(self) -> None:
        """Close the socket and remove it from disk. May be called again."""
        self._sock.close()
        if self._path is None:
            return
        with suppress(OSError):  # the link stays: it may be another's a moment later
            self._path.unlink(missing_ok=True)
        self._path = None

    def _is_current(self, link: Path) -> bool:
        with suppress(OSError):
            return self._path is not None and link.readlink().name == self._path.name
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def bind(settings: Settings) -> BoundSocket:
    """A socket as the settings want it, which connections can wait at from now on.

    Raises:
        CannotListen: it is taken, or not allowed.
    """
    path, folder = settings.socket_path, settings.socket_dir
    where = str(path or folder or f"{settings.bind}:{settings.port}")
    try:
        if folder is not None:
            return _in_folder(folder)
        if path is not None:
            return _at_path(path)
        return BoundSocket(_bind_tcp(settings.bind, settings.port))
    except OSError as error:
        raise CannotListen(f"Cannot listen on {where}: {error.strerror or error}") from error


def _in_folder(folder: Path) -> BoundSocket:
    for other in folder.glob("*.sock"):
        if not other.is_symlink() and other.is_socket():
            with suppress(OSError):
                _remove_stale(other)
    path = folder / f"{uuid4().hex[:12]}.sock"  # the path of a socket has 107 characters at most
    # Under its name a socket listens already: one that doesn't is taken for a dead instance's.
    unready = path.with_suffix(".new")
    sock = _bind_unix(unready)
    unready.rename(path)
    return BoundSocket(sock, path, folder / CURRENT)


def _at_path(path: Path) -> BoundSocket:
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise FileExistsError(errno.EEXIST, "there is a file that is not a socket")
        if not _remove_stale(path):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    return BoundSocket(_bind_unix(path), path)


def _bind_tcp(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock


def _bind_unix(path: Path) -> socket.socket:
    """A Unix socket that its group may connect to, from the moment that it is there."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    umask = os.umask(0o007)
    try:
        sock.bind(str(path))
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(umask)
    return sock


def _remove_stale(path: Path) -> bool:
    """Remove the socket at `path` if nobody listens there any more; return whether that is so."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return True
    return False
