"""Shares: a limit on units held in total, which no project and no client can exhaust.

Theory of operation
-------------------
An owner is a path: a project, then one client of that project. A project may take half of what the
others leave free (`SHARE_OF_FREE`): a single project gets half of the limit, and each of three
projects a quarter. A client, likewise, may take half of what the others leave of its project's
share: a single client gets a quarter of the limit. So the next owner
always finds some units, although the owners are not known beforehand.

Waiting requests are granted by project: the project that holds least comes first, and among equals
the one that was served longest ago. Requests of one client are granted in order.

Who holds units and needs more (`Holding.grow`) must not wait for units that are given back only
after its own. So it goes before those who hold none, and its project's share limits it only while
another holding of the project does not wait. If all holdings wait for more, and there is not enough
for any of them, the last one that asked is refused.

A stalled client must not keep others waiting. Each `Holding` records when it last made progress.
While a request waits, holdings without progress for `STALLED` seconds are asked to release their
surplus; but only those of owners that hold at least as much as the waiting owner.
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

SHARE_OF_FREE = 0.5
"""Largest share that an owner may hold of what all others leave free: of the limit for a project,
of its project's share for a client."""

STALLED = 0.5
"""Time without progress after which a holding may be asked to release its surplus, in seconds."""

MAX_REMEMBERED_PROJECTS = 1_000
"""Largest number of projects whose last turn is remembered."""

Owner: TypeAlias = "tuple[Hashable, ...]"


class Shares:
    """A limit of `limit` units, shared by all owners.

    Args:
        limit: the largest number of units held by all owners together.
        leave_room: whether owners must leave room for the next one. If units are soon given back,
            taking turns is enough.

    Attributes:
        taken: the number of units held by all owners together.
    """

    def __init__(self, limit: int, *, leave_room: bool = True) -> None:
        self.limit = limit
        self.taken = 0
        self._leave_room = leave_room
        self._held: dict[Owner, int] = {}  # by each prefix of the holding owners' paths
        self._holdings: set[Holding] = set()
        self._waiting: dict[Owner, deque[_Ticket]] = {}
        self._growing: list[_Ticket] = []
        self._reclaimed = float("-inf")
        self._turns = count()
        self._last_turn: dict[Owner, int] = {}

    def held(self, owner: Owner) -> int:
        """The units held by all owners whose path begins with `owner`."""
        return self._held.get(owner, 0)

    def fits(self, owner: Owner, amount: int) -> bool:
        """Whether `owner` may take `amount` units more; if nothing is held, up to the limit."""
        if not self._leave_room or not self.taken:
            return self.taken + amount <= self.limit
        left, outer = float(self.limit), self.taken
        for depth in range(1, len(owner) + 1):
            held = self.held(owner[:depth])
            left = (left - (outer - held)) * SHARE_OF_FREE
            if held + amount > left:
                return False
            outer = held
        return True

    def count(self, holding: Holding, amount: int) -> None:
        """Record that `holding` grows by `amount` units, or shrinks by a negative amount."""
        holding.amount += amount
        self.taken += amount
        if amount > 0:
            if len(self._last_turn) > MAX_REMEMBERED_PROJECTS:
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
        """Whether `owner` cannot take `amount` units now, or others of its own come before it."""
        return owner in self._waiting or self._grows(owner) or not self.fits(owner, amount)

    def _grows(self, owner: Owner) -> bool:
        """Whether a holding of that project waits for more."""
        return any(each.holding.owner[:1] == owner[:1] for each in self._growing)

    async def wait(self, holding: Holding, amount: int) -> None:
        """Wait until `holding` is granted `amount` units more."""
        ticket = _Ticket(holding, amount)
        self._waiting.setdefault(holding.owner, deque()).append(ticket)
        await self._answer_to(ticket)

    async def grow(self, holding: Holding, amount: int) -> None:
        """Wait until `holding`, which is not empty, is granted `amount` units more.

        Raises:
            trio.WouldBlock: all holdings wait for more, and there is not enough for any.
        """
        ticket = _Ticket(holding, amount)
        self._growing.append(ticket)
        self.grant()
        await self._answer_to(ticket)
        if ticket.is_refused:
            raise trio.WouldBlock

    async def _answer_to(self, ticket: _Ticket) -> None:
        """Wait until a request is granted or refused."""
        try:
            while not ticket.answered.is_set():
                with trio.move_on_after(STALLED if self._leave_room else inf):
                    await ticket.answered.wait()
                if not ticket.answered.is_set():
                    self.reclaim(ticket.holding.owner)
        except trio.Cancelled:
            if not ticket.answered.is_set():
                self._forget(ticket)
            elif not ticket.is_refused:  # granted just before the cancellation
                self.count(ticket.holding, -ticket.amount)
            self.grant()
            raise

    def _forget(self, ticket: _Ticket) -> None:
        if ticket in self._growing:
            self._growing.remove(ticket)
            return
        queue = self._waiting[ticket.holding.owner]
        queue.remove(ticket)
        if not queue:
            del self._waiting[ticket.holding.owner]

    def grant(self) -> None:
        """Grant waiting requests until none of them fits."""
        self._grant_growing()
        served = True
        while self._waiting and served:
            served = False
            for owner in sorted(self._waiting, key=self._rank):
                ticket = self._waiting[owner][0]
                if not self._grows(owner) and self.fits(owner, ticket.amount):
                    self._grant(ticket)
                    if owner in self._waiting:  # the others' turn comes first
                        self._waiting[owner] = self._waiting.pop(owner)
                    served = True
                    break

    def _grant(self, ticket: _Ticket) -> None:
        self._forget(ticket)
        self.count(ticket.holding, ticket.amount)
        ticket.answered.set()

    def _grant_growing(self) -> None:
        """Grant what holdings wait for that are not empty, or refuse one if none could go on."""
        while self._growing:
            idle = self._holdings - {each.holding for each in self._growing}
            projects = {each.owner[:1] for each in idle}  # with a holding that does not wait
            for ticket in self._growing:
                owner, amount = ticket.holding.owner, ticket.amount
                is_possible = self.taken + amount <= self.limit
                if is_possible and (owner[:1] not in projects or self.fits(owner, amount)):
                    self._grant(ticket)
                    break
            else:
                if not idle:
                    ticket = self._growing.pop()
                    ticket.is_refused = True
                    ticket.answered.set()
                return

    def _rank(self, owner: Owner) -> tuple[int, int]:
        """The sort key for waiting owners; the lowest is served first."""
        return self.held(owner[:1]), self._last_turn.get(owner[:1], -1)

    def reclaim(self, owner: Owner) -> None:
        """Ask for the surplus of stalled holdings, if their owner holds as much as `owner`."""
        now = trio.current_time()
        if now < self._reclaimed + STALLED / 5:  # limits the cost, as every holding is visited
            return
        self._reclaimed = now
        for holding in list(self._holdings):
            if holding.moved <= now - STALLED and self.held(holding.owner) >= self.held(owner):
                holding.let_go()


