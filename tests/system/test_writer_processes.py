"""The processes that write to the disk, below the real service: killed, stopped, signalled."""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from cache_actors.actors.disk_writer import DiskWriter
from cache_actors.cli.dev.tuist import StandInTuist
from tests.support.metrics import Scrape
from tests.support.service import (
    CHANGED_COMMAND,
    COMMAND,
    Service,
    client_of,
    constants,
    nodes_of,
    running_service,
)
from tests.support.waiting import eventually
from tests.support.wire import connected, read_response, status_of, upload_head
from tests.support.workers import is_alive
from tests.support.writer_processes import disk_processes
from tests.support.writers import Writers


@pytest.fixture
def service(tmp_path: Path, tuist: StandInTuist) -> Iterator[Service]:
    with running_service(Service(tmp_path / "cas", tuist.url)) as service:
        yield service


def children(service: Service) -> list[int]:
    """The disk writer's process and the key-value store's; with several workers, those of all."""
    return disk_processes(service.pid)


def are_gone(pids: list[int]) -> bool:
    return not any(map(is_alive, pids))


def signal_all(pids: list[int], which: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, which)


def upload(service: Service, name: str) -> int:
    with client_of(service.url) as client:
        return client.post(f"/api/cache/cas/{name}", content=name.encode()).status_code


def put(service: Service, name: str) -> int:
    entry = {"cas_id": name, "entries": [{"value": "dg=="}]}
    with client_of(service.url) as client:
        return client.put("/api/cache/keyvalue", json=entry).status_code


def crashes(service: Service) -> list[tuple[int, str]]:
    """How often each child that has crashed did so, and what of."""
    nodes = service.nodes()
    return [(node["restarts"], node["last_error"]) for node in nodes if node["restarts"]]


def depth(service: Service) -> int:
    """How many uploads wait, those included that wait for room in the disk writer's mailbox."""
    (found,) = [node for node in service.nodes() if node["name"] == "disk_writer"]
    return int(found["mailbox_depth"])


def taken(service: Service) -> float:
    """How many uploads the disk writer has taken in hand so far."""
    found = Scrape(service.up("/metrics").text)
    return found.value("cache_actors_mailbox_wait_seconds_count", child="disk_writer")


def test_killed_process_is_503_for_what_it_had_in_hand(service: Service) -> None:
    pids = children(service)
    signal_all(pids, signal.SIGSTOP)
    statuses: list[int] = []
    thread = threading.Thread(target=lambda: statuses.append(upload(service, "AAAA")))
    thread.start()
    eventually(lambda: taken(service) == 1)
    assert service.up().status_code == 200
    signal_all(pids, signal.SIGKILL)
    thread.join()
    assert statuses == [503]
    assert upload(service, "AAAA") == 204
    assert service.stored("AAAA") == b"AAAA"
    assert crashes(service) == [(1, "ProcessDied")] * 2


def test_process_that_is_killed_while_it_is_idle_is_replaced_by_itself(service: Service) -> None:
    pids = children(service)
    for number, pid in enumerate(pids, 1):
        before = children(service)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda n=number: len(crashes(service)) == n and service.up().is_success)  # type: ignore[misc]
        assert len(set(children(service)) - set(before)) == 1
        assert upload(service, f"AAA{number}") == 204
        assert put(service, f"0~{number}") == 204
        assert crashes(service) == [(1, "ProcessDied")] * number


def test_stop_is_bounded_though_the_processes_hang(tmp_path: Path, tuist: StandInTuist) -> None:
    """In order: long before what ends a stop in any case would."""
    environment = constants(
        {"actor_process.client.END_SECONDS": 0.5, "runtime.lifecycle.MAX_STOP_SECONDS": 3600}
    )
    service = Service(tmp_path / "cas", tuist.url, environment, CHANGED_COMMAND)
    with running_service(service):
        pids = children(service)
        signal_all(pids, signal.SIGSTOP)
        assert service.stop() == 0
        assert are_gone(pids)


# A disk that hangs.


MAILBOX = 256
"""Messages for which the disk writer's mailbox has room."""

UPLOADS = MAILBOX + DiskWriter.batch_limit + 50


def send_uploads(service: Service, connections: list[socket.socket]) -> None:
    """Begin to upload more than there is room for, to processes that are stopped."""
    signal_all(children(service), signal.SIGSTOP)
    for number, connection in enumerate(connections):
        connection.sendall(upload_head(1, f"{number:04}") + b"x")
    eventually(lambda: depth(service) > MAILBOX)


