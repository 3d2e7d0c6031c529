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

from .test_process import client_of, stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cache_actors.dev.tuist import StandInTuist

LIMIT = 30.0


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
    up = httpx.get(service.url + "/up", trust_env=False)
    assert up.text.count("HandsLost") >= 1


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
