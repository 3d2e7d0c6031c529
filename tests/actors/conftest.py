"""Fixtures: trees to run actors in, and storage on a real disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cache_actors.storage.files import FileStore
from cache_actors.storage.layout import TEMPORARY
from cache_actors.storage.temporary import TemporaryFolder
from tests.supervision.small_actors import Root

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import trio

    from cache_actors.supervision import ChildSpec

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
