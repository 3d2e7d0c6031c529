"""Turns: fair queueing of requests, by project.

In a single queue, one project with many requests would delay those of all others. So each project
has a queue of its own. While several projects are active, only a few requests of each are in
progress at once; the next follows when one of them is done. Within a project, clients take turns.

While only one project is active its requests do not wait, since larger batches are faster.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Hashable

    from .shares import Owner

TOGETHER = 16
"""Largest number of requests in progress, of all active projects together and in all workers, which
share cores and disk; but see `LEAST`."""

LEAST = 2
"""Smallest limit on the requests of one project in progress, however many projects are active."""

LATELY = 10.0
"""Time after its last request in which a project counts as active, in seconds."""


class _Line:
    """The queue of a project: the number of requests in progress, and waiting ones by client."""

    __slots__ = ("inside", "seen_at", "waiting")

    def __init__(self) -> None:
        self.inside = 0
        self.seen_at = trio.current_time()
        self.waiting: dict[Hashable, deque[trio.Event]] = {}


class _Turn:
    """One turn. A class of its own, as a generator would cost more than to take turns."""

    __slots__ = ("_owner", "_turns")

    def __init__(self, turns: Turns, owner: Owner) -> None:
        self._turns = turns
        self._owner = owner

    async def __aenter__(self) -> None:
        await self._turns.enter(self._owner)

    async def __aexit__(self, *_: object) -> None:
        self._turns.leave(self._owner)


class Turns:
    """The queues of all projects, in one of `workers` processes that have such queues."""

    def __init__(self, workers: int = 1) -> None:
        self._together = TOGETHER // workers
        self._lines: dict[Hashable, _Line] = {}
        self._counted_at = float("-inf")

    def turn(self, owner: Owner) -> _Turn:
        """A turn, to be waited for, which lasts as long as the context."""
        return _Turn(self, owner)

    async def enter(self, owner: Owner) -> None:
        """Wait for a turn, which `leave` ends. A cancelled wait has no turn to end."""
        line = self._lines.get(owner[0])
        if line is None:
            line = self._lines[owner[0]] = _Line()
        line.seen_at = trio.current_time()  # or `_most` might remove the empty queue
        if not line.waiting and line.inside < self._most():
            line.inside += 1
            return
        turn = trio.Event()
        queue = line.waiting.setdefault(owner[1:], deque())
        queue.append(turn)
        try:
            await turn.wait()
        except trio.Cancelled:
            if turn.is_set():
                self.leave(owner)
            else:
                queue.remove(turn)
                if not queue:
                    del line.waiting[owner[1:]]
            raise

    def leave(self, owner: Owner) -> None:
        """End a turn, and start the next turns of the project."""
        line = self._lines[owner[0]]
        line.inside -= 1
        line.seen_at = trio.current_time()
        most = self._most()
        while line.waiting and line.inside < most:
            sender = next(iter(line.waiting))
            queue = line.waiting.pop(sender)
            line.inside += 1
            queue.popleft().set()
            if queue:
                line.waiting[sender] = queue  # behind the others

    def _most(self) -> float:
        """The largest number of requests of one project in progress at once."""
        if len(self._lines) == 1:
            return inf
        now = trio.current_time()
        if now - self._counted_at > LATELY / 10:
            self._counted_at = now
            for owner, line in list(self._lines.items()):
                if not (line.inside or line.waiting) and now - line.seen_at > LATELY:
                    del self._lines[owner]
        return max(LEAST, self._together // len(self._lines)) if len(self._lines) > 1 else inf
