"""Fixtures of the storage tests: folders on a real disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cache_actors.storage.layout import TEMPORARY
from cache_actors.storage.temporary import TemporaryFolder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The storage folder."""
    root = tmp_path / "cas"
    root.mkdir()
    return root


@pytest.fixture
def temporary(root: Path) -> Iterator[TemporaryFolder]:
    """The folder for temporary files, on the same device."""
    folder = TemporaryFolder(root / TEMPORARY)
    yield folder
    folder.remove()
