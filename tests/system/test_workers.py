"""Several processes as one service: what clients see, and what becomes of it when one ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.service import COMMAND, Service, running_service
from tests.support.strace import family
from tests.support.wire import (
    QUERY,
    connect,
    get_head,
    read_response,
    read_to_end,
    status_of,
    upload_head,
)
from tests.support.workers import is_alive, worker_pids

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from cache_actors.dev.tuist import StandInTuist

WORKERS = 2
PARENTS_CHILDREN = ["reporter", "worker_1", "worker_2", "acceptor"]
ID = "00112233445566778899AABBCCDDEEFF00112233445566778899AABBCCDDEEFF"


@pytest.fixture
def service(tmp_path: Path, tuist: StandInTuist) -> Iterator[Service]:
    with running_service(
        Service(tmp_path / "cas", tuist.url, {"WORKERS": str(WORKERS)})
    ) as service:
        yield service


@pytest.fixture
def connections(service: Service) -> Iterator[list[socket.socket]]:
    """One connection to each worker: which is whose is not known."""
    with ExitStack() as stack:
        yield [stack.enter_context(connect(service)) for _ in range(WORKERS)]


# One service.


def test_up_shows_all_workers_with_their_trees_and_the_same_through_each(
    connections: list[socket.socket],
) -> None:
    seen = [ask(connection, get_head("/up")) for connection in connections]
    assert [status_of(answer) for answer in seen] == [200] * WORKERS
    for answer in seen:
        tree = body_of(answer)["tree"]
        assert tree["name"] == "workers"
        assert [child["name"] for child in tree["children"]] == PARENTS_CHILDREN
        for worker in tree["children"][1:-1]:
            names = [child["name"] for child in worker["children"]]
            assert names[0] == "disk_writer"
            assert names[-1] == "http"


def test_connections_are_shared_out_evenly(service: Service) -> None:
    with ExitStack() as stack:
        for _ in range(20):
            ask(stack.enter_context(connect(service)), get_head("/nowhere"))
    wait_until(lambda: requests_by_worker(service, "/nowhere").total() == 20)
    assert set(requests_by_worker(service, "/nowhere").values()) == {10}


def test_workers_have_the_same_random_secret(service: Service) -> None:
    environments = [
        Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        for pid in worker_pids(service).values()
    ]
    secrets = [line for lines in environments for line in lines if line.startswith(b"SECRET_KEY")]
    assert len(secrets) == WORKERS
    assert len(set(secrets)) == 1
    assert len(secrets[0]) > 64


def test_entry_is_never_older_than_what_was_acknowledged_by_any_worker(
    connections: list[socket.socket],
) -> None:
    for number in range(200):
        writer, reader = connections if number % 2 else reversed(connections)
        assert status_of(ask(writer, put_request("0~key", f"value-{number}"))) == 204
        for connection in (reader, writer):
            entry = body_of(ask(connection, get_head(f"/api/cache/keyvalue/0~key?{QUERY}")))
            assert entry == {"entries": [{"value": f"value-{number}"}]}


def test_same_artifact_through_all_workers_is_stored_once_and_whole(
    service: Service, connections: list[socket.socket]
) -> None:
    for number in range(20):
        artifact_id = f"{number:064X}"
        bodies = [bytes([65 + index]) * 300_000 for index in range(WORKERS)]
        for connection, body in zip(connections, bodies, strict=True):
            connection.sendall(upload_head(len(body), artifact_id) + body[:-1])
        for connection, body in zip(connections, bodies, strict=True):
            connection.sendall(body[-1:])
        assert [status_of(read_response(each)) for each in connections] == [204] * WORKERS
        assert stored(service, artifact_id) in bodies


def test_burst_of_one_token_asks_tuist_at_most_once_for_each_worker(
    service: Service, tuist: StandInTuist
) -> None:
    tuist.delay = 0.3
    before = len(tuist.questions)
    with ExitStack() as stack:
        many = [stack.enter_context(connect(service)) for _ in range(40)]
        for connection in many:
            connection.sendall(get_head(f"/api/cache/cas/{ID}?{QUERY}"))
        assert {status_of(read_response(connection)) for connection in many} == {404}
    assert len(tuist.questions) - before <= WORKERS


# One worker ends, or hangs.


def test_killed_worker_takes_only_what_it_had_with_it(
    service: Service, connections: list[socket.socket]
) -> None:
    for connection in connections:
        connection.sendall(upload_head(2) + b"a")
    let_it_arrive(service)
    os.kill(worker_pids(service)["worker_1"], signal.SIGKILL)
    outcomes = []
    for connection in connections:
        try:
            connection.sendall(b"b")
            outcomes.append(connection.recv(12))
        except ConnectionError:
            outcomes.append(b"")
    assert sorted(outcomes) == [b"", b"HTTP/1.1 204"]


def test_connection_that_a_worker_had_not_taken_goes_to_another(service: Service) -> None:
    """Neither does one that hangs hold up more than a few, nor are these lost when it is killed."""
    victim = worker_pids(service)["worker_1"]
    os.kill(victim, signal.SIGSTOP)
    with ExitStack() as stack:
        many = [stack.enter_context(connect(service)) for _ in range(10)]
        for connection in many:
            connection.sendall(get_head("/nowhere"))
        wait_until(lambda: len(requests_by_worker(service, "/nowhere")) == 1)
        os.kill(victim, signal.SIGKILL)
        assert [status_of(read_response(connection)) for connection in many] == [404] * 10


def test_killed_worker_is_restarted_and_up_says_so_meanwhile(service: Service) -> None:
    os.kill(worker_pids(service)["worker_2"], signal.SIGKILL)
    down = up_when(service, lambda status, _: status == 503)
    worker = part(down, "worker_2")
    assert worker["state"] == "starting"
    assert (worker["restarts"], worker["last_error"]) == (1, "WorkerEnded")
    assert "children" not in worker
    assert part(down, "worker_1")["state"] == "running"
    back = up_when(service, lambda status, _: status == 200)
    assert part(back, "worker_2")["restarts"] == 1
    assert part(back, "worker_2")["children"]
    assert worker_pids(service).keys() == {"worker_1", "worker_2"}


def test_worker_that_hangs_is_stuck_and_up_says_so(service: Service) -> None:
    pid = worker_pids(service)["worker_2"]
    os.kill(pid, signal.SIGSTOP)
    try:
        stuck = up_when(service, lambda status, _: status == 503)
        assert part(stuck, "worker_2")["stuck"] is True
    finally:
        os.kill(pid, signal.SIGCONT)
    up_when(service, lambda status, _: status == 200)


def test_nothing_acknowledged_is_lost_while_workers_are_killed(service: Service) -> None:
    clients, kills = 6, 4
    acknowledged: dict[str, bytes] = {}
    outcomes: Counter[str] = Counter()
    enough = threading.Event()

    def store(number: int) -> None:
        with httpx.Client(base_url=service.url, trust_env=False) as client:
            for count in range(100_000):
                if enough.is_set():
                    return
                name, body = f"{number}{count:09}", os.urandom(1000)
                try:
                    answer = client.post(
                        f"/api/cache/cas/{name}?{QUERY}",
                        content=body,
                        headers={"Authorization": "Bearer token"},
                    )
                except httpx.TransportError:
                    outcomes["lost"] += 1
                    continue
                outcomes[str(answer.status_code)] += 1
                if answer.status_code == 204:
                    acknowledged[name] = body

    threads = [threading.Thread(target=store, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for number in range(kills):
        before = outcomes["204"]
        wait_until(lambda before=before: outcomes["204"] > before + 50)  # type: ignore[misc]
        os.kill(worker_pids(service)[f"worker_{number % WORKERS + 1}"], signal.SIGKILL)
        wait_until(lambda: len(worker_pids(service)) == WORKERS)
    enough.set()
    for thread in threads:
        thread.join()
    assert outcomes["lost"] <= kills * clients
    assert outcomes.keys() <= {"204", "lost"}
    assert {name: stored(service, name) for name in acknowledged} == acknowledged
    up_when(service, lambda status, _: status == 200)


def test_workers_that_cannot_be_started_end_the_service(
    tmp_path: Path, tuist: StandInTuist
) -> None:
    command = (sys.executable, "-m", "tests.support.failing_service")
    service = Service(tmp_path / "cas", tuist.url, {"WORKERS": "2"}, command=command)
    service.storage.mkdir()
    service.start(wait=False)
    assert service.wait(60) == 1
    lines = [json.loads(line) for line in service.log.read_text().splitlines()]
    gave_up = Counter(line.get("worker") for line in lines if line["event"] == "gave_up")
    assert gave_up == {"worker_1": 8, None: 1}


# The end.


def test_idle_clients_do_not_hold_up_the_stop(service: Service) -> None:
    with ExitStack() as stack:
        idle = [stack.enter_context(connect(service)) for _ in range(20)]
        for connection in idle[:10]:
            ask(connection, get_head("/up"))
        began = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - began < 5
        for connection in idle:
            assert read_to_end(connection) == b""


def test_stop_finishes_what_every_worker_has_and_answers_meanwhile(
    service: Service, connections: list[socket.socket]
) -> None:
    for connection in connections:
        connection.sendall(upload_head(2) + b"a")
    let_it_arrive(service)
    begin_stop(service)
    for _ in range(4):
        draining = httpx.get(service.url + "/up", trust_env=False)
        assert (draining.status_code, draining.json()["status"]) == (503, "draining")
    first, second = connections
    first.sendall(b"b")
    assert status_of(read_to_end(first)) == 204
    for _ in range(4):  # by the other worker, as long as it has something to finish
        assert httpx.get(service.url + "/up", trust_env=False).json()["status"] == "draining"
    second.sendall(b"b")
    assert status_of(read_to_end(second)) == 204
    assert service.wait() == 0
    assert "child_crashed" not in service.log.read_text()


def test_signal_to_all_processes_is_one_stop(
    service: Service, connections: list[socket.socket]
) -> None:
    """As a terminal sends it, or systemd."""
    pids = worker_pids(service).values()
    connections[0].sendall(upload_head(2) + b"a")
    let_it_arrive(service)
    for pid in pids:
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
    begin_stop(service)
    connections[0].sendall(b"b")
    assert status_of(read_to_end(connections[0])) == 204
    assert service.wait() == 0


def test_worker_that_is_killed_while_it_drains_is_not_started_again(
    service: Service, connections: list[socket.socket]
) -> None:
    for connection in connections:
        connection.sendall(upload_head(2) + b"a")
    let_it_arrive(service)
    begin_stop(service)
    os.kill(worker_pids(service)["worker_1"], signal.SIGKILL)
    for connection in connections:
        connection.settimeout(20)
        with_suppressed_reset(connection, b"b")
    assert service.wait() == 0
    assert service.log.read_text().count('"worker_started"') == WORKERS


def test_second_signal_cuts_the_stop_short(
    service: Service, connections: list[socket.socket]
) -> None:
    pids = worker_pids(service).values()
    for connection in connections:
        connection.sendall(upload_head(2) + b"a")
    let_it_arrive(service)
    begin_stop(service)
    assert service.stop(timeout=5) == 3
    assert not any(is_alive(pid) for pid in pids)


def test_stop_that_hangs_is_ended_from_outside(tmp_path: Path, tuist: StandInTuist) -> None:
    service = Service(
        tmp_path / "cas",
        tuist.url,
        {"SLOW_PUBLISH": "600", "LONGEST_STOP": "1", "WORKERS": "2"},
        command=(sys.executable, "-m", "tests.support.slow_service"),
    )
    with running_service(service), connect(service) as upload:
        assert service.process is not None
        pids = family(service.process.pid)[1:]
        upload.sendall(upload_head(1) + b"a")
        let_it_arrive(service)
        assert service.stop(timeout=20) == 3
        wait_until(lambda: not any(is_alive(pid) for pid in pids))


@pytest.mark.parametrize("hangs", [False, True], ids=["workers run", "one hangs"])
def test_workers_end_with_their_parent(service: Service, hangs: bool) -> None:
    pids = list(worker_pids(service).values())
    if hangs:
        os.kill(pids[0], signal.SIGSTOP)
    service.stop(signal.SIGKILL)
    if hangs:
        os.kill(pids[0], signal.SIGCONT)
    wait_until(lambda: not any(is_alive(pid) for pid in pids))
    service.start()  # at the same port
    assert len(worker_pids(service)) == WORKERS


def test_storage_that_cannot_be_used_is_one_clear_line(tmp_path: Path, tuist: StandInTuist) -> None:
    (tmp_path / "file").touch()
    run = subprocess.run(
        COMMAND,
        env={
            "PATH": os.environ["PATH"],
            "SERVER_URL": tuist.url,
            "CAS_STORAGE_DIR": str(tmp_path / "file" / "cas"),
            "WORKERS": "2",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert run.returncode == 2
    assert run.stderr == f"Cannot use {tmp_path}/file/cas: Not a directory\n"


# What they are tested with.


def ask(connection: socket.socket, request: bytes) -> bytes:
    """The answer to a request without a body, or with one that `request` ends with."""
    connection.sendall(request)
    return read_response(connection)


def body_of(answer: bytes) -> Any:
    return json.loads(answer.partition(b"\r\n\r\n")[2])


def put_request(cas_id: str, value: str) -> bytes:
    body = json.dumps({"cas_id": cas_id, "entries": [{"value": value}]}).encode()
    head = (
        f"PUT /api/cache/keyvalue?{QUERY} HTTP/1.1\r\nHost: cache\r\n"
        f"Authorization: Bearer token\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def part(tree: dict[str, Any], name: str) -> dict[str, Any]:
    """The child of the root with this name."""
    (found,) = (child for child in tree["children"] if child["name"] == name)
    return dict(found)


def up_when(service: Service, wanted: Callable[[int, Any], bool]) -> dict[str, Any]:
    """The tree in the first answer of `/up` that is as wanted; one that hangs is not waited for."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            answer = httpx.get(service.url + "/up", trust_env=False, timeout=1)
        except httpx.TransportError:
            continue
        if wanted(answer.status_code, answer.json()):
            return dict(answer.json()["tree"])
        time.sleep(0.02)
    raise AssertionError(service.log_tail())


def requests_by_worker(service: Service, path: str) -> Counter[str]:
    """How many requests for a path that begins like this each worker has logged."""
    lines = map(json.loads, service.log.read_text().splitlines())
    return Counter(
        line["worker"]
        for line in lines
        if line["event"] == "request" and line["path"].startswith(path)
    )


def with_suppressed_reset(connection: socket.socket, data: bytes) -> None:
    """Send, and read to the end, if there is anybody."""
    try:
        connection.sendall(data)
        read_to_end(connection)
    except ConnectionError:
        pass


def begin_stop(service: Service) -> None:
    """Send SIGTERM, and return once the service has noticed."""
    assert service.process is not None
    service.process.send_signal(signal.SIGTERM)
    wait_until(lambda: '"stopping"' in service.log.read_text())


def let_it_arrive(service: Service) -> None:
    """Let what has been sent arrive: each worker has answered a request that was sent later."""
    for _ in range(2 * WORKERS):
        httpx.get(service.url + "/up", trust_env=False)


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def stored(service: Service, artifact_id: str) -> bytes:
    """The artifact as it lies on disk."""
    folder = service.storage / "acme" / "app" / "cas" / artifact_id[2:4]
    return (folder / artifact_id).read_bytes()
