"""One instance takes over from another, behind nginx, and no request is lost."""

from __future__ import annotations

import os
import random
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.nginx import NOBODY, nginx_before, shared_storage
from tests.support.service import Service
from tests.support.wire import read_response, read_to_end, status_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cache_actors.dev.tuist import StandInTuist

HAND_OVERS = {1: 10, 2: 4}
"""How many there are, by the number of workers."""

UPLOAD_BYTES = 500_000


@pytest.fixture
def sockets() -> Iterator[Path]:
    """A folder for sockets, shared with the group that nginx's workers are in."""
    with tempfile.TemporaryDirectory(prefix="cache-actors-sockets-") as parent:
        Path(parent).chmod(0o755)
        folder = Path(parent) / "sockets"
        folder.mkdir()
        if os.geteuid() == 0:
            os.chown(folder, 0, NOBODY)
        folder.chmod(0o2770)
        yield folder


@dataclass
class Instances:
    """Instances of one service, which share a storage folder and a folder of sockets."""

    storage: Path
    sockets: Path
    tuist_url: str
    workers: int
    started: list[Service] = field(default_factory=list)

    def start(self) -> Service:
        """Start another one, and return it when connections to `current.sock` reach it."""
        before = self.current()
        environment = {
            "SOCKET_DIR": str(self.sockets),
            "BODY_TIMEOUT": "10",
            "WORKERS": str(self.workers),
        }
        service = Service(self.storage, self.tuist_url, environment)
        service.start(wait=False)
        self.started.append(service)
        wait_for(lambda: self.current() not in (None, before), service)
        return service

    def current(self) -> str | None:
        """What `current.sock` points to."""
        try:
            return os.readlink(self.sockets / "current.sock")  # noqa: PTH115
        except FileNotFoundError:
            return None


def wait_for(condition: Callable[[], bool], service: Service, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert service.process is not None
        assert service.process.poll() is None, service.log_tail()
        assert time.monotonic() < deadline, service.log_tail()
        time.sleep(0.01)


@pytest.fixture(params=[1, 2], ids=["1 worker", "2 workers"])
def instances(
    sockets: Path, tuist: StandInTuist, request: pytest.FixtureRequest
) -> Iterator[Instances]:
    with shared_storage() as storage:
        instances = Instances(storage, sockets, tuist.url, request.param)
        yield instances
        for service in instances.started:
            if service.process is not None and service.process.poll() is None:
                service.process.kill()
                service.process.wait()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_socket_is_for_its_group_and_the_link_is_relative(instances: Instances) -> None:
    service = instances.start()
    target = instances.current()
    assert target is not None
    assert "/" not in target
    assert stat.S_IMODE((instances.sockets / target).stat().st_mode) == 0o770
    assert names(instances.sockets) == {"current.sock", target}
    assert service.stop() == 0
    assert names(instances.sockets) == {"current.sock"}


def test_sockets_of_dead_instances_are_removed_and_others_left(instances: Instances) -> None:
    dead = instances.start()
    dead_socket = instances.current()
    dead.stop(signal.SIGKILL)
    living = instances.start()
    living_socket = instances.current()
    newest = instances.start()
    assert names(instances.sockets) == {"current.sock", living_socket, instances.current()}
    assert dead_socket not in names(instances.sockets)
    assert living.stop() == 0
    assert names(instances.sockets) == {"current.sock", instances.current()}
    assert newest.stop() == 0


def test_healthcheck_asks_the_instance_itself(instances: Instances) -> None:
    instances.start()
    environment = {
        "PATH": os.environ["PATH"],
        "SERVER_URL": instances.tuist_url,
        "SOCKET_DIR": str(instances.sockets),
    }
    command = [sys.executable, "-m", "cache_actors", "healthcheck"]
    healthy = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert healthy.returncode == 0, healthy.stderr
    assert '"status":"up"' in healthy.stdout
    instances.started[0].stop(signal.SIGKILL)
    dead = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert dead.returncode == 1
    assert "No instance listens" in dead.stderr


def test_kept_connection_is_answered_after_the_hand_over_and_told_to_close(
    instances: Instances,
) -> None:
    old = instances.start()
    with socket.socket(socket.AF_UNIX) as kept:
        kept.settimeout(10)
        kept.connect(str(instances.sockets / "current.sock"))
        kept.sendall(b"GET /up HTTP/1.1\r\nHost: cache\r\n\r\n")
        assert status_of(read_response(kept)) == 200
        instances.start()
        assert old.process is not None
        old.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)  # an idle connection would be closed by now, were there no successor
        kept.sendall(b"GET /nowhere HTTP/1.1\r\nHost: cache\r\n\r\n")
        answer = read_to_end(kept)
    assert status_of(answer) == 404
    assert b"connection: close" in answer.lower()
    assert old.wait() == 0


