"""Fixtures that run trees and calls in the background of a test, on a clock that jumps."""

from typing import Any

import pytest
import trio
import trio.testing

from cache_actors.supervision import Address, Call, ChildSpec

from .small_actors import Ask, Desk, Root, Start, Task


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
