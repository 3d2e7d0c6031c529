"""Mailboxes: the only way to reach an actor.

Theory of operation
-------------------
An actor is one task that owns its state. Whoever wants something from it sends a message through
an `Address` and, if the message is a `Call`, waits for a one-shot reply. The messages lie in a
`Mailbox`, a bounded trio memory channel, until the actor's current incarnation takes them:

    caller -- Address.call --> [ Mailbox: waiting ] -- take --> [ in hand ] -- reply --> caller

*The mailbox belongs to the supervisor, not to the incarnation.* It is made once, with the tree,
and outlives every crash: what was waiting is handled by the next incarnation. This departs from
OTP, where a process takes its mailbox with it; there a client notices the `DOWN` message, here it
does not have to notice anything.

*What an incarnation has taken is in its hands.* If it crashes, every message in its hands is
answered with `ActorCrashed`, and none is delivered again: a message that crashes its reader does
so once, and cannot poison the service. A caller thus always hears something: a reply, a domain
error, `ActorCrashed`, or, when the tree stops for good, `ActorStopped`.

*A deadline is the caller's business*: cancel the scope around the call. A message whose caller is
gone is skipped if its turn has not come; once in hand it is handled to its end, as nobody could
say how far it got. Messages that change something must therefore be safe to repeat.

*A mailbox is bounded*, in messages and in what they weigh (bytes, for those that carry some), from
the moment they are sent until they are answered. When it is full the caller chooses: wait for room
(backpressure, for bodies), or `MailboxFull` (overload, for what a client can ask again).
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
    """Anything that can be put in a mailbox. Subclasses are frozen, one per operation."""

    __slots__ = ()

    @property
    def weight(self) -> int:
        """What the message counts for in a mailbox that is bounded by weight (bytes)."""
        return 0


class Call(Message, Generic[R]):
    """A message that is answered, with an `R`."""

    __slots__ = ()


class Cast(Message):
    """A message that nobody waits for."""

    __slots__ = ()


class Envelope:
    """A message on its way: the actor answers it, and it remembers when it was sent."""

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
        """Answer the caller with `result`. Only the first answer counts."""
        self._finish(result, None)

    def fail(self, error: Exception) -> None:
        """Answer the caller with a domain error, which its `call` raises. Not a crash."""
        self._finish(None, error)

    def _finish(self, result: Any, error: Exception | None) -> None:
        if not self._mailbox._let_go(self):  # noqa: SLF001
            return
        self._result, self._error = result, error
        if self._answered is not None:
            self._answered.set()

    async def answer(self) -> Any:
        """Wait for the answer; if cancelled before it comes, mark the message abandoned."""
        assert self._answered is not None, "a cast is not answered"  # noqa: S101
        try:
            await self._answered.wait()
        finally:
            self.abandoned = not self._answered.is_set()
        if self._error is not None:
            raise self._error
        return self._result


class Address:
    """Where to send an actor's messages: all that anyone else ever holds of it."""

    __slots__ = ("_mailbox",)

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox

    async def call(self, message: Call[R], *, wait_for_room: bool = False) -> R:
        """Send `message` and wait for its answer.

        Args:
            message: what is asked.
            wait_for_room: wait while the mailbox is full, instead of raising `MailboxFull`.

        Raises:
            MailboxFull: there was no room, and `wait_for_room` was not asked for.
            ActorCrashed: the incarnation that held the message crashed.
            ActorStopped: the tree has stopped, or did before the answer.
            CallingSelfError: the actor, or a task that it started, is calling itself.
            Exception: any domain error the actor answers with.
        """
        if _running_actor.get() is self._mailbox:
            raise CallingSelfError(f"{self._mailbox.name} called itself")
        envelope = Envelope(self._mailbox, message)
        await self._mailbox.put(envelope, wait_for_room=wait_for_room)
        return await envelope.answer()  # type: ignore[no-any-return]

    async def cast(self, message: Cast, *, wait_for_room: bool = True) -> None:
        """Send `message`, and do not wait for its handling.

        Args:
            message: what is said.
            wait_for_room: wait while the mailbox is full, instead of raising `MailboxFull`.

        An actor may cast to itself from a task that it has started, not from the one that works
        through its mailbox: if that is full, it would wait for itself to make room.

        Raises:
            MailboxFull: there was no room, and `wait_for_room` was turned off.
            ActorStopped: the tree has stopped.
        """
        await self._mailbox.put(Envelope(self._mailbox, message), wait_for_room=wait_for_room)


