"""Budgets: semaphores that count units, such as bytes, instead of holders."""

from collections import deque
from contextlib import suppress

import trio


class Budget:
    """A limit of `limit` units held at once, granted first come, first served.

    An amount over the limit counts as the limit, and so is granted once nothing else is held.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self._waiting: deque[tuple[int, trio.Event]] = deque()

    def take_nowait(self, amount: int) -> None:
        """Take `amount` units, or raise `trio.WouldBlock` if too few are free or others wait."""
        amount = min(amount, self.limit)
        if self._waiting or self.taken + amount > self.limit:
            raise trio.WouldBlock
        self.taken += amount

    async def take(self, amount: int) -> None:
        """Wait for `amount` units, behind all earlier requests, and take them."""
        await trio.lowlevel.checkpoint_if_cancelled()
        with suppress(trio.WouldBlock):
            self.take_nowait(amount)
            return
        ticket = (min(amount, self.limit), trio.Event())
        self._waiting.append(ticket)
        done = False
        try:
            await ticket[1].wait()
            done = True
        finally:
            if not done:
                self._withdraw(ticket)

    def _withdraw(self, ticket: tuple[int, trio.Event]) -> None:
        if ticket[1].is_set():  # granted just before the cancellation
            self.taken -= ticket[0]
        else:
            self._waiting.remove(ticket)
        self._grant()

    def give_back(self, amount: int) -> None:
        """Return `amount` units, and grant waiting requests that fit now."""
        self.taken -= min(amount, self.limit)
        self._grant()

    def _grant(self) -> None:
        while self._waiting and self.taken + self._waiting[0][0] <= self.limit:
            amount, granted = self._waiting.popleft()
            self.taken += amount
            granted.set()
