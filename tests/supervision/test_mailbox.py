"""What a mailbox holds, refuses, and tells of itself, also when callers leave."""

from typing import Any

import pytest
import trio
import trio.testing

from cache_actors.supervision import ActorCrashed, ActorStopped, Envelope, Mailbox, MailboxFull

from .small_actors import Ask, Boom, Desk, Hold, Note, Say, Task


def texts(batch: list[Envelope]) -> list[str]:
    return [e.message.text for e in batch if isinstance(e.message, Say | Note)]


def answer(batch: list[Envelope]) -> None:
    for envelope in batch:
        envelope.reply("answered")


async def takes_weight(mailbox: Mailbox, weight: int, ask: Ask) -> bool:
    """Whether there is room for a message of `weight`; if so, it has been put in."""
    asked = await ask(mailbox.address, Say("probe", size=weight))
    return not (asked.is_done() and isinstance(await asked.outcome(), MailboxFull))


# In and out.


async def test_only_the_first_answer_counts(ask: Ask) -> None:
    mailbox = Mailbox("box", capacity=10, max_weight=10)
    asked = await ask(mailbox.address, Say("a", size=10))
    (envelope,) = await mailbox.take(1)
    envelope.reply("first")
    envelope.reply("second")
    envelope.fail(ValueError())
    assert await asked.outcome() == "first"
    assert await takes_weight(mailbox, 10, ask)
    assert not await takes_weight(mailbox, 1, ask)  # nothing was given back twice


# Bounds.


async def test_call_is_refused_when_as_many_wait_as_may(ask: Ask) -> None:
    mailbox = Mailbox("box", capacity=2)
    await ask(mailbox.address, Say("a"))
    await ask(mailbox.address, Say("b"))
    with pytest.raises(MailboxFull, match="box"):
        await mailbox.address.call(Say("c"))
    assert texts(await mailbox.take(9)) == ["a", "b"]


async def test_call_that_waits_for_room_is_queued_when_there_is_some(ask: Ask) -> None:
    mailbox = Mailbox("box", capacity=1)
    await ask(mailbox.address, Say("a"))
    waiting = await ask(mailbox.address, Say("b"), wait_for_room=True)
    assert not waiting.is_done()
    answer(await mailbox.take(1))
    answer(await mailbox.take(1))
    assert await waiting.outcome() == "answered"


async def test_call_is_refused_when_it_would_weigh_too_much(ask: Ask) -> None:
    mailbox = Mailbox("box", capacity=10, max_weight=10)
    await ask(mailbox.address, Say("a", size=6))
    with pytest.raises(MailboxFull):
        await mailbox.address.call(Say("b", size=5))
    assert await takes_weight(mailbox, 4, ask)


async def test_message_in_hand_weighs_until_it_is_answered(ask: Ask) -> None:
    mailbox = Mailbox("box", capacity=10, max_weight=10)
    await ask(mailbox.address, Say("a", size=10))
    waiting = await ask(mailbox.address, Say("b", size=10), wait_for_room=True)
    batch = await mailbox.take(9)
    await trio.testing.wait_all_tasks_blocked()
    assert texts(batch) == ["a"]
    answer(batch)
    answer(await mailbox.take(9))
    assert await waiting.outcome() == "answered"


async def test_weight_is_given_back_when_the_holder_crashes(ask: Ask) -> None:
    mailbox = Mailbox("box", capacity=10, max_weight=10)
    asked = await ask(mailbox.address, Say("a", size=10))
    await mailbox.take(1)
    mailbox.fail_in_hand(ActorCrashed("box crashed"))
    assert isinstance(await asked.outcome(), ActorCrashed)
    assert await takes_weight(mailbox, 10, ask)


async def test_weight_is_given_back_when_an_abandoned_message_is_skipped(ask: Ask) -> None:
    mailbox = Mailbox("box", capacity=10, max_weight=10)
    abandoned = await ask(mailbox.address, Say("a", size=9))
    await ask(mailbox.address, Say("b", size=1))
    await abandoned.leave()
    assert texts(await mailbox.take(1)) == ["b"]
    assert await takes_weight(mailbox, 9, ask)


async def test_weight_is_given_back_when_there_is_no_room_for_the_message(ask: Ask) -> None:
    mailbox = Mailbox("box", capacity=1, max_weight=10)
    await ask(mailbox.address, Say("a"))
    with pytest.raises(MailboxFull):
        await mailbox.address.call(Say("b", size=10))
    await mailbox.take(1)
    assert await takes_weight(mailbox, 10, ask)


