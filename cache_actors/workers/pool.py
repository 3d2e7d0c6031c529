"""The pool of workers: it decides which of them gets a connection."""

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
    """Spreads connections over the workers that run: each goes to the one that has the fewest."""

    def __init__(self) -> None:
        self._draining = False
        self._channels: list[WorkerChannel] = []
        self._pending: deque[socket.socket] = deque()
        self._changes = trio.lowlevel.ParkingLot()

    @contextmanager
    def register(self, channel: WorkerChannel) -> Iterator[None]:
        """Count a worker in, for as long as the context lasts."""
        self._channels.append(channel)
        try:
            yield
        finally:
            self._channels.remove(channel)
            self._pending.extend(channel.take_back())
            self.dispatch()

    def put(self, connection: socket.socket) -> None:
        """Give `connection` to a worker, now or when one can take it."""
        self._pending.append(connection)
        self.dispatch()

    def dispatch(self) -> None:
        """Give what is pending to those who can take it: to be called when a worker has changed."""
        for channel in self._channels:
            if channel.closed:
                self._pending.extend(channel.take_back())
        while self._pending:
            takers = [channel for channel in self._channels if channel.has_room()]
            if not takers:
                break
            taker = min(takers, key=lambda channel: channel.load())
            taker.hand(self._pending.popleft())
            self._channels.remove(
                taker
            )  # to the end: of those with as many it is the last, next time
            self._channels.append(taker)
        self._changes.unpark_all()

    async def wait_for_room(self) -> None:
        """Return once a connection can be handed over at once; the next ones better wait."""
        while self._pending or not any(channel.has_room() for channel in self._channels):
            await self._changes.park()

    def drain(self, *, replaced: bool) -> None:
        """Tell all workers to finish what they have; `replaced`: see `Drain`."""
        self._draining = True
        for channel in self._channels:
            channel.drain(Drain(replaced))

    def is_draining(self) -> bool:
        """Whether the workers have been told to finish what they have."""
        return self._draining

    async def wait_closed(self) -> None:
        """Return once no worker takes connections any more."""
        while not all(channel.closed for channel in self._channels):
            await self._changes.park()

    def close(self) -> None:
        """Close the connections that nobody has taken."""
        while self._pending:
            self._pending.popleft().close()
