"""A stop can wait for the requests that are being answered, and only for those."""

from contextlib import ExitStack

import pytest
import trio
import trio.testing

from cache_actors.http.in_flight import InFlight


class Waiter:
    """A task that waits for the requests that are in flight when it starts."""

    def __init__(self, requests: InFlight) -> None:
        self._requests = requests
        self._done = False
        self.scope = trio.CancelScope()

    async def run(self) -> None:
        with self.scope:
            await self._requests.wait_for_current()
            self._done = True

    async def is_done(self) -> bool:
        """Whether it has seen all of them end."""
        await trio.testing.wait_all_tasks_blocked()
        return self._done


async def waiter(requests: InFlight, nursery: trio.Nursery) -> Waiter:
    """A waiter that has begun to wait."""
    new = Waiter(requests)
    nursery.start_soon(new.run)
    await trio.testing.wait_all_tasks_blocked()
    return new


def test_requests_are_counted_while_they_last_however_they_end() -> None:
    requests = InFlight()
    with requests.one():
        with pytest.raises(ZeroDivisionError), requests.one():
            raise ZeroDivisionError
        assert len(requests) == 1
    assert len(requests) == 0


async def test_each_waiter_waits_for_all_that_it_found_and_for_nothing_later(
    nursery: trio.Nursery,
) -> None:
    requests = InFlight()
    assert await (await waiter(requests, nursery)).is_done()
    with ExitStack() as one, ExitStack() as two, ExitStack() as three:
        one.enter_context(requests.one())
        first = await waiter(requests, nursery)
        two.enter_context(requests.one())
        second = await waiter(requests, nursery)
        three.enter_context(requests.one())
        with requests.one():
            pass
        assert (await first.is_done(), await second.is_done()) == (False, False)
        one.close()
        assert (await first.is_done(), await second.is_done()) == (True, False)
        two.close()
        assert await second.is_done()
        assert len(requests) == 1


async def test_all_who_wait_hear_of_the_end_but_those_who_have_given_up(
    nursery: trio.Nursery,
) -> None:
    requests = InFlight()
    with requests.one():
        impatient, *patient = [await waiter(requests, nursery) for _ in range(3)]
        impatient.scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
    assert [await each.is_done() for each in patient] == [True] * 2
    assert not await impatient.is_done()