class Holding:
    """The units that one task holds for an owner.

    Attributes:
        owner: the owner of the units.
        amount: the number of units.
        moved: when the task last made progress, in `trio.current_time()`.
    """

    def __init__(self, shares: Shares, owner: Owner) -> None:
        self._shares = shares
        self.owner = owner
        self.amount = 0
        self.moved = trio.current_time()

    def move(self) -> None:
        """Record progress."""
        self.moved = trio.current_time()

    def take_nowait(self, amount: int) -> None:
        """Take `amount` units, or raise `trio.WouldBlock` if this owner has to wait for them."""
        amount = min(amount, self._shares.limit)
        self.move()
        if self._shares.must_wait(self.owner, amount):
            self._shares.reclaim(self.owner)
            if self._shares.must_wait(self.owner, amount):
                raise trio.WouldBlock
        self._shares.count(self, amount)

    async def take(self, amount: int) -> None:
        """Wait for this owner's turn, and take `amount` units."""
        await trio.lowlevel.checkpoint_if_cancelled()
        with suppress(trio.WouldBlock):
            self.take_nowait(amount)
            return
        await self._shares.wait(self, min(amount, self._shares.limit))
        self.move()

    async def grow(self, amount: int) -> None:
        """Take `amount` units beside those that are held, and wait only for who can go on.

        Raises:
            trio.WouldBlock: all who hold units wait for more, and there is not enough for any.
        """
        if not self.amount:
            await self.take(amount)
            return
        await trio.lowlevel.checkpoint_if_cancelled()
        self.move()
        await self._shares.grow(self, amount)
        self.move()

    def give_back(self, amount: int | None = None) -> None:
        """Return `amount` units, or all of them, and grant waiting requests that fit now."""
        amount = self.amount if amount is None else amount
        if amount:
            self._shares.count(self, -amount)
            self._shares.grant()

    def let_go(self) -> None:
        """Return the surplus. Called when the task is stalled and others wait; to be overridden."""


class _Ticket:
    """A waiting request for `amount` units."""

    __slots__ = ("amount", "answered", "holding", "is_refused")

    def __init__(self, holding: Holding, amount: int) -> None:
        self.holding = holding
        self.amount = amount
        self.answered = trio.Event()
        self.is_refused = False
