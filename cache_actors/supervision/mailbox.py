"""Mailboxes: the only way to reach an actor.

Theory of operation
-------------------
An actor is one task that owns its state. A caller sends it a message through an `Address` and, if
the message is a `Call`, waits for one reply. Messages wait in a `Mailbox`, a bounded trio memory
channel, until the actor's current incarnation takes them:

    caller -- Address.call --> [ Mailbox: waiting ] -- take --> [ in hand ] -- reply --> caller

*The mailbox belongs to the supervisor, not to the incarnation.* It is made once, with the tree,
and outlives every crash: the next incarnation handles the messages that wait. In OTP, by contrast,
a mailbox dies with its process, and clients have to handle a `DOWN` message.

*A message that an incarnation has taken is in hand.* If the incarnation crashes, each message in
hand is answered with `ActorCrashed` and never delivered again: a message that crashes its actor
does so once, and cannot poison the service. Every call thus ends with a reply, a domain error,
`ActorCrashed` or, when the tree stops for good, `ActorStopped`.

*Deadlines belong to the caller*, who cancels the scope around the call. A message whose caller is
gone is skipped if it still waits. If it is in hand it is handled to its end, and the caller does
not learn the outcome. Messages that change something must therefore be safe to repeat.

*A mailbox is bounded* twice. Its capacity limits the messages that wait; its weight limits the
bytes of all messages from when they are sent until they are answered. When it is full the caller
chooses: wait for room (backpressure, for bodies), or `MailboxFull` (overload, for requests that a
client can repeat).
"""

from __future__ import annotations

from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import trio

from .budget import Budget
from .errors import ActorStopped, CallingSelfError, MailboxFull

if TYPE_CHECKING:
    from .errors import ActorError

R = TypeVar("R")


class Message:
    """The base class of messages. Subclasses are frozen, one per operation."""

    __slots__ = ()

    @property
    def weight(self) -> int:
        """The bytes that the message counts for in a mailbox with a `max_weight`."""
        return 0


class Call(Message, Generic[R]):
    """A message that the actor answers with an `R`."""

    __slots__ = ()


class Cast(Message):
    """A message without an answer."""

    __slots__ = ()


class Envelope:
    """A message on its way, with the means to answer it.

    Attributes:
        message: the message.
        sent_at: when it was sent, in `trio.current_time()`.
        abandoned: whether the caller was cancelled before the answer.
    """

    __slots__ = ("_answered", "_error", "_mailbox", "_result", "abandoned", "message", "sent_at")

    def __init__(self, mailbox: Mailbox, message: Message) -> None:
        self.message = message
        self.sent_at = trio.current_time()
        self.abandoned = False
        self._mailbox = mailbox
        self._answered = trio.Event() if isinstance(message, Call) else None
        self._result: Any = None
        self._error: Exception | None = None

    def reply(self, result: Any = None) -> None:
        """Answer the call with `result`. Only the first answer counts."""
        self._finish(result, None)

    def fail(self, error: Exception) -> None:
        """Answer the call with a domain error, which `Address.call` raises. It is not a crash."""
        self._finish(None, error)

    def _finish(self, result: Any, error: Exception | None) -> None:
        if not self._mailbox._release(self):  # noqa: SLF001
            return
        self._result, self._error = result, error
        if self._answered is not None:
            self._answered.set()

    async def answer(self) -> Any:
        """Wait for the answer. A cancelled wait marks the message as abandoned."""
        assert self._answered is not None, "a cast is not answered"  # noqa: S101
        try:
            await self._answered.wait()
        finally:
            self.abandoned = not self._answered.is_set()
        if self._error is not None:
            raise self._error
        return self._result


class Address:
    """The address of an actor: the only reference to it that other tasks hold."""

    __slots__ = ("_mailbox",)

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox

    async def call(self, message: Call[R], *, wait_for_room: bool = False) -> R:
        """Send `message` and wait for its answer.

        Args:
            message: the call.
            wait_for_room: whether to wait while the mailbox is full.

        Raises:
            MailboxFull: the mailbox is full, and `wait_for_room` is false.
            ActorCrashed: the incarnation that held the message crashed.
            ActorStopped: the tree stopped before the answer.
            CallingSelfError: the caller is the actor itself, or a task that it started.
            Exception: the actor answered with this domain error.
        """
        if _running_actor.get() is self._mailbox:
            raise CallingSelfError(f"{self._mailbox.name} called itself")
        envelope = Envelope(self._mailbox, message)
        await self._mailbox.put(envelope, wait_for_room=wait_for_room)
        return await envelope.answer()  # type: ignore[no-any-return]

    async def cast(self, message: Cast, *, wait_for_room: bool = True) -> None:
        """Send `message`, and do not wait until it is handled.

        An actor may cast to itself only from a task that it has started. If its own task did, it
        would wait for itself whenever the mailbox is full.

        Args:
            message: the cast.
            wait_for_room: whether to wait while the mailbox is full.

        Raises:
            MailboxFull: the mailbox is full, and `wait_for_room` is false.
            ActorStopped: the tree has stopped.
        """
        await self._mailbox.put(Envelope(self._mailbox, message), wait_for_room=wait_for_room)


