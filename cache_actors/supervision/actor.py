"""Actors: tasks that own their state and handle the messages in their mailboxes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from .mailbox import Cast, Envelope, Mailbox, enter_actor
from .supervisor import ChildSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    import trio

    from .supervisor import Started


class Actor:
    """The base class of actors: OTP's GenServer, except that messages come in batches.

    A batch is all that waits in the mailbox, at most `batch_limit` messages. So an actor whose work
    has a fixed cost (a thread, a disk flush) pays it once per batch.
    """

    batch_limit: ClassVar[int] = 1

    async def init(self) -> None:
        """Build the initial state of this incarnation. Raising crashes it."""

    async def handle(self, batch: list[Envelope]) -> None:
        """Handle a batch, in order of arrival. Raising crashes the incarnation.

        Every call has to be answered with `Envelope.reply` or `Envelope.fail`, at once or later:
        its caller waits without a timeout.
        """
        raise NotImplementedError

    async def terminate(self) -> None:
        """Release the incarnation's resources. Called after the last batch of an orderly stop."""

    async def run(self, mailbox: Mailbox, started: Started) -> None:
        """Run one incarnation: `init`, batches until the mailbox is closed and empty, `terminate`.

        Casts in a batch count as answered when `handle` returns.
        """
        await self.init()
        started()
        while batch := await mailbox.take(self.batch_limit):
            await self.handle(batch)
            for envelope in batch:
                if isinstance(envelope.message, Cast):
                    envelope.reply()
        await self.terminate()


def actor_child(mailbox: Mailbox, new: Callable[[], Actor], *, shutdown: float) -> ChildSpec:
    """The child specification of an actor.

    Args:
        mailbox: the actor's mailbox, which also names the child.
        new: makes an incarnation.
        shutdown: time to empty the mailbox when the tree stops, in seconds.
    """

    async def run(_stop: trio.Event, started: Started) -> None:
        enter_actor(mailbox)
        await new().run(mailbox, started)

    return ChildSpec(name=mailbox.name, run=run, shutdown=shutdown, mailbox=mailbox)