def test_uploads_wait_for_stopped_processes_and_a_stop_does_not(
    tmp_path: Path, tuist: StandInTuist
) -> None:
    environment = constants({"runtime.lifecycle.MAX_STOP_SECONDS": 1})
    service = Service(tmp_path / "cas", tuist.url, environment, CHANGED_COMMAND)
    with running_service(service), connected(service, UPLOADS) as connections:
        send_uploads(service, connections)
        pids = children(service)
        signal_all(pids, signal.SIGCONT)
        assert {status_of(read_response(connection)) for connection in connections} == {204}
        assert crashes(service) == []
        send_uploads(service, connections)
        assert service.stop() == 3
        # The kernel ends stopped processes whose parent is gone: their group is orphaned.
        eventually(lambda: are_gone(pids))


# The end of the service, during writes.


@pytest.mark.parametrize(
    ("workers", "kills"),
    [
        pytest.param(1, 1, marks=pytest.mark.nightly),
        (2, 1),
        pytest.param(2, 2, marks=pytest.mark.nightly),
    ],
)
def test_kill_of_the_service_during_writes_ends_its_processes_and_loses_nothing(
    tmp_path: Path, tuist: StandInTuist, workers: int, kills: int
) -> None:
    service = Service(tmp_path / "cas", tuist.url, {"WORKERS": str(workers)})
    with running_service(service):
        for _ in range(kills):
            with Writers(service.url) as writers:
                pids = children(service)
                assert len(pids) == 2 * workers
                service.stop(signal.SIGKILL)
            service.start()
            eventually(partial(are_gone, pids))
            assert upload(service, "AAAA") == 204
            assert put(service, "0~A") == 204
            assert writers.lost() == []
            assert not writers.refused
        folders = service.storage / ".tmp"
        eventually(lambda: len(list(folders.iterdir())) == 3 * workers)


def test_interrupt_of_the_whole_group_ends_in_order(tmp_path: Path, tuist: StandInTuist) -> None:
    service = Service(tmp_path / "cas", tuist.url, command=("setsid", *COMMAND))
    with running_service(service):
        first = children(service)
        os.kill(first[0], signal.SIGKILL)
        eventually(lambda: len(set(children(service)) - set(first)) == 1)
        os.killpg(service.pid, signal.SIGINT)  # long before that one is ready
        assert service.wait() == 0
        assert service.log.read_text().count('"child_crashed"') == 1
        service.start()
        with Writers(service.url) as writers:
            os.killpg(service.pid, signal.SIGINT)
            assert service.wait() == 0
        assert list((service.storage / ".tmp").iterdir()) == []
        assert writers.refused.keys() <= {503}
        assert service.log.read_text().count('"child_crashed"') == 1
        service.start()
        assert writers.lost() == []


@pytest.mark.parametrize(
    ("send", "workers"),
    [
        pytest.param(upload, "2", id="disk_writer of 2 workers"),
        pytest.param(put, "1", id="kv_store of 1 worker"),
    ],
)
def test_process_that_is_stopped_with_one_batch_in_its_hands_is_seen_in_up(
    tmp_path: Path, tuist: StandInTuist, send: Callable[[Service, str], int], workers: str
) -> None:
    """Nothing waits behind that batch: it is all that there is to go by."""
    environment = constants({"supervision.supervisor.STUCK_AFTER": 2}) | {"WORKERS": workers}
    service = Service(tmp_path / "cas", tuist.url, environment, CHANGED_COMMAND)
    with running_service(service):
        pids = children(service)
        signal_all(pids, signal.SIGSTOP)
        statuses: list[int] = []
        thread = threading.Thread(target=lambda: statuses.append(send(service, "0~AA")))
        thread.start()
        name = "disk_writer" if send is upload else "kv_store"
        eventually(lambda: says_stuck(service.up(), name))
        signal_all(pids, signal.SIGCONT)
        thread.join()
        assert statuses == [204]
        eventually(lambda: service.up().status_code == 200)


def says_stuck(answer: httpx.Response, name: str) -> bool:
    """Whether `/up` says that an actor of that name is stuck, and that this is a fault.

    One answer has to say both: another worker may give the next one, and know it a second later.
    """
    nodes = nodes_of(answer.json()["tree"])
    stuck = any(node["name"] == name and node.get("stuck") for node in nodes)
    return stuck and answer.status_code == 503
