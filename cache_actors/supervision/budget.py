"""A bound on how much may be held at once, in whatever unit its users count."""

from collections import deque
from contextlib import suppress

import trio


class Budget:
    """A first come, first served allowance of `limit` units.

    An amount over the limit counts as the limit, so that an oversized holder is alone rather
    than refused for ever.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self._waiting: deque[tuple[int, trio.Event]] = deque()

    def take_nowait(self, amount: int) -> None:
        """Take `amount` units, or raise `trio.WouldBlock` if they are not free or others wait."""
        amount = min(amount, self.limit)
        if self._waiting or self.taken + amount > self.limit:
            raise trio.WouldBlock
        self.taken += amount

    async def take(self, amount: int) -> None:
        """Take `amount` units, after all who came before have had theirs."""
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
        if ticket[1].is_set():  # cancelled in the instant of the grant: pass the units on
            self.taken -= ticket[0]
        else:
            self._waiting.remove(ticket)
        self._grant()

    def give_back(self, amount: int) -> None:
        """Return `amount` units, and wake those who can go on with what is free now."""
        self.taken -= min(amount, self.limit)
        self._grant()

    def _grant(self) -> None:
        while self._waiting and self.taken + self._waiting[0][0] <= self.limit:
            amount, granted = self._waiting.popleft()
            self.taken += amount
            granted.set()