class Mailbox:
    """A bounded queue of envelopes that outlives the incarnations of its actor.

    Args:
        name: the actor's name, for errors and status.
        capacity: the largest number of waiting messages.
        max_weight: the largest weight of all messages, waiting and in hand, in bytes.
        prompt: whether the actor answers messages without waiting for outside events; if so,
            messages in hand count in `is_stuck`, too.

    Attributes:
        taken: the number of messages that incarnations have taken.
        waited: the time that those messages waited, in seconds, added up.
    """

    def __init__(
        self, name: str, *, capacity: int, max_weight: int = 2**63, prompt: bool = False
    ) -> None:
        self.name = name
        self._prompt = prompt
        self.address = Address(self)
        self._send, self._receive = trio.open_memory_channel[Envelope](capacity)
        self._weight = Budget(max_weight)
        self._closed = False
        # A copy of the channel, whose content cannot be seen, and of the senders that wait for
        # room; in order of age.
        self._waiting: dict[Envelope, None] = {}
        self._in_hand: dict[Envelope, None] = {}
        self._last_finished = float("-inf")
        self.taken = 0
        self.waited = 0.0

    # For senders.

    async def put(self, envelope: Envelope, *, wait_for_room: bool) -> None:
        """Queue `envelope`, or raise `MailboxFull` or `ActorStopped`."""
        if self._closed:
            raise ActorStopped(f"{self.name} has stopped")
        weight = envelope.message.weight
        self._waiting[envelope] = None
        taken = is_sent = False
        try:
            # Not `take` and `send` at once: these let all other tasks run first, room or no room.
            try:
                self._weight.take_nowait(weight)
            except trio.WouldBlock:
                if not wait_for_room:
                    raise
                await self._weight.take(weight)
            taken = True
            try:
                self._send.send_nowait(envelope)
            except trio.WouldBlock:
                if not wait_for_room:
                    raise
                await self._send.send(envelope)
            is_sent = True
        except trio.WouldBlock:
            raise MailboxFull(f"{self.name} has no room for more messages") from None
        except trio.ClosedResourceError:
            raise ActorStopped(f"{self.name} has stopped") from None
        finally:
            if not is_sent:
                self._waiting.pop(envelope, None)
                if taken:
                    self._weight.give_back(weight)

    # For the incarnation.

    async def take(self, limit: int) -> list[Envelope]:
        """Wait for a message, then take all that wait, `limit` at most.

        Returns:
            The batch, without abandoned messages; empty once the mailbox is closed and empty.
        """
        batch: list[Envelope] = []
        with suppress(trio.EndOfChannel, trio.WouldBlock):
            while not batch:
                self._take_in_hand(await self._receive.receive(), batch)
            while len(batch) < limit:
                self._take_in_hand(self._receive.receive_nowait(), batch)
        self.taken += len(batch)
        self.waited += len(batch) * trio.current_time() - sum(each.sent_at for each in batch)
        return batch

    def _take_in_hand(self, envelope: Envelope, batch: list[Envelope]) -> None:
        self._waiting.pop(envelope, None)
        self._in_hand[envelope] = None
        if envelope.abandoned:
            self._release(envelope)
        else:
            batch.append(envelope)

    def _release(self, envelope: Envelope) -> bool:
        if envelope not in self._in_hand:
            return False
        del self._in_hand[envelope]
        self._weight.give_back(envelope.message.weight)
        self._last_finished = trio.current_time()
        return True

    # For the supervisor.

    def fail_in_flight(self, error: ActorError) -> None:
        """Answer every message in hand with `error`, after the end of an incarnation."""
        for envelope in list(self._in_hand):
            envelope.fail(error)

    def close(self) -> None:
        """Refuse new messages. Waiting messages can still be taken."""
        self._closed = True
        self._send.close()

    def abandon(self) -> None:
        """Close, and answer every message, waiting or in hand, with `ActorStopped`."""
        self.close()
        with suppress(trio.WouldBlock, trio.EndOfChannel):
            while True:
                self._take_in_hand(self._receive.receive_nowait(), [])
        self.fail_in_flight(ActorStopped(f"{self.name} has stopped"))

    def depth(self) -> int:
        """The number of waiting messages, with those of senders that wait for room."""
        return len(self._waiting)

    def oldest_age(self, now: float) -> float | None:
        """The age of the oldest waiting message at `now`, in seconds; None if none waits."""
        for envelope in self._waiting:
            return now - envelope.sent_at
        return None

    def is_stuck(self, now: float, after: float) -> bool:
        """Whether a message has waited for `after` seconds in which none was finished.

        If the mailbox is `prompt`, the time in hand counts as waiting.
        """
        waiting = self._in_hand | self._waiting if self._prompt else self._waiting
        oldest = min((envelope.sent_at for envelope in waiting), default=now)
        return now - max(oldest, self._last_finished) > after


_running_actor: ContextVar[Mailbox | None] = ContextVar("running_actor", default=None)


def enter_actor(mailbox: Mailbox) -> None:
    """Mark the current task, and tasks that it will start, as the actor of `mailbox`."""
    _running_actor.set(mailbox)
