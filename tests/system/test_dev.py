"""`cache-actors dev`, as someone meets it who has just cloned the project."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from cache_actors.__main__ import main
from tests.support.programs import find_program
from tests.support.service import free_port

DEV = (sys.executable, "-m", "cache_actors", "dev")


def test_printed_curl_lines_work_in_their_order(tmp_path: Path) -> None:
    find_program("curl")
    with running_dev(tmp_path, PORT=str(free_port())) as lines:
        answers = [
            subprocess.run(
                ["bash", "-c", line],  # noqa: S607
                capture_output=True,
                text=True,
                check=True,
                timeout=60,
            ).stdout
            for line in lines
        ]
    assert len(answers) == 5
    stored, read, put, retrieved, up = answers
    assert stored.startswith("HTTP/1.1 204")
    assert read.startswith("HTTP/1.1 200")
    assert read.endswith("the bytes of an artifact\n")
    assert put.startswith("HTTP/1.1 204")
    assert retrieved.startswith("HTTP/1.1 200")
    assert retrieved.endswith('{"entries":[{"value":"dGhlIHJlc3VsdA=="}]}\n')
    assert json.loads(up)["status"] == "up"
    assert (tmp_path / ".dev" / "cas" / "acme" / "app").is_dir()


def test_refuses_to_be_reached_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke(main, ["dev"], env={"BIND": "0.0.0.0"})
    assert run.exit_code == 2
    assert run.stderr.startswith("BIND is '0.0.0.0'; allowed: a loopback address")


@contextmanager
def running_dev(folder: Path, **environment: str) -> Iterator[list[str]]:
    """Run `cache-actors dev` in `folder`; gives the curl lines that it prints."""
    with subprocess.Popen(
        DEV,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines: list[str] = []
        try:
            for line in process.stdout:
                if line.startswith("curl"):
                    lines.append(line.rstrip("\n"))
                if line.startswith("curl -s"):  # the last one
                    break
            yield lines
        finally:
            process.send_signal(signal.SIGINT)
            process.stdout.read()
    assert process.returncode == 0