class Load:
    """Reads, entries and uploads through nginx, until it is enough; every failure is kept."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._enough = threading.Event()
        self.done: Counter[str] = Counter()
        self.failures: list[str] = []
        self.stored: dict[str, bytes] = {}
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(6)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        for thread in self._threads:
            thread.join()

    def _work(self, number: int) -> None:
        choose = random.Random(number)
        with httpx.Client(
            base_url=self._url,
            headers={"Authorization": "Bearer token"},
            params={"account_handle": "acme", "project_handle": "app"},
            timeout=30,
            trust_env=False,
        ) as client:
            for count in range(1_000_000):
                if self._enough.is_set():
                    return
                self._step(client, choose, f"{number:X}0{count:062X}")

    def _step(self, client: httpx.Client, choose: random.Random, name: str) -> None:
        what = choose.choice(["upload", "put", "read", "read", "miss"])
        try:
            match what:
                case "upload":
                    body = choose.randbytes(UPLOAD_BYTES)
                    answer = client.post(f"/api/cache/cas/{name}", content=body)
                    expected = 204
                    self.stored[name] = body
                case "put":
                    entry = {"cas_id": f"0~{name}", "entries": [{"value": name}]}
                    answer = client.put("/api/cache/keyvalue", json=entry)
                    expected = 204
                case "miss":
                    answer, expected = client.get(f"/api/cache/cas/{name}"), 404
                case _:
                    if not self.stored:
                        return
                    known = choose.choice(list(self.stored))
                    answer, expected = client.get(f"/api/cache/cas/{known}"), 200
                    if answer.content != self.stored[known]:
                        self.failures.append(f"{known} is not what was sent")
        except httpx.TransportError as error:
            self.failures.append(f"{what}: {error!r}")
            return
        if answer.status_code != expected:
            self.failures.append(f"{what}: {answer.status_code} {answer.text[:200]}")
        self.done[what] += 1


def test_no_request_is_lost_in_many_hand_overs(instances: Instances) -> None:
    hand_overs = HAND_OVERS[instances.workers]
    current = instances.start()
    with (
        nginx_before(
            f"unix:{instances.sockets}/current.sock", instances.storage, "debian"
        ) as nginx,
        Load(nginx.url) as load,
    ):
        leaving = []
        for _ in range(hand_overs):
            before = sum(load.done.values())
            wait_for(lambda before=before: sum(load.done.values()) > before + 50, current)  # type: ignore[misc]
            successor = instances.start()
            assert current.process is not None
            current.process.send_signal(signal.SIGTERM)
            leaving.append(current)
            current = successor
        before = sum(load.done.values())
        wait_for(lambda: sum(load.done.values()) > before + 50, current)
        assert [service.wait() for service in leaving] == [0] * hand_overs
    assert load.failures == []
    assert load.done["upload"] > hand_overs
    assert load.done["put"] > hand_overs
    assert names(instances.sockets) == {"current.sock", instances.current()}
    assert current.stop() == 0
