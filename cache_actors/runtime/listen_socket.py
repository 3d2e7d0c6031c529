"""The listening socket: a TCP port, a Unix socket, or one of several in a folder.

The folder is for rollouts without a lost request. Each instance has a socket with a random name
there and, once it is up, points the link `current.sock` to it; nginx connects to the link. For a
while two instances run: the new one gets all new connections, the old one finishes its requests.
The rules for the link are in `current_socket.py`.
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

from cache_actors.errors import CommandError

from .current_socket import CURRENT, CurrentLink, is_listening
from .ports import listener_at, process_named

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from cache_actors.settings import Settings

    LogWarning = Callable[..., object]

BACKLOG = 4096

START_SECONDS = 60.0
"""Age in seconds from which an unfinished socket or link counts as left by a failed start."""


ACCEPT_PAUSE = 0.1
"""Pause after a failed `accept`, in seconds: the system may be out of descriptors or memory."""

_FATAL_TO_LISTENING = {errno.EBADF, errno.EFAULT, errno.EINVAL, errno.ENOTSOCK}
"""Errors of `accept` after which it can never succeed (accept(2)); all others are temporary."""

_OF_ONE_CONNECTION = {errno.ECONNABORTED, errno.EHOSTUNREACH, errno.EPERM, errno.EPROTO}
"""Errors of `accept` that concern one connection; no pause is needed, as others may be waiting."""


_CREDENTIALS = struct.Struct("3i")
"""Layout of `SO_PEERCRED` (unix(7)): process, user, group."""


class CannotListen(CommandError):
    """The address or socket cannot be listened on; the message says which and why."""


class ConnectionSource(Protocol):
    """A source of connections for the listener: a socket, or a worker's parent."""

    async def serve(
        self, handle: Callable[[trio.SocketStream], Awaitable[None]], connections: trio.Nursery
    ) -> None:
        """Start `handle` in `connections` for each connection that comes, until cancelled."""

    def is_replaced(self) -> bool:
        """Whether another instance gets the new connections by now."""

    def close(self) -> None:
        """Refuse connections from now on. May be called again."""


def log_nothing(_event: str, /, **_fields: object) -> None:
    """Discard the event."""


