"""Actors: one task each, which owns its state and works through its mailbox."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from .mailbox import Cast, Envelope, Mailbox, enter_actor
from .supervisor import ChildSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    import trio

    from .supervisor import Started


class Actor:
    """Base of all actors: OTP's GenServer, except that messages come in batches.

    A batch is what waits in the mailbox when the actor has time, at most `batch_limit` messages:
    an actor whose work has a price per trip (a thread, a disk flush) pays it once for all of them.
    """

    batch_limit: ClassVar[int] = 1

    async def init(self) -> None:
        """Build the state this incarnation starts with, from what outlives it."""

    async def handle(self, batch: list[Envelope]) -> None:
        """Handle a batch, in order of arrival.

        Every call has to be answered with `Envelope.reply` or `Envelope.fail`, now or, if the actor
        keeps the envelope, later: a caller waits as long as it takes. Raising crashes the
        incarnation.
        """
        raise NotImplementedError

    async def terminate(self) -> None:
        """Release what this incarnation holds; called after its last batch when it stops."""

    async def run(self, mailbox: Mailbox, started: Started) -> None:
        """Live one life: `init`, batches until the mailbox is closed and empty, `terminate`."""
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
        mailbox: where its messages lie; also gives the child its name.
        new: makes an incarnation.
        shutdown: seconds it has to work through its mailbox when the tree stops.
    """

    async def run(_stop: trio.Event, started: Started) -> None:
        enter_actor(mailbox)
        await new().run(mailbox, started)

    return ChildSpec(name=mailbox.name, run=run, shutdown=shutdown, mailbox=mailbox)
