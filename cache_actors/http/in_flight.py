"""What is going on, requests or connections, so that a stop can wait for it."""

from __future__ import annotations

import itertools
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator


class InFlight:
    """Knows which requests are being answered, or which connections are open.

    Attributes:
        draining: set once the service is about to stop; connections then end with their response.
    """

    def __init__(self) -> None:
        self.draining = False
        self._numbers = itertools.count()
        self._requests: set[int] = set()
        self._waiting = trio.lowlevel.ParkingLot()

    def __len__(self) -> int:
        return len(self._requests)

    @contextmanager
    def one(self) -> Iterator[None]:
        """Count one for as long as the context lasts."""
        number = next(self._numbers)
        self._requests.add(number)
        try:
            yield
        finally:
            self._requests.remove(number)
            self._waiting.unpark_all()

    async def wait_for_current(self) -> None:
        """Return once all requests that are in flight now have ended, whatever came after them."""
        current = frozenset(self._requests)
        while current & self._requests:
            await self._waiting.park()

    async def wait_for_none(self) -> None:
        """Return once there is none."""
        while self._requests:
            await self._waiting.park()
