"""What the tests of several actors share."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, Self, cast

import trio
import trio.testing

from cache_actors.actors.evictor import Stored
from cache_actors.kinds import Kind
from cache_actors.storage.layout import Entry, Project
from cache_actors.supervision import Mailbox, Shares
from tests.supervision.small_actors import Result, Task

if TYPE_CHECKING:
    from collections.abc import Awaitable

    import pytest
    from trio.testing import MockClock

    from cache_actors.storage.temporary import TemporaryFolder
    from cache_actors.supervision import ChildSpec
    from tests.supervision.small_actors import Root

PROJECT = Project("acme", "app")
OTHER_PROJECT = Project("acme", "other-app")


def artifact(entry_id: str, project: Project = PROJECT) -> Entry:
    return Entry(project, Kind.CAS, entry_id)


class Run(Protocol):
    """Run a tree with these children in the background, and return once it has started."""

    async def __call__(self, *children: ChildSpec) -> Root: ...


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


def fail_writes(monkeypatch: pytest.MonkeyPatch, number: int = errno.ENOSPC) -> None:
    """Have every write to a file fail, as on a full disk."""

    def writev(_fd: int, _buffers: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "writev", writev)


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
        error: if set, what reading on raises, instead of yielding the rest.
    """

    def __init__(self, *pieces: bytes, rest: bytes = b"", error: Exception | None = None) -> None:
        self.come = trio.Event()
        self.is_read = False
        self.error = error
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
        if self.error is not None:
            raise self.error
        rest, self._rest = self._rest, b""
        if not rest:
            raise StopAsyncIteration
        return rest


def in_chunks(content: bytes, size: int = 64 * 1024) -> Body:
    """A body that is all there."""
    body = Body(*(content[start : start + size] for start in range(0, len(content), size)))
    body.come.set()
    return body


async def told(evictor: Mailbox) -> list[int]:
    """The sizes that an evictor has been told of, which only this function listens for."""
    batch = await evictor.take(1000) if evictor.depth() else []
    return [envelope.message.size for envelope in batch if isinstance(envelope.message, Stored)]


def leave_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the disk look as if nothing but the reserve was left."""

    class Room:
        f_frsize = 4096
        f_blocks = f_files = 1_000_000
        f_bfree = f_bavail = 100
        f_ffree = f_favail = 500_000

    monkeypatch.setattr(os, "statvfs", lambda _: Room)
