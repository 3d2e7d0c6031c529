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
SLOW_SECONDS = 0.5
"""How many connections may be on their way to a worker, and for how long. One that is stuck cannot
hold up more of them; the next ones go to the others, or wait in the socket's backlog."""

MESSAGE_BYTES = 4096


class WorkerChannel:
    """Hands connections to one incarnation of a worker, and knows how many it has.

    A connection that the worker has not said to have taken can be given to another: this end keeps
    a copy of it until then.

    Args:
        sock: a `SOCK_SEQPACKET` socket, the other end of which is the worker's.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._stream = trio.socket.from_stdlib_socket(sock)
        self._untaken: deque[tuple[float, socket.socket]] = deque()  # and since when
        self._handed = 0
        self._progress = Progress()
        self._broken = False

    @property
    def closed(self) -> bool:
        """Whether the worker takes no more connections."""
        return self._progress.closed

    def has_room(self) -> bool:
        """Whether the worker can be handed a connection."""
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
        """The number of connections of the worker, with those that are on their way to it."""
        return self._handed - self._progress.ended

    def hand(self, connection: socket.socket) -> None:
        """Send `connection`, which is this channel's from now on."""
        self._untaken.append((trio.current_time(), connection))
        self._handed += 1
        try:
            socket.send_fds(self._sock, [CONNECTION], [connection.fileno()])
        except OSError:  # the worker is gone, or going: what is untaken will be taken back
            self._broken = True

    def drain(self, message: Drain) -> None:
        """Have the worker finish what it has, and end."""
        with suppress(OSError):  # it is gone
            self._sock.send(msgspec.json.encode(message))

    async def receive(self) -> Progress | None:
        """The worker's next word, or None when it is gone."""
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
        """The connections that the worker will not take: it is closed, or gone."""
        untaken = [connection for _, connection in self._untaken]
        self._untaken.clear()
        self._handed -= len(untaken)
        return untaken
