"""Nobody keeps others from what is shared out, however much he wants and however slow he is."""

from contextlib import suppress

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from cache_actors.supervision import Holding, Owner, Shares
from cache_actors.supervision.shares import STALLED


def take_all(shares: Shares, owner: Owner, piece: int = 1) -> Holding:
    """Take as much as `owner` can get, piece by piece."""
    holding = Holding(shares, owner)
    with suppress(trio.WouldBlock):
        while True:
            holding.take_nowait(piece)
    return holding


class Waiter:
    """A task that waits for its share."""

    def __init__(self, shares: Shares, owner: Owner, amount: int) -> None:
        self.holding = Holding(shares, owner)
        self.amount = amount
        self.scope = trio.CancelScope()

    async def run(self, done: list[tuple[object, ...]]) -> None:
        with self.scope:
            await self.holding.take(self.amount)
            done.append(self.holding.owner)


async def test_greedy_sender_leaves_as_much_as_he_has_to_his_project_and_to_others() -> None:
    shares = Shares(1024)
    greedy = take_all(shares, ("project", "greedy"))
    assert greedy.amount == 256  # half of what its project may have, which is half of all
    assert take_all(shares, ("project", "other")).amount > 0
    assert take_all(shares, ("other project", "sender")).amount > 0


@pytest.mark.parametrize("senders", [1, 3])
@pytest.mark.parametrize("projects", [1, 3])
async def test_where_some_are_greedy_and_give_nothing_back_there_is_something_for_who_comes_next(
    projects: int, senders: int
) -> None:
    shares = Shares(1 << 20)
    for project in range(projects):
        for sender in range(senders):
            take_all(shares, (project, sender), 64)
    colleague = take_all(shares, (projects - 1, "new"), 1)
    assert colleague.amount > 0
    newcomer = take_all(shares, ("new", "new"), 64)
    assert newcomer.amount >= 64


async def test_who_is_alone_may_have_more_than_a_share_at_once() -> None:
    shares = Shares(10)
    holding = Holding(shares, ("project", "sender"))
    holding.take_nowait(100)
    assert holding.amount == 10
    with pytest.raises(trio.WouldBlock):
        Holding(shares, ("other", "sender")).take_nowait(1)
    holding.give_back()
    assert shares.taken == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 40)), max_size=60))
def test_books_balance(steps: list[tuple[int, int, int]]) -> None:
    async def run() -> None:
        shares = Shares(100)
        holdings: list[Holding] = []
        for project, sender, amount in steps:
            holding = Holding(shares, (project, sender))
            try:
                holding.take_nowait(amount)
            except trio.WouldBlock:
                if holdings:
                    holdings.pop(0).give_back()
            else:
                holdings.append(holding)
            assert shares.taken == sum(each.amount for each in holdings) <= shares.limit
        for holding in holdings:
            holding.give_back()
        assert shares.taken == 0
        assert shares._held == {}
        assert shares._holdings == set()

    trio.run(run)


# Waiting.


async def test_projects_have_their_turns_one_after_the_other(nursery: trio.Nursery) -> None:
    """However many of one wait before another's only one, and for however many senders."""
    shares, served = Shares(1, leave_room=False), list[tuple[object, ...]]()
    first = Holding(shares, ("greedy", 0))
    first.take_nowait(1)
    waiters = [Waiter(shares, ("greedy", sender), 1) for sender in range(20)]
    waiters.append(Waiter(shares, ("modest", 0), 1))
    for waiter in waiters:
        nursery.start_soon(waiter.run, served)
        await trio.testing.wait_all_tasks_blocked()
    first.give_back()
    await trio.testing.wait_all_tasks_blocked()
    assert served == [("modest", 0)]
    for waiter in [waiters[-1], *waiters[:-1]]:
        waiter.holding.give_back()
        await trio.testing.wait_all_tasks_blocked()
    assert len(served) == len(waiters)
    assert shares.taken == 0


async def test_one_that_waits_does_not_hold_up_others(nursery: trio.Nursery) -> None:
    shares, served = Shares(1024), list[tuple[object, ...]]()
    greedy = take_all(shares, ("greedy", 0))
    waiter = Waiter(shares, ("greedy", 0), 200)
    nursery.start_soon(waiter.run, served)
    await trio.testing.wait_all_tasks_blocked()
    Holding(shares, ("other", 0)).take_nowait(100)
    assert served == []
    greedy.give_back()
    await trio.testing.wait_all_tasks_blocked()
    assert served == [("greedy", 0)]


async def test_one_that_gives_up_leaves_nothing_behind(nursery: trio.Nursery) -> None:
    shares, served = Shares(1024), list[tuple[object, ...]]()
    greedy = take_all(shares, ("greedy", 0))
    waiters = [Waiter(shares, ("greedy", 0), 100) for _ in range(2)]
    for waiter in waiters:
        nursery.start_soon(waiter.run, served)
        await trio.testing.wait_all_tasks_blocked()
    waiters[0].scope.cancel()
    greedy.give_back()  # so that it is granted just as it gives up
    await trio.testing.wait_all_tasks_blocked()
    assert shares.taken == waiters[1].holding.amount == 100
    waiters[1].holding.give_back()
    assert shares._waiting == {}
    assert shares._held == {}


# Growing.


