"""Requests in flight, so that a stop can wait for them."""

from __future__ import annotations

import trio


class _Request:
    """A request in flight. A class of its own, as a generator would take longer than to count."""

    __slots__ = ("_requests", "_waiting")

    def __init__(self, requests: set[_Request], waiting: trio.lowlevel.ParkingLot) -> None:
        self._requests = requests
        self._waiting = waiting

    def __enter__(self) -> None:
        self._requests.add(self)

    def __exit__(self, *_: object) -> None:
        self._requests.remove(self)
        if self._waiting:
            self._waiting.unpark_all()


class InFlight:
    """Knows which requests are being answered.

    Attributes:
        draining: set once the service is about to stop; connections then end with their response.
    """

    def __init__(self) -> None:
        self.draining = False
        self._requests: set[_Request] = set()
        self._waiting = trio.lowlevel.ParkingLot()

    def __len__(self) -> int:
        return len(self._requests)

    def one(self) -> _Request:
        """Count one for as long as the context lasts."""
        return _Request(self._requests, self._waiting)

    async def wait_for_current(self) -> None:
        """Return once all requests that are in flight now have ended, whatever came after them."""
        current = frozenset(self._requests)
        while current & self._requests:
            await self._waiting.park()
