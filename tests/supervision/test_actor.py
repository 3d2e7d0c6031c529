"""What callers and actors can count on."""

import pytest
import trio
import trio.testing

from cache_actors.supervision import (
    Actor,
    ActorCrashed,
    ActorStopped,
    CallingSelfError,
    Envelope,
    Mailbox,
    actor_child,
)

from .small_actors import Ask, BatchClerk, Boom, Defer, Desk, Hold, Note, Refuse, Say, Start

# Messages.


async def test_cast_is_handled_and_weighs_no_longer(start: Start) -> None:
    desk = Desk(capacity=1, max_weight=10)
    root = await start(desk.child)
    for text in "abc":
        with trio.fail_after(1):
            await desk.address.cast(Note(text, size=10))
    await trio.testing.wait_all_tasks_blocked()
    assert desk.journal == ["init", "a", "b", "c"]
    assert root.child("clerk").depth == 0


async def test_batch_is_what_waited_while_the_actor_was_busy(start: Start, ask: Ask) -> None:
    desk = Desk(new=BatchClerk)
    await start(desk.child)
    asked = [await ask(desk.address, Hold("a"))]
    asked += [await ask(desk.address, Say(text)) for text in "bcde"]
    desk.gate.set()
    assert [await a.outcome() for a in asked] == ["a", "b", "c", "d", "e"]
    assert desk.batch_sizes == [1, 3, 1]


async def test_domain_error_reaches_the_caller_and_is_no_crash(desk: Desk) -> None:
    with pytest.raises(FileNotFoundError, match="no such entry"):
        await desk.address.call(Refuse(FileNotFoundError("no such entry")))
    assert desk.root.child("clerk").restarts == 0
    assert desk.root.logged == []


# Crashes.


async def test_queued_messages_survive_a_crash_in_order(desk: Desk, ask: Ask) -> None:
    held = await ask(desk.address, Hold("held"))
    crashed = await ask(desk.address, Boom())
    queued = [await ask(desk.address, Say(text)) for text in "abc"]
    desk.gate.set()
    assert await held.outcome() == "held"
    assert isinstance(await crashed.outcome(), ActorCrashed)
    assert [await q.outcome() for q in queued] == ["a", "b", "c"]
    assert desk.journal == ["init", "held", "boom", "init", "a", "b", "c"]


async def test_whatever_was_in_hand_at_a_crash_is_answered_with_actor_crashed(
    start: Start, ask: Ask
) -> None:
    desk = Desk(new=BatchClerk)
    root = await start(desk.child)
    deferred = await ask(desk.address, Defer())
    held = await ask(desk.address, Hold("held"))
    before = await ask(desk.address, Refuse(KeyError("before it in the batch")))
    crashed = await ask(desk.address, Boom())
    behind = await ask(desk.address, Say("behind it in the batch"))
    in_next_batch = await ask(desk.address, Say("in the next batch"))
    desk.gate.set()
    assert await held.outcome() == "held"
    assert isinstance(await before.outcome(), KeyError)
    for asked in deferred, crashed, behind:
        assert isinstance(await asked.outcome(), ActorCrashed)
    assert await in_next_batch.outcome() == "in the next batch"
    assert desk.journal == ["init", "held", "boom", "init", "in the next batch"]
    assert root.child("clerk").restarts == 1


# Talking to oneself.


class Narcissus(Actor):
    """Answers `Defer` with what an actor says whom it asks from a task: itself, or another."""

    def __init__(self, asked: Mailbox) -> None:
        self._asked = asked.address

    async def handle(self, batch: list[Envelope]) -> None:
        for envelope in batch:
            match envelope.message:
                case Say(text):
                    envelope.reply(text)
                case Defer():
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._answer, envelope)

    async def _answer(self, envelope: Envelope) -> None:
        try:
            envelope.reply(await self._asked.call(Say("me")))
        except CallingSelfError as error:
            envelope.fail(error)


async def test_calling_oneself_is_refused(start: Start, ask: Ask) -> None:
    mailbox = Mailbox("narcissus", capacity=10)
    await start(actor_child(mailbox, lambda: Narcissus(mailbox), shutdown=1))
    asked = await ask(mailbox.address, Defer())
    assert isinstance(await asked.outcome(), CallingSelfError)


async def test_calling_another_actor_is_no_call_to_oneself(start: Start, ask: Ask) -> None:
    one, other = (Mailbox(name, capacity=10) for name in ("one", "other"))
    await start(
        actor_child(other, lambda: Narcissus(other), shutdown=1),
        actor_child(one, lambda: Narcissus(other), shutdown=1),
    )
    asked = await ask(one.address, Defer())
    assert await asked.outcome() == "me"


# Stopping.


async def test_stopping_actor_handles_what_is_in_its_mailbox_then_terminates(
    desk: Desk, ask: Ask
) -> None:
    held = await ask(desk.address, Hold("held"))
    queued = [await ask(desk.address, Say(text)) for text in "ab"]
    await desk.root.begin_stop()
    with pytest.raises(ActorStopped):
        await desk.address.call(Say("too late"))
    desk.gate.set()
    await desk.root.stop()
    with pytest.raises(ActorStopped):
        await desk.address.call(Say("much too late"))
    assert [await a.outcome() for a in (held, *queued)] == ["held", "a", "b"]
    assert desk.journal == ["init", "held", "a", "b", "terminate"]


async def test_kept_envelope_gets_actor_stopped_when_its_actor_stops(desk: Desk, ask: Ask) -> None:
    deferred = await ask(desk.address, Defer())
    await desk.root.stop()
    assert isinstance(await deferred.outcome(), ActorStopped)


async def test_crash_during_the_stop_leaves_nobody_waiting(desk: Desk, ask: Ask) -> None:
    await ask(desk.address, Hold("held"))
    crashed = await ask(desk.address, Boom())
    queued = await ask(desk.address, Say("behind"))
    await desk.root.begin_stop()
    desk.gate.set()
    await desk.root.stop()
    assert isinstance(await crashed.outcome(), ActorCrashed)
    assert isinstance(await queued.outcome(), ActorStopped)
    assert desk.journal == ["init", "held", "boom"]