async def test_who_holds_units_waits_neither_for_its_own_nor_for_who_holds_none(
    nursery: trio.Nursery,
) -> None:
    shares, served = Shares(1024), list[tuple[object, ...]]()
    growing = Holding(shares, ("project",))
    await growing.take(600)
    nursery.start_soon(Waiter(shares, ("project",), 10).run, served)
    await trio.testing.wait_all_tasks_blocked()
    with trio.fail_after(5):
        await growing.grow(400)
    assert (growing.amount, served) == (1000, [])
    growing.give_back()
    await trio.testing.wait_all_tasks_blocked()
    assert served == [("project",)]


async def test_who_holds_units_leaves_room_while_others_of_its_project_can_go_on(
    nursery: trio.Nursery,
) -> None:
    shares = Shares(1024)
    growing, other = Holding(shares, ("project",)), Holding(shares, ("project",))
    await growing.take(400)
    await other.take(100)
    nursery.start_soon(growing.grow, 100)
    await trio.testing.wait_all_tasks_blocked()
    assert growing.amount == 400
    with pytest.raises(trio.WouldBlock):  # what is left of the share is for who waits already
        Holding(shares, ("project",)).take_nowait(1)
    Holding(shares, ("other",)).take_nowait(1)
    other.give_back()
    await trio.testing.wait_all_tasks_blocked()
    assert growing.amount == 500


@pytest.mark.parametrize("projects", [("one", "one"), ("one", "other")])
async def test_of_those_who_wait_for_each_other_the_last_is_refused(
    projects: tuple[str, str], nursery: trio.Nursery
) -> None:
    shares = Shares(1024)
    first, last = (Holding(shares, (project,)) for project in projects)
    await first.take(400)
    await last.take(100)
    nursery.start_soon(first.grow, 550)
    await trio.testing.wait_all_tasks_blocked()
    with trio.fail_after(5), pytest.raises(trio.WouldBlock):
        await last.grow(550)
    assert (first.amount, last.amount) == (400, 100)
    last.give_back()
    await trio.testing.wait_all_tasks_blocked()
    assert first.amount == 950
    first.give_back()
    assert (shares.taken, shares._growing) == (0, [])


async def test_one_that_ends_leaves_the_others_not_waiting_for_each_other(
    nursery: trio.Nursery,
) -> None:
    shares, refused = Shares(1024), list[Holding]()
    holdings = [Holding(shares, (project,)) for project in range(3)]

    async def grow(holding: Holding) -> None:
        try:
            await holding.grow(700)
        except trio.WouldBlock:
            refused.append(holding)
            holding.give_back()

    for holding in holdings:
        await holding.take(200 if holding is not holdings[2] else 50)
    for holding in holdings[:2]:
        nursery.start_soon(grow, holding)
        await trio.testing.wait_all_tasks_blocked()
    assert refused == []
    holdings[2].give_back()
    await trio.testing.wait_all_tasks_blocked()
    assert refused == [holdings[1]]
    assert holdings[0].amount == 900


async def test_growing_that_is_given_up_leaves_nothing_behind(nursery: trio.Nursery) -> None:
    shares = Shares(1024)
    growing, other = Holding(shares, ("project",)), Holding(shares, ("project",))
    await growing.take(400)
    await other.take(100)
    for is_granted in False, True:
        with trio.CancelScope() as scope:
            nursery.start_soon(_cancel_when_waiting, scope, other if is_granted else None)
            await growing.grow(300)
        assert scope.cancelled_caught
        assert (growing.amount, shares._growing) == (400, [])


async def _cancel_when_waiting(scope: trio.CancelScope, other: Holding | None) -> None:
    """Cancel `scope`, just before which what it waits for is granted if `other` is given."""
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()
    if other is not None:
        other.give_back()


STEPS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(1, 100), st.lists(st.integers(1, 60), max_size=3)),
    max_size=12,
)


@given(STEPS)
def test_nobody_waits_for_ever(tasks: list[tuple[int, int, list[int]]]) -> None:
    async def run() -> None:
        shares = Shares(100)

        async def work(project: int, first: int, more: list[int]) -> None:
            holding = Holding(shares, (project,))
            await holding.take(first)
            with suppress(trio.WouldBlock):
                for amount in more:
                    await trio.testing.wait_all_tasks_blocked()
                    await holding.grow(amount)
                    assert shares.taken <= shares.limit
            holding.give_back()

        with trio.fail_after(STALLED):  # by a clock that stands still unless all wait
            async with trio.open_nursery() as nursery:
                for task in tasks:
                    nursery.start_soon(work, *task)
        assert (shares.taken, shares._growing, shares._waiting) == (0, [], {})

    trio.run(run, clock=MockClock(autojump_threshold=0))


# Those who get nowhere.


class Pledge(Holding):
    """A holding that can do without half of it."""

    def let_go(self) -> None:
        self.give_back(self.amount // 2)


async def test_holding_that_does_not_move_lets_go_for_others(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    shares, served = Shares(1024), list[tuple[object, ...]]()
    moving, stalled = Pledge(shares, ("project", 0)), Pledge(shares, ("project", 0))
    for holding in moving, stalled:
        holding.take_nowait(128)
    nursery.start_soon(Waiter(shares, ("project", 0), 64).run, served)
    for _ in range(20):
        await trio.sleep(STALLED / 10)
        moving.move()
    assert served == [("project", 0)]
    assert (moving.amount, stalled.amount) == (128, 64)


async def test_holding_of_who_has_less_is_left_alone(autojump_clock: MockClock) -> None:
    shares = Shares(1024)
    modest = Pledge(shares, ("project", "modest"))
    modest.take_nowait(10)
    await trio.sleep(2 * STALLED)
    greedy = take_all(shares, ("project", "greedy"))
    assert greedy.amount > 10
    assert modest.amount == 10
