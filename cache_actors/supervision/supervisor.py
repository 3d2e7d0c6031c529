"""Supervisors: they start children in order, restart those that crash, and stop them in reverse.

Theory of operation
-------------------
A supervisor is a task with a list of `ChildSpec`s. It starts them one after another, each when the
one before it is ready, and then watches them. Every child is *permanent*: if it ends, by an
exception or a plain return, without having been asked to, that is a crash. The strategy is *one for
one*: a crashed child is restarted at once, and its siblings are left alone. The tree needs no other
restart type and no other strategy. Mailboxes outlive crashes (see `mailbox.py`), so no child ever
holds a stale reference to another, and none has to be restarted along with it.

*Intensity.* A supervisor whose children crash more than `max_restarts` times within `max_seconds`
gives up: it cancels the other children, last started first (all that is below one of them at once),
and raises `RestartIntensityError`. To its parent that is a crash like any other. So a fault that
restarts do not mend climbs the tree; when the root gives up, the process ends, and the container
runtime takes over. Restarts are not delayed, since a delay near `max_seconds / max_restarts` would
keep the limit from ever being reached. The mailboxes below a supervisor that gave up stay open, as
its parent starts it again.

*Stopping* is ordered, last started first. Each child is asked to stop, by its `stop` event and by
closing its mailbox. After `shutdown` seconds it is cancelled. The supervisor does this itself, as a
trio nursery would cancel all children at once. Messages left in a stopped child's mailbox are
answered with `ActorStopped`. A supervisor cannot end a thread or a shielded wait, so the process
needs a hard limit of its own (`runtime/lifecycle.py`).

*Status* is read from the supervisor's own records and never asked of a child, so a stuck child
cannot hide it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Protocol

import trio

from .errors import ActorCrashed, ActorStopped, RestartIntensityError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .mailbox import Mailbox

STUCK_AFTER = 10.0
"""Time without a finished message, while some wait, after which an actor is stuck, in seconds."""


class Started(Protocol):
    """The callback by which an incarnation reports that it is ready."""

    def __call__(self) -> None: ...


class Run(Protocol):
    """The function of one incarnation: it calls `started` when ready, and returns after `stop`."""

    async def __call__(self, stop: trio.Event, started: Started, /) -> None: ...


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """The specification of a child: how it is started and stopped.

    Args:
        name: the child's name, unique among its siblings.
        run: runs one incarnation.
        shutdown: time to stop before the child is cancelled, in seconds.
        mailbox: the child's mailbox, if it is an actor; kept across incarnations.
        supervisor: the child itself, if it is a supervisor.
    """

    name: str
    run: Run
    shutdown: float
    mailbox: Mailbox | None = None
    supervisor: Supervisor | None = None


class State(Enum):
    """The state of a child."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Status:
    """The status of a child and of the tree below it.

    Attributes:
        name: the child's name.
        state: the state of the child.
        restarts: the number of restarts since the process started.
        last_error: the name of the exception's class that ended the previous incarnation.
        uptime: the age of the running incarnation, in seconds.
        depth: the number of waiting messages; None without a mailbox.
        oldest: the age of the oldest waiting message, in seconds.
        taken: the number of messages that were taken from the mailbox.
        waited: the time that those messages waited, in seconds, added up.
        stuck: whether messages wait and none was finished for `STUCK_AFTER` seconds.
        children: the status of each child, if this is a supervisor.
    """

    name: str
    state: State
    restarts: int = 0
    last_error: str | None = None
    uptime: float | None = None
    depth: int | None = None
    oldest: float | None = None
    taken: int = 0
    waited: float = 0.0
    stuck: bool = False
    children: tuple[Status, ...] = ()

    def is_healthy(self) -> bool:
        """Whether this child and all below it run, and none is stuck."""
        return (
            self.state is State.RUNNING
            and not self.stuck
            and all(child.is_healthy() for child in self.children)
        )


