"""What the tests of several actors share."""

import errno
import os
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, Self, cast

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from cache_actors.actors.evictor import Stored
from cache_actors.kinds import Kind
from cache_actors.storage.files.temporary import TemporaryFolder
from cache_actors.storage.layout import Key, Project, StoredKey
from cache_actors.supervision import Mailbox, Shares
from tests.supervision.small_actors import Result, Root, Task

PROJECT = Project("acme", "app")
OTHER_PROJECT = Project("acme", "other-app")


def artifact(entry_id: str, project: Project = PROJECT) -> Key:
    return Key(project, Kind.CAS, entry_id)


Run = Callable[..., Awaitable[Root]]
"""Run a tree with these children in the background, and return once it has started."""


class Log(list[dict[str, Any]]):
    """What has been logged: the events' names and fields."""

    def __call__(self, event: str, **fields: Any) -> None:
        assert len(self) < 1000, "it logs without end"
        self.append({"event": event, **fields})

    def of(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self if line["event"] == event]


class Tasks:
    """What runs in tasks of its own, in the nursery of the test."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery

    def start(self, work: Awaitable[Result]) -> Task[Result]:
        """Have `work` run in a task of its own from the next step of the scheduler on."""
        task = Task[Result]()
        self.nursery.start_soon(task.run, work)
        return task

    async def begin(self, work: Awaitable[Result]) -> Task[Result]:
        """Start `work`, and return when everything is at rest or in a thread."""
        task = self.start(work)
        await trio.testing.wait_all_tasks_blocked()
        return task


async def after(clock: MockClock, seconds: float) -> None:
    """Let time go by, and return when everything is at rest before and after."""
    await trio.testing.wait_all_tasks_blocked()
    clock.jump(seconds)
    await trio.testing.wait_all_tasks_blocked()


class CountingThreads:
    """A limiter of threads that counts how many trips there were."""

    def __init__(self, most: int = 8) -> None:
        self._limiter = trio.CapacityLimiter(most)
        self.trips = 0

    def as_limiter(self) -> trio.CapacityLimiter:
        """Itself: trio takes anything with these two methods, but its type says otherwise."""
        return cast("trio.CapacityLimiter", self)

    async def acquire_on_behalf_of(self, borrower: Any) -> None:
        await self._limiter.acquire_on_behalf_of(borrower)
        self.trips += 1

    def release_on_behalf_of(self, borrower: Any) -> None:
        self._limiter.release_on_behalf_of(borrower)


def fail_at(patch: pytest.MonkeyPatch, call: str, number: int = errno.ENOSPC) -> None:
    """Have a call to the system fail, as on a full disk, with a path that nobody should be told."""

    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(number, os.strerror(number), "/secret/path")

    patch.setattr(os, call, fail)


def leftovers(temporary: TemporaryFolder) -> list[str]:
    """The temporary files that there are, with a name or held open without one."""
    named = [path.name for path in temporary.path.iterdir()]
    descriptors: list[str] = []
    for fd in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            descriptors.append(os.readlink(f"/proc/self/fd/{fd}"))  # noqa: PTH115
        except FileNotFoundError:  # that of the listing itself
            continue
    return named + [name for name in descriptors if name.startswith(f"{temporary.path}/")]


class WatchedShares(Shares):
    """Shares that remember the most that was taken at one time."""

    most = 0

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "taken":
            self.most = max(self.most, value)
        super().__setattr__(name, value)


class Body:
    """The body of an upload, as it arrives: `pieces` at once, then, once `come` is set, `rest`.

    An iterator rather than a generator, as the real one is: it may be left half read.

    Attributes:
        is_read: whether anyone has begun to read it.
    """

    def __init__(self, *pieces: bytes, rest: bytes = b"") -> None:
        self.come = trio.Event()
        self.is_read = False
        self._pieces = list(reversed(pieces))
        self._rest = rest

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        self.is_read = True
        await trio.lowlevel.checkpoint()
        if self._pieces:
            return self._pieces.pop()
        await self.come.wait()
        rest, self._rest = self._rest, b""
        if not rest:
            raise StopAsyncIteration
        return rest


class FastBody(Body):
    """A body that is all there, and that a thread can read on in.

    Attributes:
        by_threads: bytes that one has read.
    """

    def __init__(self, content: bytes, size: int = 64 * 1024) -> None:
        super().__init__(*(content[at : at + size] for at in range(0, len(content), size)))
        self.come.set()
        self.by_threads = 0

    def read_in_thread(self, buffer: memoryview) -> int:
        if not self._pieces:
            return 0
        piece = self._pieces.pop()
        buffer[: len(piece)] = piece
        self.by_threads += len(piece)
        return len(piece)


def in_chunks(content: bytes, size: int = 64 * 1024) -> Body:
    """A body that is all there."""
    body = Body(*(content[start : start + size] for start in range(0, len(content), size)))
    body.come.set()
    return body


async def told(evictor: Mailbox) -> list[StoredKey]:
    """What an evictor has been told of, which only this function listens for."""
    batch = await evictor.take(1000) if evictor.depth() else []
    messages = [envelope.message for envelope in batch]
    return [each for m in messages if isinstance(m, Stored) for each in m.batch]
