"""A budget never hands out more than it has, first come, first served."""

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from cache_actors.supervision import Budget


class Taker:
    """A task that takes from a budget and keeps what it got."""

    def __init__(self, budget: Budget, amount: int) -> None:
        self.amount = amount
        self._has_it = False
        self.scope = trio.CancelScope()
        self._budget = budget

    async def run(self) -> None:
        with self.scope:
            await self._budget.take(self.amount)
            self._has_it = True

    def has_it(self) -> bool:
        return self._has_it

    def give_back(self) -> None:
        self._has_it = False
        self._budget.give_back(self.amount)


async def take(nursery: trio.Nursery, budget: Budget, amount: int) -> Taker:
    """Start a taker, and return when it has its share or waits for it."""
    taker = Taker(budget, amount)
    nursery.start_soon(taker.run)
    await trio.testing.wait_all_tasks_blocked()
    return taker


async def test_small_taker_does_not_overtake_a_big_one(nursery: trio.Nursery) -> None:
    budget = Budget(10)
    budget.take_nowait(5)
    big = await take(nursery, budget, 10)
    small = await take(nursery, budget, 1)
    with pytest.raises(trio.WouldBlock):
        budget.take_nowait(1)
    assert not small.has_it()
    budget.give_back(5)
    await trio.testing.wait_all_tasks_blocked()
    assert (big.has_it(), small.has_it()) == (True, False)
    budget.give_back(10)
    await trio.testing.wait_all_tasks_blocked()
    assert small.has_it()


async def test_one_return_lets_all_go_on_who_fit(nursery: trio.Nursery) -> None:
    budget = Budget(10)
    budget.take_nowait(10)
    takers = [await take(nursery, budget, amount) for amount in (3, 3, 3, 3)]
    budget.give_back(10)
    await trio.testing.wait_all_tasks_blocked()
    assert [taker.has_it() for taker in takers] == [True, True, True, False]


async def test_cancelled_taker_takes_nothing_and_lets_the_next_go_on(nursery: trio.Nursery) -> None:
    budget = Budget(10)
    budget.take_nowait(5)
    big = await take(nursery, budget, 10)
    small = await take(nursery, budget, 5)
    big.scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert (big.has_it(), small.has_it()) == (False, True)
    assert budget.taken == 10


async def test_take_in_a_cancelled_scope_takes_nothing() -> None:
    budget = Budget(10)
    with trio.CancelScope() as scope:
        scope.cancel()
        await budget.take(1)
    assert budget.taken == 0


LIMIT = 10
steps = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(0, LIMIT + 2)),
        st.tuples(st.just("cancel"), st.integers(0, 20)),
        st.tuples(st.just("give back"), st.integers(0, 20)),
        st.tuples(st.just("settle"), st.just(0)),
    ),
    max_size=40,
)


@given(steps)
async def test_never_exceeds_its_limit_and_never_leaks(steps: list[tuple[str, int]]) -> None:
    budget = Budget(LIMIT)
    takers: list[Taker] = []

    def held() -> int:
        return sum(min(taker.amount, LIMIT) for taker in takers if taker.has_it())

    def give_back(taker: Taker) -> None:
        takers.remove(taker)
        taker.give_back()

    async with trio.open_nursery() as nursery:
        for step, number in steps:
            if step == "take":
                takers.append(Taker(budget, number))
                nursery.start_soon(takers[-1].run)
            elif step == "settle":
                await trio.testing.wait_all_tasks_blocked()
                assert held() == budget.taken
            elif number < len(takers):
                if takers[number].has_it():
                    give_back(takers[number])
                elif step == "cancel":
                    takers[number].scope.cancel()
            assert held() <= budget.taken <= LIMIT
        await trio.testing.wait_all_tasks_blocked()
        while ready := [taker for taker in takers if taker.has_it()]:
            give_back(ready[0])
            await trio.testing.wait_all_tasks_blocked()
        assert all(taker.scope.cancel_called for taker in takers)
    assert budget.taken == 0
