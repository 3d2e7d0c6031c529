"""A stop can wait for the requests that are being answered, and only for those."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import trio
import trio.testing

from cache_actors.http.server.in_flight import InFlight


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


def test_requests_are_counted_while_they_last() -> None:
    requests = InFlight()
    assert len(requests) == 0
    with requests.one():
        with requests.one():
            assert len(requests) == 2
        assert len(requests) == 1
    assert len(requests) == 0


def test_request_that_fails_is_over_too() -> None:
    requests = InFlight()
    with pytest.raises(ZeroDivisionError), requests.one():
        raise ZeroDivisionError
    assert len(requests) == 0


def test_nothing_drains_at_first() -> None:
    assert InFlight().draining is False


async def test_nothing_is_waited_for_when_nothing_is_in_flight(nursery: trio.Nursery) -> None:
    requests = InFlight()
    assert await (await waiter(requests, nursery)).is_done()


async def test_all_requests_in_flight_are_waited_for(nursery: trio.Nursery) -> None:
    requests = InFlight()
    with ExitStack() as first, ExitStack() as second:
        first.enter_context(requests.one())
        second.enter_context(requests.one())
        waiting = await waiter(requests, nursery)
        second.close()
        assert not await waiting.is_done()
        first.close()
        assert await waiting.is_done()


async def test_requests_that_came_later_are_not_waited_for(nursery: trio.Nursery) -> None:
    requests = InFlight()
    with ExitStack() as early, ExitStack() as late:
        early.enter_context(requests.one())
        waiting = await waiter(requests, nursery)
        late.enter_context(requests.one())
        with requests.one():
            pass
        assert not await waiting.is_done()
        early.close()
        assert await waiting.is_done()
        assert len(requests) == 1


async def test_each_waiter_waits_for_what_it_found(nursery: trio.Nursery) -> None:
    requests = InFlight()
    with ExitStack() as one, ExitStack() as two:
        one.enter_context(requests.one())
        first = await waiter(requests, nursery)
        two.enter_context(requests.one())
        second = await waiter(requests, nursery)
        one.close()
        assert (await first.is_done(), await second.is_done()) == (True, False)
        two.close()
        assert await second.is_done()


async def test_all_who_wait_for_a_request_hear_of_its_end(nursery: trio.Nursery) -> None:
    requests = InFlight()
    with requests.one():
        waiting = [await waiter(requests, nursery) for _ in range(3)]
    assert [await each.is_done() for each in waiting] == [True] * 3


async def test_waiting_can_be_given_up(nursery: trio.Nursery) -> None:
    requests = InFlight()
    with requests.one():
        impatient = await waiter(requests, nursery)
        patient = await waiter(requests, nursery)
        impatient.scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
    assert await patient.is_done()
    assert not await impatient.is_done()
