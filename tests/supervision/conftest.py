"""Fixtures that run trees and calls in the background of a test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from .small_actors import Ask, Asked, Root, Start

if TYPE_CHECKING:
    from cache_actors.supervision import Address, Call, ChildSpec


@pytest.fixture
def ask(nursery: trio.Nursery) -> Ask:
    async def ask(address: Address, message: Call[Any], *, wait_for_room: bool = False) -> Asked:
        asked = Asked()
        nursery.start_soon(asked.run, address, message, wait_for_room)
        await trio.testing.wait_all_tasks_blocked()
        return asked

    return ask


@pytest.fixture
def start(nursery: trio.Nursery) -> Start:
    async def start(*children: ChildSpec, max_restarts: int = 3, max_seconds: float = 5.0) -> Root:
        root = Root(*children, max_restarts=max_restarts, max_seconds=max_seconds)
        nursery.start_soon(root.run)
        await trio.testing.wait_all_tasks_blocked()
        return root

    return start