class Arrivals:
    """Accepts connections from a socket, one after the other, as a context manager.

    An error of one connection does not affect the next ones.

    Args:
        listening: the socket.
        log_warning: logs that nothing can be accepted, and the recovery.
    """

    def __init__(self, listening: socket.socket, log_warning: LogWarning = log_nothing) -> None:
        self._listening = trio.socket.from_stdlib_socket(listening)
        self._log_warning = log_warning
        self._failures = 0

    async def next(self) -> trio.socket.SocketType:
        """Wait for the next connection, and return it.

        Raises:
            OSError: the socket itself is closed or broken, so nothing can ever be accepted again.
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
                        self._log_warning("accept_failed", reason=_reason(error))
                    await trio.sleep(ACCEPT_PAUSE)
            else:
                if self._failures:
                    self._log_warning("accept_recovered", failures=self._failures)
                    self._failures = 0
                return connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()


class ListenSocket:
    """The socket at which this process listens.

    The socket outlives the incarnations of the listener: meanwhile clients wait in its backlog.

    Args:
        sock: the socket.
        path: the path of the socket, if it is a Unix socket.
        current: the link `current.sock`, if the socket is in a folder of sockets.

    Attributes:
        log_warning: logs warnings about the socket.
    """

    def __init__(
        self, sock: socket.socket, path: Path | None = None, current: CurrentLink | None = None
    ) -> None:
        self._sock = sock
        self.log_warning: LogWarning = log_nothing
        self._path = path
        self._current = current

    def announce(self) -> None:
        """Direct new connections to this instance; to be called once, when it is up.

        Raises:
            CannotListen: the folder of sockets cannot be written to.
        """
        if self._current is None or self._path is None:
            return
        try:
            self._path = self._path.rename(self._path.with_suffix(".sock"))
            self._current.take()
        except OSError as error:
            raise CannotListen(f"Cannot have connections come here: {_reason(error)}") from error

    def repair(self) -> str | None:
        """Direct new connections to a live instance, if the current one is dead.

        Returns:
            The name of that instance's socket, or `None` if nothing was changed.

        Raises:
            OSError: the folder of sockets cannot be written to.
        """
        return None if self._current is None else self._current.repair()

    def hand_off(self) -> None:
        """Direct new connections to another live instance, if any, before this instance stops."""
        if self._current is not None:
            with suppress(OSError):  # another instance repairs the link
                self._current.hand_off()

    def listen(self) -> Arrivals:
        """Listen at the socket, and return the connections that arrive."""
        self._sock.listen(BACKLOG)
        return Arrivals(self._sock.dup(), self.log_warning)

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
        """Hand off, close the socket, and remove it from disk. May be called again."""
        self.hand_off()
        self._sock.close()
        if self._path is None:
            return
        with suppress(OSError):  # not the link: another instance may take it at any moment
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


def bind(settings: Settings) -> ListenSocket:
    """Bind the socket that the settings name.

    Raises:
        CannotListen: the address is taken, or not allowed.
    """
    path, folder = settings.socket_path, settings.socket_dir
    host = f"[{settings.bind}]" if ":" in settings.bind else settings.bind
    where = str(path or folder or f"{host}:{settings.port}")
    try:
        if folder is not None:
            return _in_folder(folder)
        if path is not None:
            return _at_path(path)
        return ListenSocket(bind_tcp(settings.bind, settings.port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            holder = _holder(path) if path else listener_at(settings.bind, settings.port)
            raise CannotListen(f"Cannot listen on {where}: it is taken by {holder}") from error
        raise CannotListen(f"Cannot listen on {where}: {_reason(error)}") from error


def _in_folder(folder: Path) -> ListenSocket:
    link = folder / CURRENT
    if link.exists() and not link.is_symlink():
        raise FileExistsError(errno.EEXIST, f"{CURRENT} there is not a link, and in the way")
    _remove_remains(folder)
    path = folder / f"{uuid4().hex[:12]}.sock"  # the path of a socket has 107 characters at most
    unready = path.with_suffix(".init")  # no shorter, so that one that is too long fails at once
    return ListenSocket(bind_unix(unready), unready, CurrentLink(link, path))


def _remove_remains(folder: Path) -> None:
    """Remove the sockets of dead instances, and links that were never renamed into place."""
    for path in folder.iterdir():
        with suppress(OSError):
            old = time.time() - path.lstat().st_mtime > START_SECONDS
            if path.is_symlink():
                if old and path.suffix == ".link":
                    path.unlink()
            elif path.is_socket() and (path.suffix == ".sock" or (old and path.suffix == ".init")):
                _remove_stale(path)


def _at_path(path: Path) -> ListenSocket:
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise FileExistsError(errno.EEXIST, "there is a file that is not a socket")
        if not _remove_stale(path):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    return ListenSocket(bind_unix(path), path)


def bind_tcp(host: str, port: int) -> socket.socket:
    """Bind a TCP socket to an address and a port.

    Raises:
        OSError: the address is taken, not allowed, or not of this host.
    """
    # `getaddrinfo` also resolves the zone of an address (fe80::1%eth0, RFC 4007).
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
    """Bind a Unix socket, to which its group may connect from the first moment.

    Raises:
        OSError: the socket cannot be made.
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
    """Remove the socket at `path` unless a process listens there; return whether it was removed."""
    if is_listening(path):
        return False
    path.unlink(missing_ok=True)
    return True


def _holder(path: Path) -> str:
    """The process that listens at the Unix socket `path`, in words."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, suppress(OSError):
        probe.setblocking(False)
        probe.connect(str(path))
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return process_named(_CREDENTIALS.unpack(credentials)[0])
    return "somebody"


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
