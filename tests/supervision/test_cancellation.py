"""Callers who go away, at every moment at which they can."""

import trio
import trio.testing

from cache_actors.supervision import ActorStopped, Envelope, Mailbox

from .small_actors import Ask, Boom, Desk, Hold, Say


async def test_abandoned_calls_that_have_not_begun_are_skipped(desk: Desk, ask: Ask) -> None:
    await ask(desk.address, Hold("held"))
    for message in (Say("abandoned"), Boom()):
        await (await ask(desk.address, message)).leave()
    after = await ask(desk.address, Say("after"))
    desk.gate.set()
    assert await after.outcome() == "after"
    assert desk.journal == ["init", "held", "after"]
    assert desk.root.child("clerk").restarts == 0


async def test_reader_of_nothing_but_abandoned_messages_goes_on_waiting(
    nursery: trio.Nursery, ask: Ask
) -> None:
    mailbox = Mailbox("box", capacity=10)
    abandoned = await ask(mailbox.address, Say("abandoned"))
    await abandoned.leave()
    taken: list[Envelope] = []

    async def take() -> None:
        taken.extend(await mailbox.take(5))

    nursery.start_soon(take)
    await trio.testing.wait_all_tasks_blocked()
    await ask(mailbox.address, Say("after"))
    assert [envelope.message for envelope in taken] == [Say("after")]


async def test_abandoned_call_that_has_begun_is_finished(desk: Desk, ask: Ask) -> None:
    begun = await ask(desk.address, Hold("begun"))
    await begun.leave()
    desk.gate.set()
    assert await desk.address.call(Say("after")) == "after"
    assert desk.journal == ["init", "begun", "after"]


async def test_caller_cancelled_while_waiting_for_room_leaves_no_trace(ask: Ask) -> None:
    mailbox = Mailbox("box", capacity=1, max_weight=10)
    await ask(mailbox.address, Say("a", size=1))
    for_place = await ask(mailbox.address, Say("b", size=5), wait_for_room=True)
    for_weight = await ask(mailbox.address, Say("c", size=9), wait_for_room=True)
    for_place.scope.cancel()
    await for_weight.leave()
    assert mailbox.depth() == 1
    await mailbox.take(9)
    await ask(mailbox.address, Say("d", size=9))  # both its place and its weight are free
    assert len(await mailbox.take(9)) == 1


async def test_caller_cancelled_in_the_instant_it_gets_its_weight_passes_it_on(ask: Ask) -> None:
    mailbox = Mailbox("box", capacity=9, max_weight=10)
    await ask(mailbox.address, Say("a", size=10))
    gone = await ask(mailbox.address, Say("b", size=10), wait_for_room=True)
    stays = await ask(mailbox.address, Say("c", size=10), wait_for_room=True)
    (first,) = await mailbox.take(1)
    gone.scope.cancel()
    first.reply("a")  # gives the weight to `gone`, which has not yet heard that it is cancelled
    (second,) = await mailbox.take(1)
    second.reply("c")
    assert await stays.outcome() == "c"


async def test_caller_cancelled_in_the_instant_its_message_is_taken_has_begun(ask: Ask) -> None:
    mailbox = Mailbox("box", capacity=1, max_weight=10)
    await ask(mailbox.address, Say("a", size=4))
    gone = await ask(mailbox.address, Say("b", size=6), wait_for_room=True)
    batch = await mailbox.take(2)  # `gone` has not yet run, and does not know that it was sent
    await gone.leave()
    assert len(batch) == 2
    for envelope in batch:
        envelope.reply()
    await ask(mailbox.address, Say("c", size=10))
    with trio.fail_after(1):
        assert len(await mailbox.take(1)) == 1


async def test_cancelled_tree_can_still_answer_everyone(desk: Desk, ask: Ask) -> None:
    held = await ask(desk.address, Hold("held"))
    queued = await ask(desk.address, Say("queued"))
    desk.root.scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert held.is_done()
    desk.root.supervisor.abandon()
    assert isinstance(await queued.outcome(), ActorStopped)
