"""Small real actors, and what it takes to run them in a test."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import trio
import trio.testing

from cache_actors.supervision import (
    Actor,
    Call,
    Cast,
    ChildSpec,
    Envelope,
    Mailbox,
    RestartIntensityError,
    Started,
    Status,
    Supervisor,
    actor_child,
)

LIMIT = 60.0
"""Seconds after which a test that waits is broken; no passing test waits for the real clock."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Say(Call[str]):
    """Answered with its text."""

    text: str
    size: int = 0

    @property
    def weight(self) -> int:
        return self.size


@dataclass(frozen=True, slots=True)
class Note(Cast):
    """Written in the journal."""

    text: str
    size: int = 0

    @property
    def weight(self) -> int:
        return self.size


@dataclass(frozen=True, slots=True)
class Hold(Call[str]):
    """Answered like `Say`, once the desk's gate is open."""

    text: str


@dataclass(frozen=True, slots=True)
class Defer(Call[str]):
    """Kept, and not answered."""


@dataclass(frozen=True, slots=True)
class Boom(Call[None]):
    """Crashes the actor."""


@dataclass(frozen=True, slots=True)
class Refuse(Call[None]):
    """Answered with the domain error `error`."""

    error: Exception


class Clerk(Actor):
    """Does what it is told and writes it in its desk's journal."""

    def __init__(self, desk: "Desk") -> None:
        self._desk = desk

    async def init(self) -> None:
        self._desk.journal.append("init")
        await self._desk.init_gate.wait()
        if self._desk.init_errors:
            raise self._desk.init_errors.pop()

    async def terminate(self) -> None:
        self._desk.journal.append("terminate")

    async def handle(self, batch: list[Envelope]) -> None:
        for envelope in batch:
            await self._handle_one(envelope)

    async def _handle_one(self, envelope: Envelope) -> None:
        match envelope.message:
            case Say(text):
                self._desk.journal.append(text)
                envelope.reply(text)
            case Note(text):
                self._desk.journal.append(text)
            case Hold(text):
                await self._desk.gate.wait()
                self._desk.journal.append(text)
                envelope.reply(text)
            case Defer():
                pass
            case Refuse(error):
                envelope.fail(error)
            case Boom():
                self._desk.journal.append("boom")
                raise ValueError


class BatchClerk(Clerk):
    """Takes up to three messages at once, and writes down how many it got."""

    batch_limit = 3

    async def handle(self, batch: list[Envelope]) -> None:
        self._desk.batch_sizes.append(len(batch))
        await super().handle(batch)


class Desk:
    """All that outlives a clerk's incarnations: its mailbox, its journal, its gates.

    Attributes:
        root: the tree in which it works, if the fixture has started one.
    """

    root: "Root"

    def __init__(
        self,
        name: str = "clerk",
        *,
        new: type[Clerk] = Clerk,
        capacity: int = 10,
        max_weight: int = 100,
        shutdown: float = 1.0,
    ) -> None:
        self.mailbox = Mailbox(name, capacity=capacity, max_weight=max_weight)
        self.address = self.mailbox.address
        self.child = actor_child(self.mailbox, lambda: new(self), shutdown=shutdown)
        self.journal: list[str] = []
        self.batch_sizes: list[int] = []
        self.gate = trio.Event()
        self.init_gate = trio.Event()
        self.init_gate.set()
        self.init_errors: list[Exception] = []


class Plain:
    """A child that is no actor: writes in the journal what happens to it, crashes when told to."""

    def __init__(
        self,
        name: str,
        journal: list[str],
        *,
        shutdown: float = 1.0,
        wind_down: float = 0.0,
        stop_error: Exception | None = None,
    ) -> None:
        self.child = ChildSpec(name, self._run, shutdown)
        self._journal = journal
        self._wind_down = wind_down
        self._stop_error = stop_error
        self._life = trio.CancelScope()
        self._ending: BaseException | None = None

    async def end(self, error: BaseException | None) -> None:
        """End the incarnation: raise `error`, or just return; wait for what comes of it."""
        self._ending = error
        self._life.cancel()
        await trio.testing.wait_all_tasks_blocked()

    async def _run(self, stop: trio.Event, started: Started) -> None:
        self._note("started")
        started()
        try:
            with trio.CancelScope() as self._life:
                await stop.wait()
                await trio.sleep(self._wind_down)
                self._note("stopped")
                if self._stop_error is not None:
                    raise self._stop_error
                return
        except trio.Cancelled:
            self._note("cancelled")
            raise
        if self._ending is not None:
            try:
                raise self._ending
            finally:
                self._ending = None

    def _note(self, what: str) -> None:
        self._journal.append(f"{self.child.name} {what}")


class Task(Generic[Result]):
    """Something that runs in a task of its own, with its outcome for the test to look at."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self._done = trio.Event()
        self._result: Result | None = None
        self._error: Exception | None = None

    async def run(self, work: Awaitable[Result]) -> None:
        try:
            with self.scope:
                self._result = await work
        except Exception as error:  # whatever it is, the test wants to see it
            self._error = error
        finally:
            self._done.set()

    def is_done(self) -> bool:
        return self._done.is_set()

    async def result(self) -> Result:
        """What came of it, once it is done. Only for tests on the real clock or without threads."""
        outcome = await self.outcome()
        if isinstance(outcome, Exception):
            raise outcome
        assert not self.scope.cancelled_caught, "it was cancelled"
        return outcome

    async def outcome(self) -> Result | Exception:
        """What it returned, or the exception that it raised."""
        with trio.fail_after(LIMIT):
            await self._done.wait()
        return self._error or cast("Result", self._result)

    async def error(self) -> Exception:
        """The exception that it raised."""
        outcome = await self.outcome()
        assert isinstance(outcome, Exception), f"it raised nothing, and returned {outcome!r}"
        return outcome

    async def leave(self) -> None:
        """Cancel it, and return once it has ended for that."""
        self.scope.cancel()
        with trio.fail_after(LIMIT):
            await self._done.wait()
        assert self.scope.cancelled_caught


Ask = Callable[..., Awaitable[Task[Any]]]
"""Start a call, and return when it and the actor are at rest."""


class Root:
    """A root supervisor, as `application.py` would run it."""

    def __init__(self, *children: ChildSpec, max_restarts: int, max_seconds: float) -> None:
        self.supervisor = Supervisor(
            "root", children, max_restarts=max_restarts, max_seconds=max_seconds, log=self._log
        )
        self.started = trio.Event()
        self.ended = trio.Event()
        self.scope = trio.CancelScope()
        self.error: RestartIntensityError | None = None
        self.logged: list[tuple[str, object]] = []
        self._stop = trio.Event()

    async def run(self) -> None:
        try:
            with self.scope:
                await self.supervisor.run(self._stop, self.started.set)
        except RestartIntensityError as error:
            self.error = error
        finally:
            self.ended.set()

    async def stop(self) -> None:
        """Stop the tree, and wait until it has."""
        self._stop.set()
        with trio.fail_after(100 * LIMIT):
            await self.ended.wait()

    async def begin_stop(self) -> None:
        """Ask the tree to stop, and see it come to rest on the way."""
        self._stop.set()
        await trio.testing.wait_all_tasks_blocked()

    def child(self, name: str) -> Status:
        """The status of a child."""
        return next(c for c in self.supervisor.status().children if c.name == name)

    def _log(self, event: str, **fields: object) -> None:
        self.logged.append((event, fields["child"]))


Start = Callable[..., Awaitable[Root]]
"""Start a tree, and return when it is at rest."""
