"""Tests that share something run in one process, so that it is started once; others run in any."""

import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

CONFTEST = Path(__file__).with_name("conftest.py")
TESTS = """
import pytest

@pytest.fixture(scope="module", params=["direct", "wheel"])
def front(request):
    return request.param

@pytest.mark.parametrize("number", range(6))
def test_shared(front, number):
    pass

@pytest.fixture
def own():
    pass

@pytest.mark.parametrize("number", range(6))
def test_alone(own, tmp_path_factory, number):
    pass
"""


def test_only_those_that_share_stay_together(tmp_path: Path) -> None:
    folder = tmp_path / "tests" / "system"
    folder.mkdir(parents=True)
    (tmp_path / "tests" / "conftest.py").write_text(CONFTEST.read_text())
    for name in "test_one.py", "test_two.py":
        (folder / name).write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-p", "no:schemathesis", "-v"]
    command += ["-n", "2", "--dist", "loadgroup", "tests"]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "PYTHONPATH": str(CONFTEST.parents[1]),  # for what it imports
    }
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    ran = re.findall(r"^\[(gw\d)\] .* PASSED \S+::test_(\w+)\[\S+\](?:@(\S+))? ", done.stdout, re.M)
    assert len(ran) == 2 * (2 * 6 + 6)
    assert {group for _, which, group in ran if which == "alone"} == {""}
    processes = defaultdict(set)
    for process, which, group in ran:
        if which == "shared":
            processes[group].add(process)
    assert len(processes) == 4
    assert all(len(each) == 1 for each in processes.values()), processes
