"""Where the service listens: a TCP port, a Unix socket, or one of several in a folder.

The folder is for rollouts without a lost request. Each instance has a socket with a random name
there and, once it is up, makes the link `current.sock` point to it; nginx connects to the link. So
for a while two instances run: the new one gets all new connections, the old one finishes what it
has. What becomes of the link when instances come and go is in `current.py`.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, Self
from uuid import uuid4

import trio

from cache_actors.ports import listener_at, process_named

from .current import CURRENT, CurrentLink, is_listening

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from cache_actors.settings import Settings

    Say = Callable[..., object]

BACKLOG = 4096

START_SECONDS = 60.0
"""What is older than this, and still not what it was to become, is left from a failed start."""


ACCEPT_PAUSE = 0.1
"""Seconds until the next try when nothing can be accepted: the system has no more descriptors, no
memory for one, or a reason of its own."""

_FATAL_TO_LISTENING = {errno.EBADF, errno.EFAULT, errno.EINVAL, errno.ENOTSOCK}
"""Errors of `accept` after which it can never succeed; all others are those of a connection, of the
network, or of the moment (accept(2))."""

_OF_ONE_CONNECTION = {errno.ECONNABORTED, errno.EHOSTUNREACH, errno.EPERM, errno.EPROTO}
"""Those after which another connection may be waiting already."""


_CREDENTIALS = struct.Struct("3i")  # of unix(7): process, user, group


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


def say_nothing(_event: str, /, **_fields: object) -> None:
    """Log no warning."""


class Arrivals:
    """Takes the connections that wait at a socket, one after the other, as a context manager.

    What happens to one connection before it is taken harms that connection only.

    Args:
        listening: the socket.
        say: logs a warning when nothing can be accepted, and when that is over.
    """

    def __init__(self, listening: socket.socket, say: Say = say_nothing) -> None:
        self._listening = trio.socket.from_stdlib_socket(listening)
        self._say = say
        self._failures = 0

    async def next(self) -> trio.socket.SocketType:
        """The next connection.

        Raises:
            OSError: nothing can be accepted here any more, as the socket itself is not what it was.
        """
        while True:
            try:
                connection, _ = await self._listening.accept()
            except OSError as error:
                if error.errno in _FATAL_TO_LISTENING:
                    raise
                if error.errno not in _OF_ONE_CONNECTION:
                    self._failures += 1
                    if self._failures == 1:
                        self._say("accept_failed", reason=_reason(error))
                    await trio.sleep(ACCEPT_PAUSE)
            else:
                if self._failures:
                    self._say("accept_recovered", failures=self._failures)
                    self._failures = 0
                return connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()


class BoundSocket:
    """A socket of this process's own, and what it is called on disk, if it is a Unix socket.

    It outlives the incarnations of whoever accepts here: clients wait in its backlog.

    Args:
        sock: the socket.
        path: its name on disk.
        current: the link that leads to it once it is announced, if it is in a folder of sockets.

    Attributes:
        say: logs warnings about what happens at the socket.
    """

    def __init__(
        self, sock: socket.socket, path: Path | None = None, current: CurrentLink | None = None
    ) -> None:
        self._sock = sock
        self.say: Say = say_nothing
        self._path = path
        self._current = current

    def announce(self) -> None:
        """Have new connections come here: to be called once, when the service is up.

        Raises:
            CannotListen: the folder of sockets does not allow it.
        """
        if self._current is None or self._path is None:
            return
        try:
            self._path = self._path.rename(self._path.with_suffix(".sock"))
            self._current.take()
        except OSError as error:
            raise CannotListen(f"Cannot have connections come here: {_reason(error)}") from error

    def mend(self) -> str | None:
        """See to it that new connections go to an instance that lives: to be called now and then.

        Returns:
            The name of the socket that they go to from now on, `None` if they do already.

        Raises:
            OSError: the folder of sockets does not allow it.
        """
        return None if self._current is None else self._current.mend()

    def give_way(self) -> None:
        """Have new connections go to another instance, if one lives: this one is about to stop."""
        if self._current is not None:
            with suppress(OSError):  # the others will see it for themselves
                self._current.give_away()

    def listen(self) -> Arrivals:
        """Have connections wait here from now on, and return what takes them."""
        self._sock.listen(BACKLOG)
        return Arrivals(self._sock.dup(), self.say)

    async def serve(
        self, handle: Callable[[trio.SocketStream], Awaitable[None]], connections: trio.Nursery
    ) -> None:
        """Start `handle` in `connections` for each connection that comes, until cancelled."""
        with self.listen() as arrivals:
            while True:
                stream = trio.SocketStream(await arrivals.next())
                connections.start_soon(_handle, handle, stream)

    def is_replaced(self) -> bool:
        """Whether another instance gets the new connections by now."""
        return self._current is not None and not self._current.is_ours()

    def close(self) -> None:
        """Close the socket and remove it from disk. May be called again."""
        self.give_way()
        self._sock.close()
        if self._path is None:
            return
        with suppress(OSError):  # the link stays: it may be another's a moment later
            self._path.unlink(missing_ok=True)
        self._path = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def _handle(
    handle: Callable[[trio.SocketStream], Awaitable[None]], stream: trio.SocketStream
) -> None:
    try:
        await handle(stream)
    finally:
        stream.socket.close()


def bind(settings: Settings) -> BoundSocket:
    """A socket as the settings want it, which connections can wait at from now on.

    Raises:
        CannotListen: it is taken, or not allowed.
    """
    path, folder = settings.socket_path, settings.socket_dir
    host = f"[{settings.bind}]" if ":" in settings.bind else settings.bind
    where = str(path or folder or f"{host}:{settings.port}")
    try:
        if folder is not None:
            return _in_folder(folder)
        if path is not None:
            return _at_path(path)
        return BoundSocket(bind_tcp(settings.bind, settings.port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            holder = _holder(path) if path else listener_at(settings.bind, settings.port)
            raise CannotListen(f"Cannot listen on {where}: it is taken by {holder}") from error
        raise CannotListen(f"Cannot listen on {where}: {_reason(error)}") from error


def _in_folder(folder: Path) -> BoundSocket:
    link = folder / CURRENT
    if link.exists() and not link.is_symlink():
        raise FileExistsError(errno.EEXIST, f"{CURRENT} there is not a link, and in the way")
    _remove_remains(folder)
    path = folder / f"{uuid4().hex[:12]}.sock"  # the path of a socket has 107 characters at most
    unready = path.with_suffix(".init")  # no shorter, so that one that is too long fails at once
    return BoundSocket(bind_unix(unready), unready, CurrentLink(link, path))


def _remove_remains(folder: Path) -> None:
    """Remove what dead instances have left: their sockets, and links that never got into place."""
    for path in folder.iterdir():
        with suppress(OSError):
            old = time.time() - path.lstat().st_mtime > START_SECONDS
            if path.is_symlink():
                if old and path.suffix == ".link":
                    path.unlink()
            elif path.is_socket() and (path.suffix == ".sock" or (old and path.suffix == ".init")):
                _remove_stale(path)


def _at_path(path: Path) -> BoundSocket:
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise FileExistsError(errno.EEXIST, "there is a file that is not a socket")
        if not _remove_stale(path):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    return BoundSocket(bind_unix(path), path)


def bind_tcp(host: str, port: int) -> socket.socket:
    """A socket at an address and a port.

    Raises:
        OSError: it is taken, not allowed, or not of this host.
    """
    # Looked up, as that is what understands the zone of an address (fe80::1%eth0, RFC 4007).
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV | socket.AI_PASSIVE
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    family, _, _, _, address = found[0]
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def bind_unix(path: Path) -> socket.socket:
    """A Unix socket that its group may connect to, from the moment that it is there.

    Raises:
        OSError: it cannot be made.
    """
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
    if is_listening(path):
        return False
    path.unlink(missing_ok=True)
    return True


def _holder(path: Path) -> str:
    """Who listens at the Unix socket at `path`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, suppress(OSError):
        probe.setblocking(False)
        probe.connect(str(path))
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return process_named(_CREDENTIALS.unpack(credentials)[0])
    return "somebody"


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
