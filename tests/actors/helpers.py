"""What the tests of several actors share."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Protocol, Self, TypeVar, cast

import trio
import trio.testing

from cache_actors.actors.evictor import Stored
from cache_actors.storage.layout import Entry, Kind, Project
from cache_actors.supervision import Budget, Mailbox

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    import pytest

    from cache_actors.storage.temporary import TemporaryFolder
    from cache_actors.supervision import ChildSpec
    from tests.supervision.small_actors import Root

Result = TypeVar("Result")

PROJECT = Project("acme", "app")
OTHER_PROJECT = Project("acme", "other-app")
LIMIT = 10.0
"""Seconds after which a test that waits for a thread is broken."""


def artifact(entry_id: str, project: Project = PROJECT) -> Entry:
    return Entry(project, Kind.CAS, entry_id)


def remove(path: Path) -> None:
    """Remove a file, as an eviction by another process does."""
    path.unlink()


class Run(Protocol):
    """Run a tree with these children in the background, and return once it has started."""

    async def __call__(self, *children: ChildSpec) -> Root: ...


class Task(Generic[Result]):
    """Something that runs in a task of its own, with its outcome for the test to look at."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self._done = trio.Event()
        self._result: Result | None = None
        self._error: Exception | None = None

    async def run(self, work: Callable[[], Awaitable[Result]]) -> None:
        try:
            with self.scope:
                self._result = await work()
        except Exception as error:  # whatever it is, the test wants to see it
            self._error = error
        finally:
            self._done.set()

    def is_done(self) -> bool:
        return self._done.is_set()

    async def result(self) -> Result:
        """What came of it, once it is done. Only for tests on the real clock or without threads."""
        with trio.fail_after(LIMIT):
            await self._done.wait()
        if self._error is not None:
            raise self._error
        assert not self.scope.cancelled_caught, "it was cancelled"
        return cast("Result", self._result)

    async def error(self) -> Exception:
        """The exception that it raised."""
        with trio.fail_after(LIMIT):
            await self._done.wait()
        assert self._error is not None, f"it raised nothing, and returned {self._result!r}"
        return self._error

    async def cancelled(self) -> None:
        """Return once it has ended because of its scope."""
        with trio.fail_after(LIMIT):
            await self._done.wait()
        assert self.scope.cancelled_caught


async def begin(nursery: trio.Nursery, work: Callable[[], Awaitable[Result]]) -> Task[Result]:
    """Start `work` in a task of its own, and return when everything is at rest or in a thread."""
    task = Task[Result]()
    nursery.start_soon(task.run, work)
    await trio.testing.wait_all_tasks_blocked()
    return task


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


class WatchedBudget(Budget):
    """A budget that remembers the most that was taken at one time."""

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
