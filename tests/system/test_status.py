"""`cache-actors status` and `healthcheck`, with no more environment than they need."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from click.testing import CliRunner

from cache_actors.__main__ import main
from cache_actors.dev.tuist import StandInTuist
from tests.support.nginx import nginx_before
from tests.support.service import Service, free_port, running_service

COMMAND = (sys.executable, "-m", "cache_actors")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service to ask, which nobody stops."""
    storage = tmp_path_factory.mktemp("status") / "cas"
    with StandInTuist() as tuist, running_service(Service(storage, tuist.url)) as service:
        yield service


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("command", ["status", "healthcheck"])
def test_running_service_is_up(service: Service, command: str) -> None:
    done = run(command, PORT=str(service.port))
    assert (done.returncode, done.stderr) == (0, "")
    assert "kv_store" in done.stdout
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("command", ["status", "healthcheck"])
def test_service_that_is_nowhere_or_not_there_is_an_error_in_one_line(command: str) -> None:
    for port, status, told in ("none", 2, "PORT is 'none'"), (str(free_port()), 1, "no answer"):
        done = CliRunner().invoke(main, [command], env={"PORT": port})
        assert (done.exit_code, done.stdout) == (status, "")
        assert told in done.stderr
        assert done.stderr.count("\n") == 1


def test_url_counts_instead_of_the_environment(service: Service) -> None:
    with nginx_before(f"127.0.0.1:{service.port}", service.storage, "wheel") as nginx:
        done = run("status", "--json", "--url", nginx.url, PORT="none")
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)["tree"]["name"] == "cache_actors"
    with nginx_before(f"127.0.0.1:{free_port()}", service.storage, "wheel") as nginx:
        failed = CliRunner().invoke(main, ["status", "--url", nginx.url])
        assert (failed.exit_code, failed.stdout) == (1, "")
        assert failed.stderr.startswith("Not the service's own answer: status 503")
    assert CliRunner().invoke(main, ["status", "--url", "cache.example.com"]).exit_code == 2


def test_watch_follows_without_a_terminal_and_ends_well_on_ctrl_c(
    tmp_path: Path, tuist: StandInTuist
) -> None:
    with (
        running_service(Service(tmp_path / "cas", tuist.url)) as service,
        watching(service, stdout=subprocess.PIPE) as watch,
    ):
        assert watch.stdout is not None
        lines = iter(watch.stdout.readline, b"")
        assert next(lines).startswith(b"up ")
        service.stop()
        assert any(line.startswith(b"unreachable ") for line in lines)
        watch.send_signal(signal.SIGINT)
        assert b"\x1b" not in watch.stdout.read()
        assert watch.wait() == 0


def test_watch_as_json_has_a_line_for_each_answer(service: Service) -> None:
    with watching(service, "--json", stdout=subprocess.PIPE) as watch:
        assert watch.stdout is not None
        ages = [json.loads(watch.stdout.readline())["uptime_seconds"] for _ in range(2)]
        assert ages[1] > ages[0]
        watch.send_signal(signal.SIGINT)
        assert watch.wait() == 0


def test_watch_on_a_terminal_leaves_it_as_it_was(service: Service) -> None:
    terminal, inside = pty.openpty()
    with (
        os.fdopen(terminal, "rb", buffering=0) as screen,
        watching(service, stdout=inside) as watch,
    ):
        os.close(inside)
        shown = read_until(screen, b"listener")
        watch.send_signal(signal.SIGINT)
        shown += read_until(screen, b"\x1b[?1049l")  # back from the alternate screen
        assert watch.wait() == 0
    assert shown.startswith(b"\x1b[?1049h")
    assert b"Traceback" not in shown


@contextmanager
def watching(service: Service, *arguments: str, stdout: int) -> Iterator[subprocess.Popen[bytes]]:
    """A watch of the service; killed in the end if it still runs."""
    environment = {"PORT": str(service.port), "TERM": "xterm", "PYTHONUNBUFFERED": "1"}
    command = [*COMMAND, "status", "--watch", *arguments]
    with subprocess.Popen(command, env=environment, stdout=stdout) as watch:
        try:
            yield watch
        finally:
            watch.kill()


def read_until(screen: IO[bytes], end: bytes) -> bytes:
    shown = b""
    while end not in shown:
        shown += screen.read(4096)
    return shown
