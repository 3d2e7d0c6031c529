"""A pass as a process: how it is started, what its end means, and that it ends when it should."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import trio

from cache_actors.actors.evictor import PassFailed, run_pass
from cache_actors.storage.eviction.last_pass import (
    EXIT_RUNNING,
    EvictionLock,
    PassReport,
    last_eviction,
)
from cache_actors.storage.eviction.run import Limits
from tests.support.stored import DAY, Stored

from .helpers import Tasks

REPORT = PassReport(1_700_000_000.5, 1.5, 10, 20, 3000, 86_400.25, 30, 40, 5000, 99.5)
LIMITS = Limits(0.85, 0.7)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a shell script in the place of the Python that would run the pass."""

    def command(script: str) -> None:
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))

    return command


def test_exit_statuses_are_those_of_the_command() -> None:
    assert EXIT_RUNNING == 3  # as the command's help says


async def test_pass_is_told_what_it_needs(command: Callable[[str], None], tmp_path: Path) -> None:
    told = tmp_path / "told"
    command(f"echo \"$@\" > {told}; echo '{json.dumps(asdict(REPORT))}'")
    assert await run_pass(tmp_path, Limits(0.85, 0.7, 1000)) == REPORT
    assert told.read_text() == (
        f"-P -m cache_actors evict --json --storage={tmp_path} --high=85.0 --target=70.0 "
        f"--parent={os.getpid()} --max-bytes=1000\n"
    )
    await run_pass(tmp_path, LIMITS)
    assert "--max-bytes" not in told.read_text()


async def test_pass_beside_another_is_none(command: Callable[[str], None], tmp_path: Path) -> None:
    command("echo 'Another is running' >&2; exit 3")
    assert await run_pass(tmp_path, LIMITS) is None


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo first >&2; echo 'the last line' >&2; exit 2", "the last line"),
        ("exit 7", "exit status 7"),
        ("kill -9 $$", "exit status -9"),
        ("printf '\\377' >&2; exit 1", "\N{REPLACEMENT CHARACTER}"),
    ],
)
async def test_failed_pass_says_why(
    command: Callable[[str], None], tmp_path: Path, script: str, reason: str
) -> None:
    command(script)
    with pytest.raises(PassFailed) as caught:
        await run_pass(tmp_path, LIMITS)
    assert str(caught.value) == reason


async def test_pass_that_cannot_be_started_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))
    with pytest.raises(PassFailed, match="A pass could not be started: No such file"):
        await run_pass(tmp_path, LIMITS)


async def test_cancelled_pass_is_ended(
    command: Callable[[str], None], tmp_path: Path, nursery: trio.Nursery
) -> None:
    os.mkfifo(tmp_path / "pid")
    command(f"echo $$ > {tmp_path / 'pid'}; exec sleep 1000")
    task = Tasks(nursery).start(run_pass(tmp_path, LIMITS))
    pid = int(await trio.to_thread.run_sync((tmp_path / "pid").read_text))
    os.kill(pid, 0)
    await task.leave()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_real_pass_does_what_it_is_told(storage: Path) -> None:
    stored = Stored(storage)
    for number in range(10):
        stored.artifact(number, DAY)
    done = await run_pass(storage, Limits(0.9, 0.0, 5 * 4096))
    assert done is not None
    assert (done.artifacts, done.stored_artifacts) == (10, 0)
    assert done == last_eviction(storage)
    with EvictionLock(storage):
        assert await run_pass(storage, LIMITS) is None
