"""Tests that share something run in one process, so that it is started once; others run in any."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

CONFTEST = Path(__file__).with_name("conftest.py")
TESTS = """
import os, pytest

@pytest.fixture(scope="module", params=["direct", "wheel"])
def front(request):
    return request.param

def note(group):
    print(os.environ["PYTEST_XDIST_WORKER"], __name__, group, file=open({log!r}, "a"))

@pytest.mark.parametrize("number", range(6))
def test_something(front, number):
    note(front)

@pytest.fixture
def own():
    return "alone"

@pytest.mark.parametrize("number", range(6))
def test_something_else(own, tmp_path_factory, number):
    note(own)
"""


def test_only_those_that_share_stay_together(tmp_path: Path) -> None:
    log = tmp_path / "log"
    folder = tmp_path / "tests" / "system"
    folder.mkdir(parents=True)
    (tmp_path / "tests" / "conftest.py").write_text(CONFTEST.read_text())
    for name in "test_one.py", "test_two.py":
        (folder / name).write_text(TESTS.format(log=str(log)))
    command = [sys.executable, "-m", "pytest", "-n", "4", "--dist", "loadgroup", "tests"]
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    processes = defaultdict(set)
    for line in log.read_text().splitlines():
        process, _, group = line.partition(" ")
        processes[group].add(process)
    others = [processes.pop(group) for group in list(processes) if group.endswith("alone")]
    assert len(processes) == 4
    assert all(len(each) == 1 for each in processes.values()), processes
    assert len(set().union(*others)) > 1