@dataclass(slots=True, eq=False)
class _Child:
    """A supervisor's record of one child."""

    spec: ChildSpec
    state: State = State.STOPPED
    restarts: int = 0
    last_error: str | None = None
    running_since: float = 0.0
    stop: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ready: trio.Event = field(default_factory=trio.Event)
    ended: trio.Event = field(default_factory=trio.Event)

    def prepare(self) -> None:
        """Prepare for a new run of the supervisor. The counts of earlier runs stay."""
        self.stop, self.ready, self.ended = trio.Event(), trio.Event(), trio.Event()

    def is_stopping(self) -> bool:
        return self.state is State.STOPPING

    def mark_running(self) -> None:
        if self.state is State.STARTING:
            self.state = State.RUNNING
            self.running_since = trio.current_time()
        self.ready.set()


def _log_nothing(_event: str, **_fields: object) -> None:
    """Discard the event."""


class Supervisor:
    """Keeps its children running.

    Args:
        name: the supervisor's name, for status and errors.
        children: the specifications of the children, in start order.
        max_restarts, max_seconds: the restart intensity; with more crashes than `max_restarts`
            within `max_seconds`, the supervisor gives up.
        log: logs each crash, by the event's name and fields such as `exc_info`.
    """

    def __init__(
        self,
        name: str,
        children: Sequence[ChildSpec],
        *,
        max_restarts: int,
        max_seconds: float,
        log: Callable[..., object] = _log_nothing,
    ) -> None:
        self.name = name
        self.max_restarts = max_restarts
        self.max_seconds = max_seconds
        self._children = [_Child(spec) for spec in children]
        self._log = log
        self._crashes: deque[float] = deque()
        self._state = State.STOPPED
        self._over = trio.Event()
        self._gave_up = False

    async def run(self, stop: trio.Event, started: Started) -> None:
        """Run until `stop` is set, then stop all children in order.

        Raises:
            RestartIntensityError: the children crashed too often. Their mailboxes are still open;
                after the root gave up, `abandon` answers the messages in them.
        """
        self._state = State.STARTING
        self._crashes.clear()
        if self._over.is_set():
            self._over = trio.Event()
        self._gave_up = False
        for child in self._children:
            child.prepare()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, stop)
                for child in self._children:
                    child.state = State.STARTING
                    nursery.start_soon(self._keep_running, child)
                    await child.ready.wait()
                    if self._over.is_set():
                        break
                else:
                    self._state = State.RUNNING
                    started()
                await self._over.wait()
                self._state = State.STOPPING
                for child in reversed(self._children):
                    await self._end(child, gracefully=not self._gave_up)
                nursery.cancel_scope.cancel()
        finally:
            self._state = State.STOPPED
        if self._gave_up:
            raise RestartIntensityError(
                f"{self.name}: more than {self.max_restarts} restarts in {self.max_seconds:g} s"
            )

    async def wait_over(self) -> None:
        """Wait until the current run, or the next one, begins to end, by a stop or by giving up."""
        await self._over.wait()

    async def _watch(self, stop: trio.Event) -> None:
        await stop.wait()
        self._begin_shutdown()

    def _begin_shutdown(self) -> None:
        """End the run, on request or because the children crash too often."""
        self._over.set()
        for child in self._children:
            child.ready.set()  # `run` may be waiting for one of them

    async def _keep_running(self, child: _Child) -> None:
        """Run one incarnation after another, until the supervisor ends the child or gives up."""
        try:
            while not child.is_stopping():
                error = await self._run_once(child)
                if child.is_stopping():
                    if error is not None:
                        self._log("child_stop_failed", child=child.spec.name, exc_info=error)
                    return
                error = error or RuntimeError("returned without being asked to stop")
                child.last_error = type(error).__name__
                self._log("child_crashed", child=child.spec.name, exc_info=error)
                error = None  # it holds the incarnation, with all that this had in memory
                if not self._may_restart():
                    return
                child.restarts += 1
                child.state = State.STARTING
                # Other tasks, and signals, get their turn even if each incarnation crashes before
                # its first checkpoint.
                await trio.lowlevel.cancel_shielded_checkpoint()
        finally:
            child.state = State.STOPPED
            child.ended.set()

    async def _run_once(self, child: _Child) -> BaseException | None:
        """Run one incarnation to its end, and return the exception that ended it, if one did."""
        ending: BaseException | None = None
        child.scope = trio.CancelScope()
        try:
            with child.scope:
                await child.spec.run(child.stop, child.mark_running)
        except* trio.Cancelled as cancelled:
            # Raises if the supervisor is being cancelled. Else the child raised `Cancelled` itself.
            await trio.lowlevel.checkpoint_if_cancelled()
            ending = _unwrap(cancelled)
        except* Exception as errors:
            ending = _unwrap(errors)
        finally:
            if child.spec.mailbox is not None:
                stopped = ending is None and child.stop.is_set()
                how = ActorStopped if stopped else ActorCrashed
                child.spec.mailbox.fail_in_flight(how(f"{child.spec.name} ended"))
        return ending

    def _may_restart(self) -> bool:
        """Count a crash, give up if it is one too many, and return whether to restart."""
        now = trio.current_time()
        self._crashes.append(now)
        while self._crashes[0] < now - self.max_seconds:
            self._crashes.popleft()
        if len(self._crashes) > self.max_restarts and not self._over.is_set():
            self._gave_up = True
            self._begin_shutdown()
        return len(self._crashes) <= self.max_restarts and not self._gave_up

    async def _end(self, child: _Child, *, gracefully: bool) -> None:
        """Stop one child. `gracefully` gives it time to finish, and then abandons its mailbox."""
        mailbox = child.spec.mailbox
        if child.state in (State.STARTING, State.RUNNING):
            child.state = State.STOPPING
            if gracefully:
                if mailbox is not None:
                    mailbox.close()
                child.stop.set()
                with trio.move_on_after(child.spec.shutdown):
                    await child.ended.wait()
            child.scope.cancel()
            await child.ended.wait()
        if gracefully:
            self._abandon(child.spec)

    def abandon(self) -> None:
        """Answer all messages in the mailboxes below this supervisor with `ActorStopped`."""
        for child in self._children:
            self._abandon(child.spec)

    @staticmethod
    def _abandon(spec: ChildSpec) -> None:
        if spec.mailbox is not None:
            spec.mailbox.abandon()
        if spec.supervisor is not None:
            spec.supervisor.abandon()

    def status(self) -> Status:
        """The status of this supervisor and the tree below it."""
        now = trio.current_time()
        return Status(
            name=self.name,
            state=self._state,
            children=tuple(_status(child, now) for child in self._children),
        )


def supervisor_child(supervisor: Supervisor, *, shutdown: float) -> ChildSpec:
    """The child specification of a supervisor below another.

    `shutdown` is in seconds, and has to cover that of all its children together.
    """
    return ChildSpec(
        name=supervisor.name, run=supervisor.run, shutdown=shutdown, supervisor=supervisor
    )


def _status(child: _Child, now: float) -> Status:
    mailbox, supervisor = child.spec.mailbox, child.spec.supervisor
    return Status(
        name=child.spec.name,
        state=child.state,
        restarts=child.restarts,
        last_error=child.last_error,
        uptime=now - child.running_since if child.state is State.RUNNING else None,
        depth=mailbox.depth() if mailbox else None,
        oldest=mailbox.oldest_age(now) if mailbox else None,
        taken=mailbox.taken if mailbox else 0,
        waited=mailbox.waited if mailbox else 0.0,
        stuck=mailbox.is_stuck(now, STUCK_AFTER) if mailbox else False,
        children=supervisor.status().children if supervisor else (),
    )


def _unwrap(error: BaseException) -> BaseException:
    """The single exception in nested groups; or the innermost group, if it holds several."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
