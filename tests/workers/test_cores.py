"""How many cores there are for this process."""

import os
from pathlib import Path

import pytest

from cache_actors.workers.cores import usable_cores


@pytest.fixture
def cpu_max(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file with the group's limit; the process is bound to eight cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    return tmp_path / "cpu.max"


def test_without_a_limit_it_is_what_the_process_is_bound_to(cpu_max: Path) -> None:
    assert usable_cores(cpu_max) == 8
    cpu_max.write_text("max 100000\n")
    assert usable_cores(cpu_max) == 8


@pytest.mark.parametrize(
    ("limit", "cores"),
    [("200000 100000", 2), ("150000 100000", 2), ("50000 100000", 1), ("1600000 100000", 8)],
)
def test_limit_of_the_group_counts_in_whole_cores(cpu_max: Path, limit: str, cores: int) -> None:
    cpu_max.write_text(limit + "\n")
    assert usable_cores(cpu_max) == cores


def test_there_is_at_least_one_here() -> None:
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))
