"""The process: how it starts, refuses to start, stops, and what it says meanwhile."""

import ipaddress
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from cache_actors.cli.dev.tuist import StandInTuist
from tests.support.metrics import Scrape
from tests.support.service import (
    CHANGED_COMMAND,
    COMMAND,
    ID,
    Service,
    client_of,
    constants,
    running_service,
)
from tests.support.strace import family, injected
from tests.support.waiting import eventually
from tests.support.wire import (
    ask,
    connect,
    connected,
    get_head,
    read_to_end,
    status_of,
    upload_head,
)
from tests.support.workers import is_alive, worker_pids
from tests.support.writer_processes import disk_processes

PATIENT = constants(
    dict.fromkeys(
        (
            "application.LISTENER_SHUTDOWN",
            "http.server.listener.DRAIN_SECONDS",
            "runtime.lifecycle.MAX_STOP_SECONDS",
            "workers.parent.ACCEPTOR_SHUTDOWN",
        ),
        3600,
    )
)
"""The environment of a service that would stop only after an hour if something held that up."""


@pytest.fixture(params=["1", "2"], ids=["1 worker", "2 workers"])
def workers(request: pytest.FixtureRequest) -> str:
    """How many workers there are; one is the process itself."""
    return str(request.param)


def mostly(workers: str) -> pytest.MarkDecorator:
    """For tests of what one process and several do by the same code: the other way is nightly."""
    marks = {each: () if each == workers else pytest.mark.nightly for each in ("1", "2")}
    return pytest.mark.parametrize(
        "workers",
        [pytest.param(each, marks=mark) for each, mark in marks.items()],
        ids=["1 worker", "2 workers"],
        indirect=True,
    )


@pytest.fixture
def one_or_several(tmp_path: Path, tuist: StandInTuist, workers: str) -> Iterator[Service]:
    """A service that is one process, and one of several; nothing cuts its stop short by itself."""
    environment = PATIENT | {"WORKERS": workers}
    service = Service(tmp_path / "cas", tuist.url, environment, CHANGED_COMMAND)
    with running_service(service):
        yield service


