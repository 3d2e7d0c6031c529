"""The parent's end of the channel to a worker."""

from __future__ import annotations

import socket
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
import trio

from .protocol import CONNECTION, Drain, Progress

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_UNTAKEN = 128
"""Largest number of connections sent to a worker that it has not taken yet."""

SLOW_SECONDS = 0.5
"""Time after which a worker that has not taken a connection gets no others, in seconds. They go to
other workers, or wait in the socket's backlog."""

MESSAGE_BYTES = 4096


class WorkerChannel:
    """Sends connections to one incarnation of a worker, and counts them.

    The channel keeps a copy of each connection until the worker has taken it, so that it can be
    given to another worker.

    Args:
        sock: the parent's end of a `SOCK_SEQPACKET` socket pair.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._stream = trio.socket.from_stdlib_socket(sock)
        self._untaken: deque[tuple[float, socket.socket]] = deque()  # with the times of sending
        self._handed = 0
        self._progress = Progress()
        self._broken = False

    @property
    def closed(self) -> bool:
        """Whether the worker takes no more connections."""
        return self._progress.closed

    def has_room(self) -> bool:
        """Whether the worker can be sent a connection now."""
        return (
            self._progress.ready
            and not self._progress.closed
            and not self._broken
            and len(self._untaken) < MAX_UNTAKEN
            and not self._is_slow()
        )

    def _is_slow(self) -> bool:
        return bool(self._untaken) and trio.current_time() - self._untaken[0][0] > SLOW_SECONDS

    def load(self) -> int:
        """The number of the worker's open connections, including those not taken yet."""
        return self._handed - self._progress.ended

    def hand(self, connection: socket.socket) -> None:
        """Send `connection` to the worker. The channel owns it from now on."""
        self._untaken.append((trio.current_time(), connection))
        self._handed += 1
        try:
            socket.send_fds(self._sock, [CONNECTION], [connection.fileno()])
        except OSError:  # the worker has ended: `take_back` returns the connection
            self._broken = True

    def drain(self, message: Drain) -> None:
        """Ask the worker to finish its requests, and end."""
        with suppress(OSError):  # the worker has ended
            self._sock.send(msgspec.json.encode(message))

    async def receive(self) -> Progress | None:
        """Wait for the worker's next report of its progress; None when the worker has ended."""
        try:
            message = await self._stream.recv(MESSAGE_BYTES)
        except OSError:
            message = b""
        if not message:
            return None
        progress = msgspec.json.decode(message, type=Progress)
        while len(self._untaken) > self._handed - progress.taken:
            self._untaken.popleft()[1].close()
        self._progress = progress
        return progress

    def take_back(self) -> Iterable[socket.socket]:
        """Remove and return the connections that the worker, closed or ended, has not taken."""
        untaken = [connection for _, connection in self._untaken]
        self._untaken.clear()
        self._handed -= len(untaken)
        return untaken
