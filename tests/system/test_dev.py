"""`cache-actors dev`, as someone meets it who has just cloned the project."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from cache_actors.cli.dev import embedded
from cache_actors.cli.main import main
from cache_actors.nginx.config import NginxOptions
from cache_actors.storage.files.store import PROBE_BYTES
from tests.support.grpc_client import grpc_client
from tests.support.programs import find_program, find_script
from tests.support.service import free_port
from tests.support.strace import family
from tests.support.waiting import eventually
from tests.support.wire import read_response, status_of, upload_head

CAPABILITIES = "/build.bazel.remote.execution.v2.Capabilities/GetCapabilities"
DEV = (sys.executable, "-m", "cache_actors", "dev")


def test_printed_curl_lines_work_in_their_order(tmp_path: Path) -> None:
    find_program("curl")
    with running_dev(tmp_path, PORT=str(free_port())) as printed:
        lines = [line for line in printed if line.startswith("curl")]
        [bazel] = [line for line in printed if "--remote_cache=" in line]
        use_as_bazel_would(bazel)
        answers = [run(line) for line in lines]
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


def use_as_bazel_would(line: str) -> None:
    """Ask what the cache can do, with the options of a printed command."""
    options = dict(word.removeprefix("--").split("=", 1) for word in shlex.split(line)[3:6])
    port = int(options["remote_cache"].removeprefix("grpc://127.0.0.1:"))
    instance = options["remote_instance_name"].encode()
    request = b"\n" + bytes([len(instance)]) + instance  # the first field of the message
    authorization = tuple(options["remote_header"].split("=", 1))
    with grpc_client(port) as client:
        assert client.call(CAPABILITIES, request, metadata=[authorization])


@pytest.mark.parametrize(
    ("version", "told"),
    [(None, "without nginx"), ((1, 22, 1), "nginx is 1.22.1, and 1.27.2 is needed")],
)
def test_says_why_there_is_no_grpc(version: tuple[int, ...] | None, told: str) -> None:
    nginx = None
    if version is not None:
        nginx = NginxOptions("127.0.0.1:1", "127.0.0.1:2", Path("/cas"), Path("/run"))
        nginx = replace(nginx, nginx_version=version)
    said = embedded._introduce_grpc("127.0.0.1:1", nginx)
    assert told in said
    assert "--remote_cache" not in said


def test_refuses_to_be_reached_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # `dev` changes it for the service that it is about to run.
    monkeypatch.setattr(os, "environ", os.environ.copy())
    run = CliRunner().invoke(main, ["dev"], env={"BIND": "0.0.0.0"})
    assert run.exit_code == 2
    assert run.stderr.startswith("BIND is '0.0.0.0'; allowed: a loopback address")


@pytest.mark.nightly
def test_nodes_share_a_bucket_as_is_printed_and_end_with_their_parent(
    tmp_path: Path,
) -> None:
    find_script("weed")
    left = tmp_path / ".dev" / "nodes-of-one-that-was-killed"
    left.mkdir(parents=True)
    port, output = free_port(), tmp_path / "output"
    with (
        output.open("wb") as file,
        subprocess.Popen(
            [*DEV, "--nodes", "2"],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1", "PORT": str(port)},
            stdout=file,
            stderr=file,
        ) as process,
    ):
        try:
            eventually(lambda: "tail -n" in output.read_text() or process.poll() is not None, 120)
            printed = output.read_text().splitlines()
            stored_and_retrieved = [run(line) for line in printed if line.startswith("curl")]
            [lose_disk] = [line for line in printed if line.startswith("rm -r")]
            run(lose_disk)
            at_second = [line for line in printed if f":{port + 1}/" in line]
            at_first = [line.replace(f":{port + 1}/", f":{port}/") for line in at_second]
            eventually(lambda: all("HTTP/1.1 200" in run(line) for line in at_first))
            [status] = [run(line) for line in printed if "status --url" in line]
            family_of_all = family(process.pid)[1:]
        finally:
            process.kill()
    assert [answer.split()[1] for answer in stored_and_retrieved] == ["204", "204", "200", "200"]
    assert stored_and_retrieved[3].endswith("the bytes of an artifact\n")
    assert "Bucket ok" in status
    assert not left.exists()
    assert len(family_of_all) > 6
    eventually(lambda: not any(map(is_running, family_of_all)))
    eventually(lambda: not any((tmp_path / ".dev").glob("nodes-*/node-*")))


def run(line: str) -> str:
    """What a printed line prints in a shell."""
    return subprocess.run(
        ["bash", "-c", line],  # noqa: S607
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout


@contextmanager
def running_dev(folder: Path, **environment: str) -> Iterator[list[str]]:
    """Run `cache-actors dev` in `folder`; gives the commands that it prints."""
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
                if line.startswith(("curl", "bazel")):
                    lines.append(line.rstrip("\n"))
                if line.startswith("curl -s"):  # the last one
                    break
            yield lines
        finally:
            process.send_signal(signal.SIGINT)
            process.stdout.read()
    assert process.returncode == 0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGHUP])
def test_nginx_ends_with_what_has_started_it(tmp_path: Path, how: signal.Signals) -> None:
    """And nothing of it stays in memory: a decision has a token in its key."""
    port = free_port()
    with subprocess.Popen(
        DEV,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PORT": str(port)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            eventually(lambda: is_up(port))
            nginx = [pid for pid in family(process.pid) if "nginx" in command_of(pid)]
            assert nginx
            runtimes = [
                Path(word).parent
                for pid in nginx
                for word in command_of(pid).split()
                if word.endswith("/nginx.conf")
            ]
            assert runtimes
        finally:
            process.send_signal(how)
    assert process.returncode == (0 if how is signal.SIGHUP else -signal.SIGKILL)
    eventually(lambda: not any(map(is_running, nginx)))
    eventually(lambda: not any(path.exists() for path in runtimes))
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))


@contextmanager
def dev_process(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], int, Path]]:
    """A `cache-actors dev` that is up, its port, and the file that its output goes to."""
    port, output = free_port(), folder / "output"
    with (
        output.open("wb") as file,
        subprocess.Popen(
            DEV,
            cwd=folder,
            env={"PATH": os.environ["PATH"], "PORT": str(port), "LOG_FORMAT": "json"},
            stdout=file,
            stderr=file,
            start_new_session=True,  # as of a terminal
        ) as process,
    ):
        try:
            eventually(lambda: is_up(port))
            yield process, port, output
        finally:
            process.terminate()


def test_it_ends_when_its_nginx_is_killed(tmp_path: Path) -> None:
    with dev_process(tmp_path) as (process, port, output):
        nginx = [pid for pid in family(process.pid) if "nginx: " in command_of(pid)]
        os.kill(next(pid for pid in nginx if "master" in command_of(pid)), signal.SIGKILL)
        assert process.wait(60) == 2
        assert output.read_text().splitlines()[-1].startswith("nginx has ended by itself")
        eventually(lambda: not any(map(is_running, nginx)))
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", port))


def test_ctrl_c_lets_an_upload_through_nginx_end(tmp_path: Path) -> None:
    with dev_process(tmp_path) as (process, port, output):
        body = bytes(3 * PROBE_BYTES)
        head = upload_head(len(body)).replace(b"Bearer token", b"Bearer dev-token")
        with socket.create_connection(("127.0.0.1", port), 60) as connection:
            connection.sendall(head + body[: 2 * PROBE_BYTES])
            eventually(lambda: has_temporary_file(process.pid))
            os.killpg(process.pid, signal.SIGINT)
            eventually(lambda: '"stopping"' in output.read_text())
            connection.sendall(body[2 * PROBE_BYTES :])
            assert status_of(read_response(connection)) == 204
        assert process.wait(60) == 0


def has_temporary_file(pid: int) -> bool:
    """Whether some of an upload is on the disk; probes of that are smaller than what is sent."""
    sizes = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            if "/.tmp/" in (target := str(link.readlink())) and target.endswith("(deleted)"):
                sizes.append(link.stat().st_size)
    return any(size > PROBE_BYTES for size in sizes)


def is_up(port: int) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(f"http://127.0.0.1:{port}/up", trust_env=False).is_success
    return False


def command_of(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return ""


def is_running(pid: int) -> bool:
    with suppress(OSError):
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    return False