@pytest.fixture(scope="module")
def service(
    shared_tuist: StandInTuist, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A service for all tests that only look what it says of them."""
    storage = tmp_path_factory.mktemp("shared") / "cas"
    with running_service(Service(storage, shared_tuist.url)) as service:
        yield service


def refused_start(**environment: str) -> subprocess.CompletedProcess[str]:
    """What comes of a start with that environment."""
    return subprocess.run(
        COMMAND,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


# The end.


@mostly("2")
def test_idle_clients_do_not_hold_up_the_stop(one_or_several: Service) -> None:
    with connected(one_or_several, 20) as idle:
        for connection in idle[10:]:  # so those before them have been accepted too
            assert ask(connection, get_head("/up")).endswith(b"}")
        assert one_or_several.stop() == 0
        assert [read_to_end(connection) for connection in idle] == [b""] * 20


def test_stop_finishes_what_is_in_flight_and_answers_meanwhile(
    one_or_several: Service, workers: str
) -> None:
    names = [f"AAAA{number}" for number in range(int(workers))]
    with (
        connected(one_or_several, len(names)) as uploads,
        connect(one_or_several) as idle,
    ):
        for upload, name in zip(uploads, names, strict=True):
            upload.sendall(upload_head(4, name) + b"ab")
        one_or_several.let_it_arrive(len(names))
        one_or_several.begin_stop()
        assert idle.recv(1) == b""
        for upload in uploads:
            for _ in range(4):  # by each worker that has something to finish
                draining = one_or_several.up()
                assert (draining.status_code, draining.json()["status"]) == (503, "draining")
            upload.sendall(b"cd")
            response = read_to_end(upload)
            assert status_of(response) == 204
            assert b"connection: close" in response.lower()
    assert one_or_several.wait() == 0
    assert [one_or_several.stored(name) for name in names] == [b"abcd"] * len(names)
    assert "child_crashed" not in one_or_several.log.read_text()


@mostly("2")
def test_second_signal_cuts_the_stop_short(one_or_several: Service, workers: str) -> None:
    pids = worker_pids(one_or_several).values()
    with connected(one_or_several, int(workers)) as uploads:
        for upload in uploads:
            upload.sendall(upload_head(2) + b"a")
        one_or_several.let_it_arrive(int(workers))
        one_or_several.begin_stop()
        assert one_or_several.stop() == 3
        assert not any(map(is_alive, pids))


@mostly("1")
def test_stop_that_hangs_is_ended_from_outside(
    tmp_path: Path, tuist: StandInTuist, workers: str
) -> None:
    environment = constants({"runtime.lifecycle.MAX_STOP_SECONDS": 1}) | {"SLOW_PUBLISH": "600"}
    environment["WORKERS"] = workers
    service = Service(tmp_path / "cas", tuist.url, environment, CHANGED_COMMAND)
    with running_service(service), connect(service) as upload:
        upload.sendall(upload_head(1) + b"a")
        service.let_it_arrive(int(workers))
        pids = [*worker_pids(service).values(), *disk_processes(service.pid)]
        assert len(pids) >= 2
        assert service.stop() == 3
        eventually(lambda: not any(map(is_alive, pids)))


@mostly("1")
def test_tree_that_cannot_be_mended_ends_the_process(
    tmp_path: Path, tuist: StandInTuist, workers: str
) -> None:
    environment = constants({"workers.parent.RESTART_SECONDS": 600})  # as starts may take long here
    environment |= {"CANNOT_START": "always", "WORKERS": workers}
    service = Service(tmp_path / "cas", tuist.url, environment, CHANGED_COMMAND)
    with running_service(service, wait=False):
        assert service.wait(100) == 1
    gave_up = sorted(line.get("worker", "") for line in service.logged("gave_up"))
    if workers == "1":
        assert gave_up == [""]
        assert len(service.logged("child_crashed")) == 21
    else:
        assert gave_up == ["", *["worker_1"] * 8]


# The beginning.


def test_bad_settings_are_a_line_each() -> None:
    run = refused_start(PORT="0", DURABILITY="maybe")
    assert (run.returncode, run.stdout) == (2, "")
    assert {line.split()[0] for line in run.stderr.splitlines()} == {
        "DURABILITY",
        "PORT",
        "SERVER_URL",
    }


def test_taken_port_is_one_clear_line(tmp_path: Path, tuist: StandInTuist) -> None:
    port = urlsplit(tuist.url).port
    run = refused_start(
        SERVER_URL=tuist.url, PORT=str(port), CAS_STORAGE_DIR=str(tmp_path / "other")
    )
    assert run.returncode == 2
    said = run.stdout + run.stderr
    listening = f"Cannot listen on 127.0.0.1:{port}: it is taken by process {os.getpid()} ("
    assert said.startswith(listening), said
    assert said.count("\n") == 1


def test_taken_socket_is_one_clear_line(tmp_path: Path, tuist: StandInTuist) -> None:
    place = {"SOCKET_PATH": str(tmp_path / "socket")}
    with running_service(Service(tmp_path / "cas", tuist.url, place), wait=False) as service:
        service.wait_for_log('"started"')
        run = refused_start(SERVER_URL=tuist.url, CAS_STORAGE_DIR=str(tmp_path / "other"), **place)
        said = run.stdout + run.stderr
        assert run.returncode == 2
        assert f"socket: it is taken by process {service.pid} (" in said


@mostly("2")
def test_storage_that_cannot_be_used_is_one_clear_line(
    tmp_path: Path, tuist: StandInTuist, workers: str
) -> None:
    (tmp_path / "file").touch()
    storage = str(tmp_path / "file" / "cas")
    run = refused_start(
        SERVER_URL=tuist.url,
        CAS_STORAGE_DIR=storage,
        SOCKET_PATH=str(tmp_path / "socket"),
        WORKERS=workers,
    )
    assert run.returncode == 2
    assert run.stdout + run.stderr == f"Cannot use {storage}: Not a directory\n"


# What it says.


def test_log_has_the_figures_of_each_request_and_never_a_body(
    tmp_path: Path, tuist: StandInTuist
) -> None:
    with (
        running_service(Service(tmp_path / "cas", tuist.url)) as service,
        client_of(service.url) as client,
    ):
        client.post(f"/api/cache/cas/{ID}", content=b"12345")
        client.put("/api/cache/keyvalue", content=b"{a-secret")
        service.stop()
    assert "a-secret" not in service.log.read_text()
    stored, refused = service.logged("request")[-2:]
    assert (stored["project"], stored["status"], refused["status"]) == ("acme/app", 204, 400)
    assert (stored["bytes_in"], stored["bytes_out"]) == (5, 0)
    assert stored["milliseconds"] > 0


def test_modules_in_the_working_directory_are_not_run(tmp_path: Path, tuist: StandInTuist) -> None:
    for name in "cache_actors.py", "msgspec.py":
        (tmp_path / name).write_text(
            "raise SystemExit('a file from the working directory was run')"
        )
    script = str(Path(sys.executable).with_name("cache-actors"))
    command = ("sh", "-c", 'cd "$0" && exec "$@"', str(tmp_path), script, "serve")
    service = Service(tmp_path / "cas", tuist.url, {"WORKERS": "2"}, command=command)
    with running_service(service), client_of(service.url) as client:
        assert client.post(f"/api/cache/cas/{ID}", content=b"bytes").status_code == 204


# SIGHUP, which comes when a terminal is closed.


@mostly("1")
def test_hangup_stops_in_order(tmp_path: Path, tuist: StandInTuist, workers: str) -> None:
    """Also if it comes to all processes of the group, as from a terminal."""
    service = Service(tmp_path / "cas", tuist.url, {"WORKERS": workers})
    with running_service(service):
        for pid in reversed(family(service.pid)):
            os.kill(pid, signal.SIGHUP)
        assert service.wait() == 0
        assert [line["signal"] for line in service.logged("stopping")] == ["SIGHUP"]
        assert service.logged("child_crashed") == []


def test_hangup_that_is_to_be_ignored_is_ignored(tmp_path: Path, tuist: StandInTuist) -> None:
    """As `nohup` has it."""
    ignoring = ("sh", "-c", 'trap \'\' HUP; exec "$0" "$@"', *COMMAND)
    with running_service(Service(tmp_path / "cas", tuist.url, command=ignoring)) as service:
        assert service.process is not None
        service.process.send_signal(signal.SIGHUP)
        service.let_it_arrive()
        assert service.stop() == 0
        assert [line["signal"] for line in service.logged("stopping")] == ["SIGTERM"]


# What nobody used to be told of.

LARGE_HEAD = b"GET /up?token=secret HTTP/1.1\r\nHost: x\r\nx: " + b"x" * 17_000 + b"\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "status", "method", "path"),
    [
        (b"nonsense\r\n\r\n", 400, None, None),
        (b"GET /up?token=secret HTTP/9.9\r\nHost: x\r\n\r\n", None, None, None),
        (LARGE_HEAD, 431, "GET", "/up"),
        (b"GET secret:x HTTP/1.1\r\nHost: x\r\n\r\n", 400, "GET", "secret:x"),
    ],
    ids=["no HTTP", "a version", "large", "no path"],
)
def test_what_is_refused_as_no_request_is_logged_and_counted(
    service: Service, sent: bytes, status: int | None, method: str | None, path: str | None
) -> None:
    before = Scrape(service.up("/metrics").text)
    with connect(service) as connection:
        connection.sendall(sent)
        response = read_to_end(connection)
    answered = int(response.split()[1])
    assert status in (None, answered)
    request_id = response.lower().split(b"x-request-id: ")[1].split()[0].decode()
    service.wait_for_log(request_id)
    (line,) = [each for each in service.logged("request") if each["request_id"] == request_id]
    assert line["status"] == answered
    if status is not None:
        assert (line["method"], line["path"]) == (method, path)
    assert "token=secret" not in service.log.read_text()
    labels = {"by": "service", "route": "other", "status": str(answered)}
    counted = [
        scrape.value("cache_actors_requests_total", **labels)
        for scrape in (before, Scrape(service.up("/metrics").text))
    ]
    assert counted == [counted[0], counted[0] + 1]


@mostly("1")
def test_download_that_a_stop_has_cut_is_logged(
    tmp_path: Path, tuist: StandInTuist, workers: str
) -> None:
    environment = constants({"http.server.listener.DRAIN_SECONDS": 0.5}) | {"WORKERS": workers}
    service = Service(tmp_path / "cas", tuist.url, environment, CHANGED_COMMAND)
    size = 20 << 20
    with running_service(service), client_of(service.url) as client:
        assert client.post(f"/api/cache/cas/{ID}", content=bytes(size)).status_code == 204
        with connect(service) as download:
            query = "account_handle=acme&project_handle=app"
            download.sendall(
                f"GET /api/cache/cas/{ID}?{query} HTTP/1.1\r\nHost: x\r\n"
                "Authorization: Bearer token\r\nX-Request-ID: cut\r\n\r\n".encode()
            )
            assert download.recv(12) == b"HTTP/1.1 200"
            assert service.stop() == 0
    (line,) = [each for each in service.logged("request") if each["request_id"] == "cut"]
    assert line["status"] == 200
    assert 0 <= line["bytes_out"] < size


def test_connections_that_cannot_be_taken_are_logged_once_with_their_number(
    tmp_path: Path, service: Service
) -> None:
    trace = tmp_path / "trace"
    with injected(service, trace, ["accept4", "accept"], "EMFILE"), connect(service):
        eventually(lambda: trace.read_text().count("(INJECTED)") >= 4)
        (line,) = service.logged("accept_failed")
    assert line["reason"] == "Too many open files"
    with connect(service):
        service.wait_for_log('"accept_recovered"')
    assert service.logged("accept_recovered")[0]["failures"] >= 3


# What is the operator's.


def test_address_of_a_link_is_listened_at(tmp_path: Path, tuist: StandInTuist) -> None:
    """It has a zone, which says of which link (RFC 4007)."""
    lines = [line.split() for line in Path("/proc/net/if_inet6").read_text().splitlines()]
    links = [(address, name) for address, _, _, scope, _, name in lines if scope == "20"]
    if not links:
        pytest.skip("there is no address of a link")
    address, name = links[0]
    bind = f"{ipaddress.IPv6Address(bytes.fromhex(address))}%{name}"
    service = Service(tmp_path / "cas", tuist.url, {"BIND": bind})
    with running_service(service, wait=False):
        service.wait_for_log('"started"')
        place = {"BIND": bind, "PORT": str(service.port), "PATH": os.environ["PATH"]}
        command = (sys.executable, "-m", "cache_actors", "healthcheck")
        assert subprocess.run(command, env=place, check=False).returncode == 0


def test_both_versions_of_ip_are_listened_at(tmp_path: Path, tuist: StandInTuist) -> None:
    with running_service(Service(tmp_path / "cas", tuist.url, {"BIND": "::"})) as service:
        url = f"http://[::1]:{service.port}/up"
        assert httpx.get(url, trust_env=False, timeout=60).status_code == 200


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_certificates_that_are_not_there_are_one_clear_line(tmp_path: Path, name: str) -> None:
    """OpenSSL would trust nobody, and each question to Tuist fail."""
    missing = f"{tmp_path}/missing.pem\r"  # from a file with CRLF
    run = refused_start(
        SERVER_URL="https://127.0.0.1:1",
        CAS_STORAGE_DIR=str(tmp_path / "cas"),
        SOCKET_PATH=str(tmp_path / "socket"),
        **{name: missing},
    )
    assert run.returncode == 2
    said = run.stdout + run.stderr
    assert f"{name} is {missing!r}, which is not there or may not be read" in said
    assert said.count("\n") == 1
