"""The listener: takes connections, and closes those that are idle, under the tree's supervision.

Hypercorn's `serve` is not used, as it ends, with every request in flight, when one connection
raises, and closes connections that come while it drains. What it does use of Hypercorn is in
`connection.py`. The socket (`runtime/listen_socket.py`) outlives the listener's crashes.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import trio
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext

from .connection import MAX_HEADER_BYTES, Connection

if TYPE_CHECKING:
    from cache_actors.http.app import CacheApp
    from cache_actors.runtime.listen_socket import ConnectionSource
    from cache_actors.supervision import Started

IDLE_SECONDS = 75.0
"""Longest time that a connection may be idle, in seconds; longer than nginx keeps its own (15 s),
so that nginx never sends a request into a connection that is being closed."""

DRAIN_SECONDS = 30.0
"""Longest time that requests in flight may take when the service stops, in seconds."""

HAND_OVER_SECONDS = 20.0
"""Time in seconds for which idle connections are kept for nginx when another instance has taken
over. nginx closes them after 15 s, and so never uses one that is just being closed."""

LATE_SECONDS = 1.0
"""Longest time until the first request on a connection that is opened while the service drains, in
seconds."""

CHECK_IDLE_SECONDS = 1.0
"""Pause between two searches for idle connections, in seconds."""


class _Config(Config):
    """Hypercorn's configuration, which tells the time once a second rather than for each answer."""

    accesslog = errorlog = None
    include_server_header = False
    keep_alive_max_requests = 1_000_000
    h11_max_incomplete_size = 3 * MAX_HEADER_BYTES  # the target, the token, and all else
    _second = 0
    _headers: list[tuple[bytes, bytes]]

    def response_headers(self, protocol: str) -> list[tuple[bytes, bytes]]:
        """The headers of all responses."""
        second = int(time.time())
        if second != self._second:
            self._second, self._headers = second, super().response_headers(protocol)
        return self._headers


class Listener:
    """Answers the connections that come from `source`."""

    def __init__(self, app: CacheApp, source: ConnectionSource) -> None:
        self._app = app
        self._source = source
        self._config = _Config()
        self._connections: set[Connection] = set()
        self._changed = trio.lowlevel.ParkingLot()

    async def run(self, stop: trio.Event, started: Started) -> None:
        """Serve until `stop` is set, then drain.

        Until the requests that were in flight then have ended, new ones are still taken: somebody
        may ask `/up` what is going on. Then the socket is closed, and the last ones end.

        When another instance has taken over, nginx may still use the connections that it keeps to
        this one. They are left to it until it closes them, or has been told to with an answer.
        """
        context = WorkerContext(None)
        async with trio.open_nursery() as connections:
            connections.start_soon(self._close_idle, context)
            async with trio.open_nursery() as accepting:
                serve = partial(self._serve, context)
                accepting.start_soon(self._source.serve, serve, connections)
                started()
                await stop.wait()
                self._app.in_flight.draining = True
                with trio.move_on_after(DRAIN_SECONDS) as drain:
                    if self._source.is_replaced():
                        with trio.move_on_after(HAND_OVER_SECONDS):
                            await self._wait_for_no_connection()
                    await context.terminated.set()
                    self._end_idle(0)
                    await self._app.in_flight.wait_for_current()
                accepting.cancel_scope.cancel()
            self._source.close()
            with trio.CancelScope(deadline=drain.deadline):
                await self._app.in_flight.wait_for_current()
                await trio.lowlevel.checkpoint()  # let the last connections close by themselves
            connections.cancel_scope.cancel()

    async def _serve(self, context: WorkerContext, stream: trio.SocketStream) -> None:
        connection = Connection(self._app, self._config, context, stream)
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.remove(connection)
            self._changed.unpark_all()

    async def _close_idle(self, context: WorkerContext) -> None:
        """Close connections that have been idle for too long, until cancelled."""
        while True:
            await trio.sleep(CHECK_IDLE_SECONDS)
            self._end_idle(LATE_SECONDS if context.terminated.is_set() else IDLE_SECONDS)

    def _end_idle(self, seconds: float) -> None:
        """Close all connections that have been idle for so long."""
        since = trio.current_time() - seconds
        for connection in self._connections:
            connection.end_if_idle(since)

    async def _wait_for_no_connection(self) -> None:
        while self._connections:
            await self._changed.park()
