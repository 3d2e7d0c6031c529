"""The commands `evict` and `usage` as processes: beside others, interrupted, as another user."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cache_actors.storage.eviction.last_pass import last_eviction
from cache_actors.storage.eviction.run import NICENESS
from tests.support.mounts import require_root
from tests.support.nginx import NOBODY, shared_storage
from tests.support.stored import BLOCK_BYTES, DAY, Stored
from tests.support.waiting import eventually


@pytest.fixture
def stored() -> Iterator[Stored]:
    """Ten artifacts and as many entries, not used for a day; any user may read them."""
    with shared_storage() as root:
        root.mkdir(parents=True, exist_ok=True)
        root.chmod(0o755)
        stored = Stored(root)
        for number in range(10):
            stored.artifact(number, DAY)
            stored.entry(f"a{number}", number, age=DAY)
        yield stored


def command(what: str, root: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "cache_actors", what, f"--storage={root}", *options]


def run(what: str, root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(what, root, *options), capture_output=True, text=True, check=False
    )


AS_NOBODY = """
import os, sys
from contextlib import redirect_stdout, suppress
from io import StringIO
from tempfile import TemporaryDirectory
from cache_actors.cli.main import main
from cache_actors.storage.eviction import run as run_module
for what in ("evict", "usage"):  # loads what it needs, which others may not be able to read
    with TemporaryDirectory() as folder, suppress(SystemExit), redirect_stdout(StringIO()):
        main([what, "--storage", folder])
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
run_module.PROTECTED_SECONDS = run_module.GRACE_SECONDS = run_module.HURRIED_SECONDS = 0.1
main(sys.argv[1:])
"""


def run_as_nobody(what: str, root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user to whom nothing belongs. Only for root."""
    require_root()
    _, _, _, *arguments = command(what, root, *options)
    return subprocess.run(
        [sys.executable, "-c", AS_NOBODY, *arguments], capture_output=True, text=True, check=False
    )


def entries(stored: Stored) -> int:
    return sum(name.endswith(".json") for name in stored.names())


@contextmanager
def waiting_eviction(stored: Stored) -> Iterator[subprocess.Popen[str]]:
    """An eviction of everything, which has removed all entries, and waits with the artifacts."""
    options = ("--target=0", "--json")
    with subprocess.Popen(
        command("evict", stored.root, *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        eventually(lambda: entries(stored) == 0)
        try:
            yield process
        finally:
            process.kill()


def test_eviction_can_be_interrupted_and_another_may_run_then(stored: Stored) -> None:
    with waiting_eviction(stored) as process:
        own = os.getpriority(os.PRIO_PROCESS, 0)
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == min(19, own + NICENESS)
        second = run("evict", stored.root)
        assert (second.returncode, second.stdout) == (3, "")
        assert second.stderr == "Another eviction of this storage is running\n"
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "")
    report = json.loads(output)
    assert (report["entries"], report["artifacts"]) == (10, 0)
    last = last_eviction(stored.root)
    assert last is not None
    assert (last.stored_entries, last.stored_artifacts) == (0, 10)
    again = run("evict", stored.root, "--target=100", "--json")
    assert again.returncode == 0
    assert json.loads(again.stdout)["stored_artifacts"] == 10


def test_eviction_can_be_killed_and_another_may_run_then(stored: Stored) -> None:
    with waiting_eviction(stored) as process:
        process.kill()
    assert last_eviction(stored.root) is None
    assert run("evict", stored.root, "--target=100").returncode == 0


def test_eviction_ends_with_the_process_that_has_started_it(stored: Stored) -> None:
    line = " ".join(command("evict", stored.root, "--target=0", "--parent=$$"))
    with subprocess.Popen(
        ["/bin/sh", "-c", f"{line} > /dev/null & echo $!; read x"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        eventually(lambda: entries(stored) == 0)
        os.kill(pid, 0)
        parent.kill()
        parent.wait()
        eventually(lambda: run("evict", stored.root, "--target=100").returncode == 0)
    assert len(stored.names()) == 10


def test_files_of_somebody_else_are_named_and_stay(stored: Stored) -> None:
    require_root()
    for path in (stored.root, *stored.root.glob("**/*")):
        os.chown(path, NOBODY, NOBODY)
    assert run_as_nobody("evict", stored.root, "--target=100").returncode == 0
    entry = stored.entry("b", 1, age=3600.0)  # root's, which anyone may read
    os.chown(entry.parent, NOBODY, NOBODY)
    done = run_as_nobody("evict", stored.root, *limit(stored, 20))
    assert done.returncode == 2
    assert done.stderr == (
        f"{entry} belongs to somebody else: run this as the service's user, or give it "
        f"everything below {stored.root}\n"
    )
    assert entry.exists()
    entry.unlink()
    artifact = stored.artifact(20, age=2 * DAY)
    assert run_as_nobody("evict", stored.root, *limit(stored, 10)).returncode == 0
    assert artifact.name in stored.names()
    assert len(stored.names()) < 20


def limit(stored: Stored, files: int) -> list[str]:
    """Options with which so many files may stay, and the pass does not wait for long."""
    held = len(stored.names())
    return [f"--max-bytes={held * BLOCK_BYTES}", f"--target={100 * files / held}"]