# Closing.


async def test_closed_mailbox_refuses_calls_and_casts() -> None:
    mailbox = Mailbox("box", capacity=10)
    mailbox.close()
    with pytest.raises(ActorStopped, match="box"):
        await mailbox.address.call(Say("a"))
    with pytest.raises(ActorStopped):
        await mailbox.address.call(Say("a"), wait_for_room=True)
    with pytest.raises(ActorStopped):
        await mailbox.address.cast(Note("a"))
    assert mailbox.depth() == 0


async def test_a_call_to_a_closed_mailbox_that_is_full_says_that_it_is_closed(ask: Ask) -> None:
    mailbox = Mailbox("box", capacity=10, max_weight=1)
    await ask(mailbox.address, Say("a", size=1))
    mailbox.close()
    with pytest.raises(ActorStopped):
        await mailbox.address.call(Say("b", size=1))


async def test_abandoned_mailbox_answers_everyone_with_actor_stopped(ask: Ask) -> None:
    mailbox = Mailbox("box", capacity=1, max_weight=10)
    asked: list[Task[Any]] = [await ask(mailbox.address, Say("in hand", size=4))]
    await mailbox.take(1)
    for text, size in ("queued", 4), ("waits to be queued", 2), ("too heavy for now", 5):
        asked.append(await ask(mailbox.address, Say(text, size), wait_for_room=True))
    mailbox.abandon()
    assert [type(await a.outcome()) for a in asked] == [ActorStopped] * 4
    assert mailbox.depth() == 0


# What it tells of itself.


async def test_depth_counts_what_waits_and_those_who_wait_for_room(ask: Ask) -> None:
    mailbox = Mailbox("box", capacity=1)
    assert mailbox.depth() == 0
    await ask(mailbox.address, Say("a"))
    gone = await ask(mailbox.address, Say("b"), wait_for_room=True)
    await ask(mailbox.address, Say("c"))  # refused
    assert mailbox.depth() == 2
    await gone.leave()
    assert mailbox.depth() == 1
    await mailbox.take(1)
    assert mailbox.depth() == 0


async def test_tells_how_long_its_messages_wait_and_have_waited(ask: Ask) -> None:
    mailbox = Mailbox("box", capacity=10)
    assert mailbox.oldest_age(trio.current_time()) is None
    await (await ask(mailbox.address, Say("abandoned"))).leave()
    await ask(mailbox.address, Say("a"))
    await trio.sleep(3)
    await ask(mailbox.address, Say("b"))
    await trio.sleep(4)
    assert mailbox.oldest_age(trio.current_time()) == pytest.approx(7)
    await mailbox.take(1)
    assert mailbox.oldest_age(trio.current_time()) == pytest.approx(4)
    await mailbox.take(1)
    assert mailbox.oldest_age(trio.current_time()) is None
    assert mailbox.taken == 2
    assert mailbox.waited == pytest.approx(7 + 4)


async def test_is_stuck_when_none_is_finished_and_not_when_it_is_only_slow(ask: Ask) -> None:
    mailbox = Mailbox("box", capacity=10)
    for text in "abc":
        await ask(mailbox.address, Say(text))
    for _ in range(2):
        await trio.sleep(8)
        answer(await mailbox.take(1))
    await trio.sleep(10)
    assert mailbox.oldest_age(trio.current_time()) == pytest.approx(26)
    assert not mailbox.is_stuck(trio.current_time(), after=10)
    await trio.sleep(1)
    assert mailbox.is_stuck(trio.current_time(), after=10)


# Callers who go away, at every moment at which they can.


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


@pytest.mark.parametrize("prompt", [True, False])
async def test_batch_in_hand_is_what_a_prompt_actor_is_stuck_with(ask: Ask, prompt: bool) -> None:
    mailbox = Mailbox("box", capacity=10, prompt=prompt)
    await ask(mailbox.address, Say("a"))
    (in_hand,) = await mailbox.take(1)
    await trio.sleep(10)
    assert not mailbox.is_stuck(trio.current_time(), after=10)
    await trio.sleep(0.001)
    assert mailbox.is_stuck(trio.current_time(), after=10) is prompt
    in_hand.reply()
    assert not mailbox.is_stuck(trio.current_time(), after=10)
