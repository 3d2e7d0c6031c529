"""Tests of the folders that files of the benchmarks lie in."""

import tempfile
from pathlib import Path

import pytest

from .contestants import scratch_folder


def test_scratch_folders_are_removed_with_the_outermost_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While something is measured nothing is removed, as that slows down what comes after it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with scratch_folder() as outermost:
        for _ in range(2):
            with scratch_folder() as part, scratch_folder() as within:
                (within / "file").touch()
            assert (within / "file").exists()
            assert part.is_relative_to(outermost)
    assert list(tmp_path.iterdir()) == []
    with scratch_folder() as another:
        assert another.parent == tmp_path
