"""The pool of workers, which chooses the worker for each connection."""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from .protocol import Drain

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from .channel import WorkerChannel


class Pool:
    """Sends each connection to the running worker that has the fewest."""

    def __init__(self) -> None:
        self._draining = False
        self._channels: list[WorkerChannel] = []
        self._pending: deque[socket.socket] = deque()
        self._changes = trio.lowlevel.ParkingLot()

    @contextmanager
    def register(self, channel: WorkerChannel) -> Iterator[None]:
        """Add a worker to the pool for as long as the context lasts."""
        self._channels.append(channel)
        try:
            yield
        finally:
            self._channels.remove(channel)
            self._pending.extend(channel.take_back())
            self.dispatch()

    def put(self, connection: socket.socket) -> None:
        """Send `connection` to a worker, now or once one has room."""
        self._pending.append(connection)
        self.dispatch()

    def dispatch(self) -> None:
        """Send pending connections to workers with room; to be called when a worker has changed."""
        for channel in self._channels:
            if channel.closed:
                self._pending.extend(channel.take_back())
        while self._pending:
            takers = [channel for channel in self._channels if channel.has_room()]
            if not takers:
                break
            taker = min(takers, key=lambda channel: channel.load())
            taker.hand(self._pending.popleft())
            self._channels.remove(taker)  # to the end, so that workers of equal load take turns
            self._channels.append(taker)
        self._changes.unpark_all()

    async def wait_for_room(self) -> None:
        """Wait until a connection could be sent to a worker at once."""
        while self._pending or not any(channel.has_room() for channel in self._channels):
            await self._changes.park()

    def drain(self, *, replaced: bool) -> None:
        """Ask all workers to finish their requests, and end; `replaced` as in `Drain`."""
        self._draining = True
        for channel in self._channels:
            channel.drain(Drain(replaced))

    def is_draining(self) -> bool:
        """Whether the workers have been asked to drain."""
        return self._draining

    async def wait_closed(self) -> None:
        """Wait until no worker takes connections any more."""
        while not all(channel.closed for channel in self._channels):
            await self._changes.park()

    def close(self) -> None:
        """Close the connections that no worker has taken."""
        while self._pending:
            self._pending.popleft().close()
