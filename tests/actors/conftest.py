"""Fixtures: trees to run actors in, storage on a real disk, and a clock that only tests move."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from cache_actors.storage.files.store import FileStore
from cache_actors.storage.files.temporary import TemporaryFolder
from cache_actors.storage.layout import TEMPORARY
from cache_actors.supervision import ChildSpec
from tests.supervision.small_actors import Root

from .helpers import Run


@pytest.fixture
def run_tree(nursery: trio.Nursery) -> Run:
    async def run_tree(*children: ChildSpec) -> Root:
        root = Root(*children, max_restarts=3, max_seconds=5)
        nursery.start_soon(root.run)
        await root.started.wait()
        return root

    return run_tree


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is meant for a thread is called as soon as it is its task's turn.

    No clock that a test moves, or that jumps when all tasks wait, may do so while a thread works.
    """

    async def run_sync(
        action: Callable[..., Any], *arguments: object, limiter: trio.CapacityLimiter
    ) -> Any:
        await limiter.acquire_on_behalf_of(borrower := object())
        try:
            return action(*arguments)
        finally:
            limiter.release_on_behalf_of(borrower)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)


@pytest.fixture
def clock(mock_clock: MockClock, no_threads: None) -> MockClock:
    """A clock that only the test moves."""
    return mock_clock


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """The storage folder."""
    folder = tmp_path / "cas"
    folder.mkdir()
    return folder


@pytest.fixture
def temporary(storage: Path) -> Iterator[TemporaryFolder]:
    """The folder for temporary files, on the same device."""
    folder = TemporaryFolder(storage / TEMPORARY)
    yield folder
    folder.remove()


@pytest.fixture
def store(storage: Path, temporary: TemporaryFolder) -> FileStore:
    """A store that syncs."""
    return FileStore(storage, temporary, durable=True)
