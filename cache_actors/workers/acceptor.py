"""The acceptor: accepts connections in the parent, and ends the service's stop for the workers."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from cache_actors.http.endpoint import BoundSocket
    from cache_actors.supervision import Started

    from .pool import Pool

BUSY_SECONDS = 0.1
"""Pause when the system has no more descriptors, or no memory for one."""

_BUSY = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Acceptor:
    """Accepts connections at `sock`, and puts them into `pool`."""

    def __init__(self, sock: BoundSocket, pool: Pool) -> None:
        self._sock = sock
        self._pool = pool

    async def run(self, stop: trio.Event, started: Started) -> None:
        """Accept until `stop` is set, then drain the workers.

        While one of them still has something to finish, it also takes new connections: somebody
        may ask `/up` what is going on.
        """
        with self._sock.listen() as listener:
            async with trio.open_nursery() as accepting:
                accepting.start_soon(self._accept, listener)
                started()
                await stop.wait()
                self._pool.drain(replaced=self._sock.is_replaced())
                await self._pool.wait_closed()
                accepting.cancel_scope.cancel()
        self._sock.close()
        self._pool.close()

    async def _accept(self, listener: trio.socket.SocketType) -> None:
        while True:
            await self._pool.wait_for_room()
            connection = await _accept_one(listener)
            if connection is not None:
                self._pool.put(connection)


async def _accept_one(listener: trio.socket.SocketType) -> socket.socket | None:
    """The next connection, or None if there is none after all."""
    try:
        connection, _ = await listener.accept()
    except OSError as error:
        if error.errno in _BUSY:
            await trio.sleep(BUSY_SECONDS)
        elif error.errno != errno.ECONNABORTED:
            raise
        return None
    return socket.socket(fileno=connection.detach())
