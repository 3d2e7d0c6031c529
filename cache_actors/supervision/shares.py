"""Shares: a bound on how much may be held at once, which nobody can use up for others.

Theory of operation
-------------------
Who holds something is told by a path from the larger to the smaller: a project, then one of those
who send for it. A project may hold as much as is left when it has it: one that is alone half of the
limit, each of three that come and go a quarter. A sender may hold as much as he leaves of what his
project may have. So there is something left for whoever comes next, and nothing has to be known of
anybody before.

What waits is served project by project, those that hold least first; the one that was served last
comes last. What one sender waits for is served in order.

What is held for somebody who gets nowhere is no use to anyone. A `Holding` says when it has moved
last. When there is not enough for others, those that have not moved for `STALLED` seconds are asked
to let go of what they can do without; but only if their senders hold at least as much as the one
that wants more.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from itertools import count
from math import inf
from typing import TYPE_CHECKING, TypeAlias

import trio

if TYPE_CHECKING:
    from collections.abc import Hashable

STALLED = 0.5
"""Time without a move after which a holding may be asked to let go, in seconds."""

MAX_TURNS = 1_000
"""Largest number of projects whose last turn is remembered."""

Owner: TypeAlias = "tuple[Hashable, ...]"


class Shares:
    """An allowance of `limit` units.

    Args:
        limit: how much all may hold together.
        leave_room: whether there has to be something left for those who come next. Where what is
            held is soon given back it is enough that everybody gets his turn.

    Attributes:
        taken: how much is held.
    """

    def __init__(self, limit: int, *, leave_room: bool = True) -> None:
        self.limit = limit
        self.taken = 0
        self._leave_room = leave_room
        self._held: dict[Owner, int] = {}  # by all beginnings of the paths of those who hold some
        self._holdings: set[Holding] = set()
        self._waiting: dict[Owner, deque[_Ticket]] = {}
        self._reclaimed = float("-inf")
        self._turns = count()
        self._last_turn: dict[Owner, int] = {}

    def held(self, owner: Owner) -> int:
        """How much all those hold whose path begins with `owner`."""
        return self._held.get(owner, 0)

    def fits(self, owner: Owner, amount: int) -> bool:
        """Whether `owner` may have `amount` more. Whoever is the only one may have all there is."""
        if not self._leave_room or not self.taken:
            return self.taken + amount <= self.limit
        left, outer = float(self.limit), self.taken
        for depth in range(1, len(owner) + 1):
            held = self.held(owner[:depth])
            left = (left - (outer - held)) / 2
            if held + amount > left:
                return False
            outer = held
        return True

    def count(self, holding: Holding, amount: int) -> None:
        """Take in that `holding` has grown by `amount`, or has become smaller."""
        holding.amount += amount
        self.taken += amount
        if amount > 0:
            if len(self._last_turn) > MAX_TURNS:
                self._last_turn.clear()
            self._last_turn[holding.owner[:1]] = next(self._turns)
        for depth in range(1, len(holding.owner) + 1):
            held = self._held.get(holding.owner[:depth], 0) + amount
            if held:
                self._held[holding.owner[:depth]] = held
            else:
                self._held.pop(holding.owner[:depth], None)
        if holding.amount:
            self._holdings.add(holding)
        else:
            self._holdings.discard(holding)

    def must_wait(self, owner: Owner, amount: int) -> bool:
        """Whether `owner` can't have `amount` more at once; its own that wait come first."""
        return owner in self._waiting or not self.fits(owner, amount)

    async def wait(self, holding: Holding, amount: int) -> None:
        """Return when `holding` has grown by `amount`."""
        ticket = _Ticket(holding, amount)
        self._waiting.setdefault(holding.owner, deque()).append(ticket)
        try:
            while not ticket.granted.is_set():
                with trio.move_on_after(STALLED if self._leave_room else inf):
                    await ticket.granted.wait()
                if not ticket.granted.is_set():
                    self.reclaim(holding.owner)
        except trio.Cancelled:
            if ticket.granted.is_set():  # in the instant of the grant
                self.count(holding, -amount)
            else:
                self._forget(ticket)
            self.grant()
            raise

    def _forget(self, ticket: _Ticket) -> None:
        queue = self._waiting[ticket.holding.owner]
        queue.remove(ticket)
        if not queue:
            del self._waiting[ticket.holding.owner]

    def grant(self) -> None:
        """Serve those who wait, as far as there is something for them."""
        served = True
        while self._waiting and served:
            served = False
            for owner in sorted(self._waiting, key=self._rank):
                ticket = self._waiting[owner][0]
                if self.fits(owner, ticket.amount):
                    self._forget(ticket)
                    if owner in self._waiting:  # the others' turn comes first
                        self._waiting[owner] = self._waiting.pop(owner)
                    self.count(ticket.holding, ticket.amount)
                    ticket.granted.set()
                    served = True
                    break

    def _rank(self, owner: Owner) -> tuple[int, int]:
        """Who is served first: the one with the least."""
        return self.held(owner[:1]), self._last_turn.get(owner[:1], -1)

    def reclaim(self, owner: Owner) -> None:
        """Have holdings let go that do not move, of those that have no less than `owner`."""
        now = trio.current_time()
        if now < self._reclaimed + STALLED / 5:  # it looks at all of them
            return
        self._reclaimed = now
        for holding in list(self._holdings):
            if holding.moved <= now - STALLED and self.held(holding.owner) >= self.held(owner):
                holding.let_go()


class Holding:
    """What one task of an owner holds, until it gives it back.

    Attributes:
        owner: for whom it is held.
        amount: how much that is.
        moved: when it was last of any use, in `trio.current_time()`.
    """

    def __init__(self, shares: Shares, owner: Owner) -> None:
        self._shares = shares
        self.owner = owner
        self.amount = 0
        self.moved = trio.current_time()

    def move(self) -> None:
        """Say that it is of use at the moment."""
        self.moved = trio.current_time()

    def take_nowait(self, amount: int) -> None:
        """Take `amount` units, or raise `trio.WouldBlock`."""
        amount = min(amount, self._shares.limit)
        self.move()
        if self._shares.must_wait(self.owner, amount):
            self._shares.reclaim(self.owner)
            if self._shares.must_wait(self.owner, amount):
                raise trio.WouldBlock
        self._shares.count(self, amount)

    async def take(self, amount: int) -> None:
        """Take `amount` units when it is this owner's turn."""
        await trio.lowlevel.checkpoint_if_cancelled()
        with suppress(trio.WouldBlock):
            self.take_nowait(amount)
            return
        await self._shares.wait(self, min(amount, self._shares.limit))
        self.move()

    def give_back(self, amount: int | None = None) -> None:
        """Return `amount` units, or all of them, and have those served who can go on now."""
        amount = self.amount if amount is None else amount
        if amount:
            self._shares.count(self, -amount)
            self._shares.grant()

    def let_go(self) -> None:
        """Give back what can be done without; called when it has not moved, and others wait."""


class _Ticket:
    """Somebody who waits for an amount."""

    __slots__ = ("amount", "granted", "holding")

    def __init__(self, holding: Holding, amount: int) -> None:
        self.holding = holding
        self.amount = amount
        self.granted = trio.Event()
