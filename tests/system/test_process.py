"""The process: how it starts, refuses to start, stops, and what it says meanwhile."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cache_actors.dev.tuist import StandInTuist
from tests.support.disk_processes import disk_processes
from tests.support.service import (
    CHANGED_COMMAND,
    COMMAND,
    ID,
    Service,
    client_of,
    constants,
    running_service,
)
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

PATIENT = constants(
    dict.fromkeys(
        (
            "application.LISTENER_SHUTDOWN",
            "http.listener.DRAIN_SECONDS",
            "lifetime.LONGEST_STOP",
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


@pytest.fixture
def one_or_several(tmp_path: Path, tuist: StandInTuist, workers: str) -> Iterator[Service]:
    """A service that is one process, and one of several; nothing cuts its stop short by itself."""
    environment = PATIENT | {"WORKERS": workers}
    service = Service(tmp_path / "cas", tuist.url, environment, CHANGED_COMMAND)
    with running_service(service):
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


def test_second_signal_cuts_the_stop_short(one_or_several: Service, workers: str) -> None:
    pids = worker_pids(one_or_several).values()
    with connected(one_or_several, int(workers)) as uploads:
        for upload in uploads:
            upload.sendall(upload_head(2) + b"a")
        one_or_several.let_it_arrive(int(workers))
        one_or_several.begin_stop()
        assert one_or_several.stop() == 3
        assert not any(map(is_alive, pids))


def test_stop_that_hangs_is_ended_from_outside(
    tmp_path: Path, tuist: StandInTuist, workers: str
) -> None:
    environment = constants({"lifetime.LONGEST_STOP": 1}) | {"SLOW_PUBLISH": "600"}
    environment["WORKERS"] = workers
    service = Service(tmp_path / "cas", tuist.url, environment, CHANGED_COMMAND)
    with running_service(service), connect(service) as upload:
        upload.sendall(upload_head(1) + b"a")
        service.let_it_arrive(int(workers))
        pids = [*worker_pids(service).values(), *disk_processes(service.pid)]
        assert len(pids) >= 2
        assert service.stop() == 3
        eventually(lambda: not any(map(is_alive, pids)))


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
    expected = f"Cannot listen on 127.0.0.1:{port}: Address already in use\n"
    assert run.stdout + run.stderr == expected


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
