"""A worker's endpoint: the connections that its parent has accepted for it."""

from __future__ import annotations

import array
import math
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
import trio

from .messages import CONNECTION, Drain, Progress

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Handle = Callable[[trio.SocketStream], Awaitable[None]]

MESSAGE_BYTES = 4096
_ONE_DESCRIPTOR = socket.CMSG_SPACE(array.array("i").itemsize)


class HandedConnections:
    """The worker's end of the channel to its parent; an `Endpoint`.

    Args:
        sock: the socket whose other end is the parent's `Link`.
        say: logs a warning about a connection that is lost.
    """

    def __init__(
        self, sock: socket.socket, say: Callable[..., object] = lambda _event: None
    ) -> None:
        self._say = say
        self._sock = trio.socket.from_stdlib_socket(sock)
        # As many as the parent allows to wait.
        self._arrivals, self._waiting = trio.open_memory_channel[socket.socket](math.inf)
        self._replaced = False
        self._ready = False
        self._taken = 0
        self._ended = 0
        self._closed = False
        self._news = trio.Event()

    async def follow_parent(self, stop: trio.Event, everything: trio.CancelScope) -> None:
        """Take in what the parent sends; set `stop` when it says so. The end of it is the end."""
        while True:
            message, connection = await self._receive()
            if connection is not None:
                self._keep(connection)
            elif message == CONNECTION:  # there was no descriptor free for it: it is lost
                self._say("connection_lost")
                self._taken += 1
                self._ended += 1
                self._news.set()
            elif message:
                self._replaced = msgspec.json.decode(message, type=Drain).replaced
                stop.set()
            else:
                everything.cancel()

    async def tell_parent(self, _stop: trio.Event, _everything: trio.CancelScope) -> None:
        """Tell the parent what has changed, until cancelled."""
        while True:
            await self._news.wait()
            self._news = trio.Event()
            await self._tell()

    def announce(self) -> None:
        """Have connections come here: to be called once, when the tree runs."""
        self._ready = True
        self._news.set()

    async def serve(self, handle: Handle, connections: trio.Nursery) -> None:
        """Start `handle` in `connections` for each connection that comes, until cancelled."""
        async for connection in self._waiting:
            # Told before its first byte is read: until then it could be given to another worker.
            with trio.CancelScope(shield=True):
                self._taken += 1
                await self._tell()
            connections.start_soon(self._handle, handle, connection)

    def is_replaced(self) -> bool:
        """Whether another instance gets the new connections by now; known once it has to drain."""
        return self._replaced

    def close(self) -> None:
        """Take no more connections, ever: those that wait go to other workers."""
        self._closed = True
        self._news.set()
        with suppress(trio.WouldBlock):
            while True:
                self._waiting.receive_nowait().close()

    def _keep(self, connection: socket.socket) -> None:
        if self._closed:
            connection.close()
        else:
            self._arrivals.send_nowait(connection)

    async def _handle(self, handle: Handle, connection: socket.socket) -> None:
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(connection))
        try:
            await handle(stream)
        finally:
            stream.socket.close()
            self._ended += 1
            self._news.set()

    async def _receive(self) -> tuple[bytes, socket.socket | None]:
        """What comes next: bytes and a connection, bytes alone, or neither at the parent's end."""
        try:
            message, ancillary, _, _ = await self._sock.recvmsg(
                MESSAGE_BYTES, _ONE_DESCRIPTOR, socket.MSG_CMSG_CLOEXEC
            )
        except OSError:
            return b"", None
        descriptors = array.array("i")
        for _, _, data in ancillary:
            descriptors.frombytes(data)
        return message, socket.socket(fileno=descriptors[0]) if descriptors else None

    async def _tell(self) -> None:
        progress = Progress(self._ready, self._taken, self._ended, self._closed)
        with suppress(OSError):  # the parent is gone, and with it this process in a moment
            await self._sock.send(msgspec.json.encode(progress))
