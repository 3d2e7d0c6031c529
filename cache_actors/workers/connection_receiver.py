"""The worker's end of the channel: receives the connections that the parent has accepted."""

from __future__ import annotations

import array
import math
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
import trio

from .protocol import CONNECTION, Drain, Progress

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Handle = Callable[[trio.SocketStream], Awaitable[None]]

MESSAGE_BYTES = 4096
_ONE_DESCRIPTOR = socket.CMSG_SPACE(array.array("i").itemsize)


class ConnectionReceiver:
    """The `ConnectionSource` of a worker, fed by the parent's `WorkerChannel`.

    Args:
        sock: the worker's end of the channel.
        log_warning: logs a connection that is lost.
    """

    def __init__(
        self, sock: socket.socket, log_warning: Callable[..., object] = lambda _event: None
    ) -> None:
        self._log_warning = log_warning
        self._sock = trio.socket.from_stdlib_socket(sock)
        # Unlimited here, since the parent limits them (`MAX_UNTAKEN`).
        self._arrivals, self._waiting = trio.open_memory_channel[socket.socket](math.inf)
        self._replaced = False
        self._ready = False
        self._taken = 0
        self._ended = 0
        self._closed = False
        self._news = trio.Event()

    async def follow_parent(self, stop: trio.Event, cancel_scope: trio.CancelScope) -> None:
        """Receive from the parent: connections, and a `Drain`, which sets `stop`.

        When the parent has ended, `cancel_scope` is cancelled.
        """
        while True:
            message, connection = await self._receive()
            if connection is not None:
                self._keep(connection)
            elif message == CONNECTION:  # this process has no free descriptor for it
                self._log_warning("connection_lost")
                self._taken += 1
                self._ended += 1
                self._news.set()
            elif message:
                self._replaced |= msgspec.json.decode(message, type=Drain).replaced
                stop.set()
            else:
                cancel_scope.cancel()

    async def report_progress(self, _stop: trio.Event, _cancel_scope: trio.CancelScope) -> None:
        """Send the parent each change of the progress, until cancelled."""
        while True:
            await self._news.wait()
            self._news = trio.Event()
            await self._send_progress()

    def announce(self) -> None:
        """Report that this worker is ready for connections; to be called when its tree runs."""
        self._ready = True
        self._news.set()

    async def serve(self, handle: Handle, connections: trio.Nursery) -> None:
        """Start `handle` in `connections` for each connection that comes, until cancelled."""
        async for connection in self._waiting:
            # Reported before the first byte is read: until then another worker may get it.
            with trio.CancelScope(shield=True):
                self._taken += 1
                await self._send_progress()
            connections.start_soon(self._handle, handle, connection)

    def is_replaced(self) -> bool:
        """Whether another instance gets the new connections; not known before a `Drain`."""
        return self._replaced

    def close(self) -> None:
        """Refuse connections from now on; the waiting ones go to other workers."""
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
        """Wait for the next message and its connection, if any; empty once the parent has ended."""
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

    async def _send_progress(self) -> None:
        progress = Progress(self._ready, self._taken, self._ended, self._closed)
        with suppress(OSError):  # the parent has ended, and this process follows
            await self._sock.send(msgspec.json.encode(progress))
