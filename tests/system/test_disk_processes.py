"""The processes that write to the disk, below the real service: killed, stopped, signalled."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.service import COMMAND, Service, running_service
from tests.support.strace import family
from tests.support.workers import is_alive

from .test_actor_crashes import nodes_of
from .test_process import client_of, stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cache_actors.dev.tuist import StandInTuist

LIMIT = 30.0
SOON = 1.0


@pytest.fixture
def service(tmp_path: Path, tuist: StandInTuist) -> Iterator[Service]:
    with running_service(Service(tmp_path / "cas", tuist.url)) as service:
        yield service


def children(service: Service) -> list[int]:
    """The disk writer's process and the key-value store's."""
    assert service.process is not None
    pids = [int(pid) for pid in family(service.process.pid)[1:]]
    return sorted(
        pid for pid in pids if b"cache_actors.disk" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def upload(service: Service, name: str) -> int:
    with client_of(service) as client:
        return client.post(f"/api/cache/cas/{name}", content=name.encode(), timeout=60).status_code


def put(service: Service, name: str) -> int:
    entry = {"cas_id": name, "entries": [{"value": "dg=="}]}
    with client_of(service) as client:
        return client.put("/api/cache/keyvalue", json=entry, timeout=60).status_code


def is_up(service: Service) -> bool:
    return httpx.get(service.url + "/up", trust_env=False).is_success


def crashes(service: Service) -> list[tuple[int, str]]:
    """How often each child that has crashed did so, and what of."""
    tree = httpx.get(service.url + "/up", trust_env=False).json()["tree"]
    return [(node["restarts"], node["last_error"]) for node in nodes_of(tree) if node["restarts"]]


def test_killed_process_is_503_for_what_it_had_in_hand(service: Service) -> None:
    first, second = children(service)
    os.kill(first, signal.SIGSTOP)
    os.kill(second, signal.SIGSTOP)
    statuses: list[int] = []
    thread = threading.Thread(target=lambda: statuses.append(upload(service, "AAAA")))
    thread.start()
    time.sleep(0.3)
    assert httpx.get(service.url + "/up", trust_env=False).status_code == 200
    for pid in (first, second):
        os.kill(pid, signal.SIGKILL)
    thread.join()
    assert statuses == [503]
    assert upload(service, "AAAA") == 204
    assert stored(service, "AAAA") == b"AAAA"
    assert crashes(service) == [(1, "HandsLost")] * 2


@pytest.mark.parametrize("which", [0, 1], ids=["one", "the other"])
def test_process_that_is_killed_while_it_is_idle_is_replaced_at_once(
    service: Service, which: int
) -> None:
    pids = children(service)
    os.kill(pids[which], signal.SIGKILL)
    began = time.monotonic()
    wait_until(lambda: crashes(service) and is_up(service))
    assert time.monotonic() - began < SOON
    assert upload(service, "AAAA") == 204
    assert put(service, "0~A") == 204
    assert crashes(service) == [(1, "HandsLost")]
    assert len(set(children(service)) - set(pids)) == 1


def test_stop_is_bounded_though_the_processes_hang(service: Service) -> None:
    pids = children(service)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    service.stop()
    assert time.monotonic() - began < LIMIT
    assert not any(map(is_alive, pids))


def test_processes_end_with_a_killed_parent_and_a_new_one_starts_at_once(service: Service) -> None:
    pids = children(service)
    assert len(pids) == 2
    service.stop(signal.SIGKILL)
    service.start()
    wait_until(lambda: not any(map(is_alive, pids)))
    assert upload(service, "AAAA") == 204
    assert len(list((service.storage / ".tmp").iterdir())) == 3


def test_interrupt_of_the_whole_group_ends_in_order(tmp_path: Path, tuist: StandInTuist) -> None:
    service = Service(tmp_path / "cas", tuist.url, command=("setsid", *COMMAND))
    with running_service(service):
        assert service.process is not None
        acknowledged = [name for name in ("AAAA", "BBBB") if upload(service, name) == 204]
        os.killpg(service.process.pid, signal.SIGINT)
        assert service.wait(LIMIT) == 0
    assert [stored(service, name) for name in acknowledged] == [b"AAAA", b"BBBB"]
    assert list((service.storage / ".tmp").iterdir()) == []
