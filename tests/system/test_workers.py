"""Several processes as one service: what clients see, and what becomes of it when one ends."""

import json
import os
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from cache_actors.cli.dev.tuist import StandInTuist
from tests.support.service import CHANGED_COMMAND, Service, client_of, constants, running_service
from tests.support.waiting import eventually
from tests.support.wire import (
    QUERY,
    ask,
    body_of,
    connected,
    get_head,
    read_response,
    read_to_end,
    status_of,
    upload_head,
)
from tests.support.workers import is_alive, worker_pids
from tests.support.writer_processes import disk_processes
from tests.support.writers import Writers

WORKERS = 2
PARENTS_CHILDREN = ["reporter", "worker_1", "worker_2", "acceptor"]


def new_service(folder: Path, tuist: StandInTuist) -> Service:
    return Service(folder / "cas", tuist.url, {"WORKERS": str(WORKERS)})


@pytest.fixture
def ending(tmp_path: Path, tuist: StandInTuist) -> Iterator[Service]:
    """A service that a test may end."""
    with running_service(new_service(tmp_path, tuist)) as service:
        yield service


@pytest.fixture(scope="module")
def shared(
    shared_tuist: StandInTuist, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A service for all tests that do not end it."""
    folder = tmp_path_factory.mktemp("shared")
    with running_service(new_service(folder, shared_tuist)) as service:
        yield service


@pytest.fixture
def service(shared: Service) -> Iterator[Service]:
    """The same, whose workers a test may kill: it waits until all are back."""
    yield shared
    up_when(shared, lambda status, _: status == 200)


@pytest.fixture
def connections(service: Service) -> Iterator[list[socket.socket]]:
    """One connection to each worker: which is whose is not known."""
    with connected(service, WORKERS) as connections:
        yield connections


# One service.


def test_up_shows_all_workers_with_their_trees_and_the_same_through_each(
    connections: list[socket.socket],
) -> None:
    seen = [ask(connection, get_head("/up")) for connection in connections]
    assert [status_of(answer) for answer in seen] == [200] * WORKERS
    for answer in seen:
        tree = json_of(answer)["tree"]
        assert tree["name"] == "workers"
        assert [child["name"] for child in tree["children"]] == PARENTS_CHILDREN
        for worker in tree["children"][1:-1]:
            names = [child["name"] for child in worker["children"]]
            assert names[0] == "disk_writer"
            assert names[-1] == "http"


def test_workers_have_the_same_random_secret(shared: Service) -> None:
    environments = [
        Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        for pid in worker_pids(shared).values()
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
            entry = json_of(ask(connection, get_head(f"/api/cache/keyvalue/0~key?{QUERY}")))
            assert entry == {"entries": [{"value": f"value-{number}"}]}


# One worker ends, or hangs.


def test_killed_worker_takes_only_what_it_had_with_it(
    service: Service, connections: list[socket.socket]
) -> None:
    for connection in connections:
        connection.sendall(upload_head(2) + b"a")
    service.let_it_arrive(WORKERS)
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
    with connected(service, 10) as many:
        for connection in many:
            connection.sendall(get_head("/nowhere"))
        eventually(lambda: len(requests_by_worker(service, "/nowhere")) == 1)
        os.kill(victim, signal.SIGKILL)
        assert [status_of(read_response(connection)) for connection in many] == [404] * 10


def test_killed_worker_is_restarted_and_up_says_so_meanwhile(service: Service) -> None:
    restarts = part(service.up().json()["tree"], "worker_2")["restarts"]
    staying, victim = worker_pids(service)["worker_1"], worker_pids(service)["worker_2"]
    writing, ending = disk_processes(staying), disk_processes(victim)
    assert (len(writing), len(ending)) == (2, 2)
    os.kill(victim, signal.SIGKILL)

    def starts_again(status: int, answer: dict[str, Any]) -> bool:
        return status == 503 and part(answer["tree"], "worker_2")["state"] == "starting"

    down = up_when(service, starts_again)
    worker = part(down, "worker_2")
    assert (worker["restarts"], worker["last_error"]) == (restarts + 1, "WorkerEnded")
    assert "children" not in worker
    assert part(down, "worker_1")["state"] == "running"
    back = up_when(service, lambda status, _: status == 200)
    assert part(back, "worker_2")["restarts"] == restarts + 1
    assert part(back, "worker_2")["children"]
    assert worker_pids(service).keys() == {"worker_1", "worker_2"}
    eventually(lambda: not any(map(is_alive, ending)))
    assert disk_processes(staying) == writing


def test_worker_that_hangs_is_stuck_and_up_says_so(tmp_path: Path, tuist: StandInTuist) -> None:
    environment = constants({"workers.peers.STUCK_AFTER": 3}) | {"WORKERS": str(WORKERS)}
    with running_service(
        Service(tmp_path / "cas", tuist.url, environment, CHANGED_COMMAND)
    ) as service:
        pid = worker_pids(service)["worker_2"]
        os.kill(pid, signal.SIGSTOP)
        try:
            stuck = up_when(service, lambda status, _: status == 503)
            assert part(stuck, "worker_2")["stuck"] is True
        finally:
            os.kill(pid, signal.SIGCONT)
        up_when(service, lambda status, _: status == 200)


def test_nothing_acknowledged_is_lost_while_workers_are_killed(service: Service) -> None:
    clients, kills = 6, 3
    with Writers(service.url, clients) as writers:
        for number in range(kills):
            writers.store_some_more()
            os.kill(worker_pids(service)[f"worker_{number % WORKERS + 1}"], signal.SIGKILL)
            eventually(lambda: len(worker_pids(service)) == WORKERS)
        writers.store_some_more()
    assert writers.broken <= kills * clients
    assert not writers.refused
    assert writers.lost() == []


# The end; what one process does in the same way is in `test_process.py`.


def test_signal_to_all_processes_is_one_stop(ending: Service) -> None:
    """As a terminal sends it, or systemd."""
    pids = worker_pids(ending).values()
    with connected(ending, WORKERS) as connections:
        connections[0].sendall(upload_head(2) + b"a")
        ending.let_it_arrive(WORKERS)
        for pid in pids:
            for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP:
                os.kill(pid, number)
        ending.begin_stop()
        connections[0].sendall(b"b")
        assert status_of(read_to_end(connections[0])) == 204
        assert ending.wait() == 0


def test_worker_that_is_killed_while_it_drains_is_not_started_again(ending: Service) -> None:
    with connected(ending, WORKERS) as connections:
        for connection in connections:
            connection.sendall(upload_head(2) + b"a")
        ending.let_it_arrive(WORKERS)
        ending.begin_stop()
        os.kill(worker_pids(ending)["worker_1"], signal.SIGKILL)
        for connection in connections:
            with suppress(ConnectionError):  # it was the one's that is gone
                connection.sendall(b"b")
                read_to_end(connection)
        assert ending.wait() == 0
    assert ending.log.read_text().count('"worker_started"') == WORKERS


def test_workers_end_with_their_parent_even_one_that_hangs(ending: Service) -> None:
    pids = list(worker_pids(ending).values())
    os.kill(pids[0], signal.SIGSTOP)
    ending.stop(signal.SIGKILL)
    os.kill(pids[0], signal.SIGCONT)
    eventually(lambda: not any(is_alive(pid) for pid in pids))
    ending.environment["WORKERS"] = "1"
    ending.start()  # at the same port


# What they are tested with.


def json_of(answer: bytes) -> Any:
    return json.loads(body_of(answer))


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
    found: list[dict[str, Any]] = []

    def is_as_wanted() -> bool:
        with suppress(httpx.TransportError), client_of(service.url, timeout=1) as client:
            answer = client.get("/up")
            if wanted(answer.status_code, answer.json()):
                found.append(answer.json()["tree"])
        return found != []

    eventually(is_as_wanted)
    return found[0]


def requests_by_worker(service: Service, path: str) -> Counter[str]:
    """How many requests for a path that begins like this each worker has logged."""
    lines = service.logged("request")
    return Counter(line["worker"] for line in lines if line["path"].startswith(path))
