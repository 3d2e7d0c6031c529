"""The acceptor: accepts connections in the parent, and drains the workers on a stop."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from cache_actors.runtime.listen_socket import Arrivals, ListenSocket
    from cache_actors.supervision import Started

    from .pool import Pool


class Acceptor:
    """Accepts connections at `sock`, and puts them into `pool`."""

    def __init__(self, sock: ListenSocket, pool: Pool) -> None:
        self._sock = sock
        self._pool = pool

    async def run(self, stop: trio.Event, started: Started) -> None:
        """Accept until `stop` is set, then drain the workers.

        Connections are accepted for as long as a worker takes them, such as requests for `/up`.
        """
        with self._sock.listen() as arrivals:
            async with trio.open_nursery() as accepting:
                accepting.start_soon(self._accept, arrivals)
                started()
                await stop.wait()
                self._pool.drain(replaced=self._sock.is_replaced())
                await self._pool.wait_closed()
                accepting.cancel_scope.cancel()
        self._sock.close()
        self._pool.close()

    async def _accept(self, arrivals: Arrivals) -> None:
        while True:
            await self._pool.wait_for_room()
            connection = await arrivals.next()
            self._pool.put(socket.socket(fileno=connection.detach()))
