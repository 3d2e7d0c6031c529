"""Supervisors: they start children in order, restart those that crash, and stop them in reverse.

Theory of operation
-------------------
A supervisor is itself a task with a list of `ChildSpec`s. It starts them one after the other, each
when the one before it has said that it is ready; it then does nothing but watch. Whatever ends a
child, an exception or a plain return, is a crash, unless the supervisor asked for it: every child
is *permanent*. A crashed child is started again at once and alone, whatever its siblings do: the
strategy is *one for one*. These are the only restart type and the only strategy here, because the
tree needs no others: mailboxes outlive crashes (see `mailbox.py`), so no child ever holds a stale
reference to another, and nothing has to be restarted along with it.

*Intensity.* A supervisor whose children crash more than `max_restarts` times within `max_seconds`
gives up: it cancels the others, last started first (what is below one of them goes all at once),
and raises `RestartIntensityError`. To its
parent that is a crashed child like any other, so a fault that restarting does not mend climbs the
tree; when the root gives up, the process ends and the container runtime takes over. Restarts are
not delayed: a back-off that is not far below `max_seconds / max_restarts` would keep the limit from
ever being reached. When a supervisor gives up, the mailboxes below it stay open, since its parent
will start it again.

*Stopping* is ordered, last started first. Each child is asked, by its `stop` event and by closing
its mailbox, and has its own `shutdown` seconds to finish what it has; then it is cancelled. A trio
nursery would cancel all children at once, which is why the order is the supervisor's own work.
What is left in a stopped child's mailbox is answered with `ActorStopped`. Nothing here can end a
thread or a shielded wait: whoever runs the root keeps a hard limit behind it.

*Status* is read from the supervisor's own records, never asked of a child, so that a child that is
stuck cannot hide it.
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
"""Seconds without a finished message, while some wait, after which an actor counts as stuck."""


class Started(Protocol):
    """Called by an incarnation once it is ready."""

    def __call__(self) -> None: ...


class Run(Protocol):
    """One incarnation of a child: calls `started` when ready, returns after `stop` is set."""

    async def __call__(self, stop: trio.Event, started: Started, /) -> None: ...


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """The specification of a child: how it is started and stopped.

    Args:
        name: unique among its siblings.
        run: runs one incarnation.
        shutdown: seconds it may take to stop before it is cancelled.
        mailbox: an actor's mailbox, which the supervisor keeps across incarnations.
        supervisor: the child itself, if it is a supervisor; for `status`.
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

    `uptime` is the age of the incarnation that runs, `oldest` that of the oldest waiting message,
    and `waited` how long the `taken` messages have waited together, in seconds. `last_error` is the
    class of the exception that ended the incarnation before this one.
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
        """Whether everything from here down runs and nothing is stuck."""
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
        """Make ready for a new run of the supervisor; the counts of earlier ones stay."""
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
        name: for status and errors.
        children: in start order.
        max_restarts, max_seconds: more restarts than this many within so many seconds, and the
            supervisor gives up.
        log: told of every crash, with the event's name and fields (`exc_info` among them).
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
                whoever runs the root answers what is in them with `abandon`.
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
        """Return once the current run, or the one to come, has begun to end, for either reason."""
        await self._over.wait()

    async def _watch(self, stop: trio.Event) -> None:
        await stop.wait()
        self._begin_shutdown()

    def _begin_shutdown(self) -> None:
        """End the run: on request, or because the children crash too often."""
        self._over.set()
        for child in self._children:
            child.ready.set()  # the start-up waits for one of these

    async def _keep_running(self, child: _Child) -> None:
        """Run incarnation after incarnation, until the supervisor ends the child or gives up."""
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
                if not self._may_restart():
                    return
                child.restarts += 1
                child.state = State.STARTING
                # Also where each incarnation crashes before it waits for anything: others, and
                # signals, get their turn.
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
            # The supervisor's own, if it is being cancelled; else one that escaped from its scope.
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
        """Count a crash; give up if it is one too many."""
        now = trio.current_time()
        self._crashes.append(now)
        while self._crashes[0] < now - self.max_seconds:
            self._crashes.popleft()
        if len(self._crashes) > self.max_restarts and not self._over.is_set():
            self._gave_up = True
            self._begin_shutdown()
        return len(self._crashes) <= self.max_restarts and not self._gave_up

    async def _end(self, child: _Child, *, gracefully: bool) -> None:
        """Stop one child and wait for its end; keep its mailbox open unless it is for good."""
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
        """Answer every caller in every mailbox from here down with `ActorStopped`."""
        for child in self._children:
            self._abandon(child.spec)

    @staticmethod
    def _abandon(spec: ChildSpec) -> None:
        if spec.mailbox is not None:
            spec.mailbox.abandon()
        if spec.supervisor is not None:
            spec.supervisor.abandon()

    def status(self) -> Status:
        """The tree from here down, from records alone."""
        now = trio.current_time()
        return Status(
            name=self.name,
            state=self._state,
            children=tuple(_status(child, now) for child in self._children),
        )


def supervisor_child(supervisor: Supervisor, *, shutdown: float) -> ChildSpec:
    """The child specification of a supervisor below another.

    `shutdown` is in seconds and has to cover the allowances of its children together.
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
    """The exception inside of groups that hold no other."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