class Mailbox:
    """A bounded queue of envelopes that outlives the incarnations which read it.

    Args:
        name: the actor's name, for errors and status.
        capacity: how many messages may wait.
        max_weight: how much all messages, waiting and in hand, may weigh together (bytes).
        prompt: whether messages are answered as soon as they can be. Then those in hand count too
            when it is asked whether the actor is stuck; others may keep messages until something
            happens elsewhere.

    Attributes:
        taken: how many messages incarnations have been given.
        waited: how long those waited together, in seconds.
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
        # The channel does not show what it holds; insertion order is age. Senders that wait for
        # room count as waiting too.
        self._waiting: dict[Envelope, None] = {}
        self._in_hand: dict[Envelope, None] = {}
        self._last_finished = float("-inf")
        self.taken = 0
        self.waited = 0.0

    # What senders use.

    async def put(self, envelope: Envelope, *, wait_for_room: bool) -> None:
        """Queue `envelope`, or raise `MailboxFull` or `ActorStopped`."""
        if self._closed:
            raise ActorStopped(f"{self.name} has stopped")
        weight = envelope.message.weight
        self._waiting[envelope] = None
        taken = is_sent = False
        try:
            if wait_for_room:
                await self._weight.take(weight)
                taken = True
                await self._send.send(envelope)
            else:
                self._weight.take_nowait(weight)
                taken = True
                self._send.send_nowait(envelope)
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

    # What the incarnation uses.

    async def take(self, limit: int) -> list[Envelope]:
        """Wait for a message, then take it and all that wait behind it, `limit` at most.

        Returns an empty list once the mailbox is closed and empty.
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
            self._let_go(envelope)
        else:
            batch.append(envelope)

    def _let_go(self, envelope: Envelope) -> bool:
        if envelope not in self._in_hand:
            return False
        del self._in_hand[envelope]
        self._weight.give_back(envelope.message.weight)
        self._last_finished = trio.current_time()
        return True

    # What the supervisor uses.

    def fail_in_hand(self, error: ActorError) -> None:
        """Answer every message in hand with `error`: the incarnation that held them is gone."""
        for envelope in list(self._in_hand):
            envelope.fail(error)

    def close(self) -> None:
        """Refuse new messages. Those that wait can still be taken."""
        self._closed = True
        self._send.close()

    def abandon(self) -> None:
        """Close, and answer everything that still waits or is in hand with `ActorStopped`."""
        self.close()
        with suppress(trio.WouldBlock, trio.EndOfChannel):
            while True:
                self._take_in_hand(self._receive.receive_nowait(), [])
        self.fail_in_hand(ActorStopped(f"{self.name} has stopped"))

    def depth(self) -> int:
        """How many messages wait, those of senders waiting for room included."""
        return len(self._waiting)

    def oldest_age(self, now: float) -> float | None:
        """Seconds the oldest waiting message has waited, or None when none does."""
        for envelope in self._waiting:
            return now - envelope.sent_at
        return None

    def is_stuck(self, now: float, after: float) -> bool:
        """Whether a message has waited, with none finished, for `after` seconds; of an actor that
        answers promptly, whether it has waited or been in hand."""
        waiting = self._in_hand | self._waiting if self._prompt else self._waiting
        oldest = min((envelope.sent_at for envelope in waiting), default=now)
        return now - max(oldest, self._last_finished) > after


_running_actor: ContextVar[Mailbox | None] = ContextVar("running_actor", default=None)


def enter_actor(mailbox: Mailbox) -> None:
    """Mark the current task, and those it will start, as the actor behind `mailbox`."""
    _running_actor.set(mailbox)
