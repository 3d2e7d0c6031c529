"""Fixtures of tests that push from a real disk into a bucket in memory."""

from pathlib import Path

import pytest

from .pushes import Disk, WatchedBucket


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    root = tmp_path / "cas"
    root.mkdir()
    return Disk(root)


@pytest.fixture
def bucket() -> WatchedBucket:
    return WatchedBucket()
