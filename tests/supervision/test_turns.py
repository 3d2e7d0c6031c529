"""Whoever asks for little does not wait behind all that somebody else asks for."""

import trio
import trio.testing
from trio.testing import MockClock

from cache_actors.supervision import Turns
from cache_actors.supervision.turns import LATELY, TOGETHER

GREEDY, MODEST = ("greedy", "sender"), ("modest", "sender")


class Asked:
    """What is asked for: it waits for its turn, and is done when it is told to be."""

    def __init__(self, turns: Turns, owner: tuple[str, ...]) -> None:
        self.owner = owner
        self.scope = trio.CancelScope()
        self._turns = turns
        self._done = trio.Event()
        self._is_inside = False

    async def run(self) -> None:
        with self.scope:
            await self._turns.enter(self.owner)
            self._is_inside = True
            await self._done.wait()
            self._is_inside = False
            self._turns.leave(self.owner)

    def is_inside(self) -> bool:
        return self._is_inside

    async def finish(self) -> None:
        self._done.set()
        await trio.testing.wait_all_tasks_blocked()


async def ask(
    nursery: trio.Nursery, turns: Turns, owner: tuple[str, ...], times: int = 1
) -> list[Asked]:
    asked = [Asked(turns, owner) for _ in range(times)]
    for each in asked:
        nursery.start_soon(each.run)
        await trio.testing.wait_all_tasks_blocked()
    return asked


def inside(asked: list[Asked]) -> int:
    return sum(each.is_inside() for each in asked)


async def test_one_that_is_alone_waits_for_nothing(nursery: trio.Nursery) -> None:
    asked = await ask(nursery, Turns(), GREEDY, 500)
    assert inside(asked) == 500
    nursery.cancel_scope.cancel()


async def test_one_that_comes_beside_others_has_only_so_much_done_at_once(
    nursery: trio.Nursery,
) -> None:
    turns = Turns()
    (modest,) = await ask(nursery, turns, MODEST)
    await modest.finish()
    asked = await ask(nursery, turns, GREEDY, 200)
    assert inside(asked) == TOGETHER // 2
    (modest,) = await ask(nursery, turns, MODEST)
    assert modest.is_inside()
    for each in asked[:10]:
        await each.finish()
        assert inside(asked) == TOGETHER // 2
    assert all(each.is_inside() for each in asked[10 : 10 + TOGETHER // 2])  # in their order
    nursery.cancel_scope.cancel()


async def test_workers_share_the_number_that_is_done_at_once(nursery: trio.Nursery) -> None:
    turns = Turns(workers=4)
    await ask(nursery, turns, MODEST)
    assert inside(await ask(nursery, turns, GREEDY, 200)) == TOGETHER // 4 // 2
    nursery.cancel_scope.cancel()


async def test_senders_of_a_project_take_turns(nursery: trio.Nursery) -> None:
    turns = Turns()
    await ask(nursery, turns, MODEST)
    first = await ask(nursery, turns, GREEDY, 100)
    (colleague,) = await ask(nursery, turns, ("greedy", "colleague"))
    assert not colleague.is_inside()
    await first[0].finish()
    await first[1].finish()
    assert colleague.is_inside()
    nursery.cancel_scope.cancel()


async def test_what_gives_up_leaves_the_line(nursery: trio.Nursery) -> None:
    turns = Turns()
    await ask(nursery, turns, MODEST)
    asked = await ask(nursery, turns, GREEDY, TOGETHER // 2 + 3)
    first, second, third = asked[-3:]
    first.scope.cancel()
    await asked[0].finish()
    assert second.is_inside()
    assert not third.is_inside()
    third.scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert turns._lines["greedy"].waiting == {}
    nursery.cancel_scope.cancel()


async def test_one_that_was_alone_lately_is_alone_again(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    turns = Turns()
    (modest,) = await ask(nursery, turns, MODEST)
    await modest.finish()
    asked = await ask(nursery, turns, GREEDY, 100)
    await trio.sleep(1.2 * LATELY)
    await asked[0].finish()
    assert inside(asked) == 99
    nursery.cancel_scope.cancel()


async def test_one_that_comes_back_after_a_while_has_its_turn_and_ends_it(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Those who were not there lately are forgotten, but not while they are let in."""
    turns = Turns()
    for _ in range(3):
        for owner in GREEDY, MODEST:
            await turns.enter(owner)
            turns.leave(owner)
        await trio.sleep(2 * LATELY)
    await turns.enter(GREEDY)
    turns.leave(GREEDY)
    assert turns._lines.keys() == {"greedy"}
