"""The process: how it starts, refuses to start, stops, and what it says meanwhile."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.disk_processes import disk_processes
from tests.support.service import COMMAND, Service, running_service
from tests.support.waiting import eventually
from tests.support.wire import connect, get_head, read_response, read_to_end, status_of, upload_head
from tests.support.workers import is_alive

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cache_actors.dev.tuist import StandInTuist

ID = "00112233445566778899AABBCCDDEEFF00112233445566778899AABBCCDDEEFF"


@pytest.fixture
def service(tmp_path: Path, tuist: StandInTuist) -> Iterator[Service]:
    with running_service(Service(tmp_path / "cas", tuist.url)) as service:
        yield service


def test_stops_within_a_second_in_spite_of_idle_clients(service: Service) -> None:
    idle = [connect(service) for _ in range(20)]
    for connection in idle[:10]:
        connection.sendall(get_head("/up"))
        assert read_response(connection).endswith(b"}")
    began = time.monotonic()
    assert service.stop() == 0
    assert time.monotonic() - began < 1
    for connection in idle:
        assert read_to_end(connection) == b""
        connection.close()


def test_request_in_flight_at_the_stop_is_finished(service: Service) -> None:
    with connect(service) as upload:
        upload.sendall(upload_head(4, ID) + b"ab")
        let_it_arrive(service)
        begin_stop(service)
        upload.sendall(b"cd")
        response = read_to_end(upload)
    assert status_of(response) == 204
    assert b"connection: close" in response.lower()
    assert service.wait() == 0
    assert stored(service, ID) == b"abcd"


def test_up_says_that_the_service_drains_to_new_and_to_old_connections(service: Service) -> None:
    with connect(service) as upload, connect(service) as old:
        upload.sendall(upload_head(2) + b"a")
        let_it_arrive(service)
        begin_stop(service)
        assert old.recv(1) == b""  # an idle connection is closed
        draining = httpx.get(service.url + "/up", trust_env=False)
        assert draining.status_code == 503
        assert draining.json()["status"] == "draining"
        upload.sendall(b"b")
        assert status_of(read_to_end(upload)) == 204
    assert service.wait() == 0


def test_second_signal_cuts_the_stop_short(service: Service) -> None:
    with connect(service) as upload:
        upload.sendall(upload_head(2) + b"a")
        let_it_arrive(service)
        begin_stop(service)
        assert service.stop(timeout=5) == 3


def test_writes_that_were_acknowledged_survive_kill_9(service: Service) -> None:
    acknowledged: list[str] = []

    def write() -> None:
        with client_of(service) as client:
            for number in range(10_000):
                name = f"{threading.get_ident():X}-{number}"
                try:
                    answer = client.post(f"/api/cache/cas/{name}", content=name.encode() * 100)
                except httpx.TransportError:
                    return
                assert answer.status_code == 204
                acknowledged.append(name)

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    while len(acknowledged) < 100:
        time.sleep(0.001)
    service.stop(signal.SIGKILL)
    for writer in writers:
        writer.join()
    service.start()
    for name in acknowledged:
        assert stored(service, name) == name.encode() * 100
    folders = service.storage / ".tmp"
    eventually(lambda: len(list(folders.iterdir())) == 3)  # of those that ended, none is left


def test_listens_on_a_unix_socket_for_its_group(tmp_path: Path, tuist: StandInTuist) -> None:
    path = tmp_path / "cache.sock"
    service = Service(tmp_path / "cas", tuist.url, {"SOCKET_PATH": str(path)})
    service.storage.mkdir()
    service.start(wait=False)
    try:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
            wait_for_log(service, "started")
            assert client.get("http://cache/up").status_code == 200
            assert stat.S_IMODE(path.stat().st_mode) == 0o770
            service.stop(signal.SIGKILL)
            service.start(wait=False)  # in place of the socket that was left behind
            wait_for_log(service, "started", times=2)
            assert client.get("http://cache/up").status_code == 200
    finally:
        assert service.stop() == 0
    assert not path.exists()


def test_bad_settings_are_all_named_at_once(tmp_path: Path) -> None:
    run = subprocess.run(
        COMMAND,
        env={"PATH": os.environ["PATH"], "PORT": "0", "DURABILITY": "maybe", "TMP_DIR": "here"},
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert run.returncode == 2
    assert run.stdout == ""
    lines = run.stderr.splitlines()
    assert len(lines) == 4
    assert {line.split()[0] for line in lines} == {"SERVER_URL", "PORT", "DURABILITY", "TMP_DIR"}


def test_taken_port_is_one_clear_line(tmp_path: Path, service: Service) -> None:
    other = Service(tmp_path / "other", service.server_url, port=service.port)
    other.start(wait=False)
    assert other.wait(20) == 2
    expected = f"Cannot listen on 127.0.0.1:{service.port}: Address already in use\n"
    assert other.log.read_text() == expected


def test_storage_that_cannot_be_used_is_one_clear_line(tmp_path: Path, tuist: StandInTuist) -> None:
    (tmp_path / "file").touch()
    service = Service(tmp_path / "file" / "cas", tuist.url)
    with (tmp_path / "log").open("wb") as log:
        run = subprocess.run(
            COMMAND,
            env={
                "PATH": os.environ["PATH"],
                "SERVER_URL": tuist.url,
                "PORT": str(service.port),
                "CAS_STORAGE_DIR": str(service.storage),
            },
            stdout=log,
            stderr=log,
            check=False,
            timeout=20,
        )
    assert run.returncode == 2
    assert (tmp_path / "log").read_text() == f"Cannot use {service.storage}: Not a directory\n"


def test_log_has_one_line_for_each_request_and_never_a_token(service: Service) -> None:
    secret = "a-token-that-nobody-may-read"
    with client_of(service) as client:
        client.post(f"/api/cache/cas/{ID}", content=b"12345", headers={"X-Request-ID": "mine"})
        client.get(f"/api/cache/cas/{ID}", headers={"Authorization": f"Bearer {secret}"})
        client.get(f"/api/cache/cas/{ID}?access_token={secret}")
        client.put("/api/cache/keyvalue", content=b"{" + secret.encode())
        client.get("/nowhere")
    service.stop()
    text = service.log.read_text()
    assert secret not in text
    requests = [line for line in map(json.loads, text.splitlines()) if line["event"] == "request"][
        -5:
    ]
    assert [line["status"] for line in requests] == [204, 401, 200, 400, 404]
    first = requests[0]
    assert first["request_id"] == "mine"
    assert first["project"] == "acme/app"
    assert (first["method"], first["bytes_in"], first["bytes_out"]) == ("POST", 5, 0)
    assert first["milliseconds"] > 0


def test_tree_that_cannot_be_mended_ends_the_process(tmp_path: Path, tuist: StandInTuist) -> None:
    command = (sys.executable, "-m", "tests.support.failing_service")
    service = Service(tmp_path / "cas", tuist.url, command=command)
    service.storage.mkdir()
    service.start(wait=False)
    assert service.wait(20) == 1
    events = [json.loads(line)["event"] for line in service.log.read_text().splitlines()]
    assert events.count("child_crashed") == 21
    assert "gave_up" in events


def test_stop_that_hangs_is_ended_from_outside(tmp_path: Path, tuist: StandInTuist) -> None:
    service = Service(
        tmp_path / "cas",
        tuist.url,
        {"SLOW_PUBLISH": "600", "LONGEST_STOP": "1"},
        command=(sys.executable, "-m", "tests.support.slow_service"),
    )
    with running_service(service), connect(service) as upload:
        upload.sendall(upload_head(1) + b"a")
        let_it_arrive(service)
        assert service.process is not None
        pids = disk_processes(service.process.pid)
        assert service.stop(timeout=20) == 3
        eventually(lambda: not any(map(is_alive, pids)))


def client_of(service: Service) -> httpx.Client:
    """A client with `token`, for the project `acme/app`."""
    return httpx.Client(
        base_url=service.url,
        headers={"Authorization": "Bearer token"},
        params={"account_handle": "acme", "project_handle": "app"},
        trust_env=False,
    )


def begin_stop(service: Service) -> None:
    """Send SIGTERM, and return once the service has noticed."""
    assert service.process is not None
    service.process.send_signal(signal.SIGTERM)
    wait_for_log(service, "stopping")


def let_it_arrive(service: Service) -> None:
    """Let what has been sent arrive: a request that was sent later has been answered."""
    for _ in range(2):
        httpx.get(service.url + "/up", trust_env=False)


def wait_for_log(service: Service, event: str, times: int = 1) -> None:
    """Return once the service has logged `event` so many times."""
    deadline = time.monotonic() + 20
    while service.log.read_text().count(f'"{event}"') < times:
        assert time.monotonic() < deadline, service.log_tail()
        time.sleep(0.01)


def stored(service: Service, artifact_id: str) -> bytes:
    """The artifact as it lies on disk."""
    folder = service.storage / "acme" / "app" / "cas" / artifact_id[2:4]
    return (folder / artifact_id).read_bytes()
