"""What processes cost is summed over all that they have started."""

import subprocess
import sys

from .processes import cpu_seconds, family

BUSY = (
    "import sys, time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\nsys.stdin.read()"
)
PARENT = f"""\
import subprocess, sys
busy = [subprocess.Popen([sys.executable, "-c", {BUSY!r}], stdout=subprocess.PIPE) for _ in "ab"]
for each in busy:
    each.stdout.readline()
print(flush=True)
sys.stdin.read()
"""


def test_workers_count_with_the_process_that_started_them() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        parent.stdout.readline()
        members = family(parent.pid)
        assert len(members) == 3
        assert cpu_seconds(members) >= 0.6 - 0.06 > cpu_seconds([parent.pid])
        parent.communicate()


def test_processes_that_have_ended_cost_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert family(process.pid) == [process.pid]
    assert cpu_seconds([process.pid]) == 0
