"""Fixtures that run trees and calls in the background of a test, on a clock that jumps."""

from collections.abc import Awaitable, Callable
from functools import partial
from inspect import iscoroutinefunction
from typing import Any

import pytest
import trio
import trio.testing

from cache_actors.supervision import Address, Call, ChildSpec

from .small_actors import Ask, Desk, Root, Start, Task

CLOCKS = {"autojump_clock", "mock_clock"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run tests on the clock that one of their fixtures has asked for.

    By itself pytest-trio looks for a clock among the arguments of the test alone.
    """
    for item in items:
        if isinstance(item, pytest.Function) and iscoroutinefunction(item.obj):
            for name in CLOCKS.intersection(item.fixturenames):
                item.add_marker(pytest.mark.trio(run=partial(_run_on, item, name)), append=False)


def _run_on(
    item: pytest.Function, name: str, test: Callable[[], Awaitable[None]], **how: Any
) -> None:
    trio.run(test, **how | {"clock": item.funcargs[name]})


@pytest.fixture
def ask(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> Ask:
    async def ask(
        address: Address, message: Call[Any], *, wait_for_room: bool = False
    ) -> Task[Any]:
        task = Task[Any]()
        nursery.start_soon(task.run, address.call(message, wait_for_room=wait_for_room))
        await trio.testing.wait_all_tasks_blocked()
        return task

    return ask


@pytest.fixture
def start(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> Start:
    async def start(*children: ChildSpec, max_restarts: int = 3, max_seconds: float = 5.0) -> Root:
        root = Root(*children, max_restarts=max_restarts, max_seconds=max_seconds)
        nursery.start_soon(root.run)
        await trio.testing.wait_all_tasks_blocked()
        return root

    return start


@pytest.fixture
async def desk(start: Start) -> Desk:
    """That of a clerk at work."""
    desk = Desk()
    desk.root = await start(desk.child)
    return desk
