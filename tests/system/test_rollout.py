"""One instance takes over from another, behind nginx, and no request is lost."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import httpx

from tests.support.nginx import Nginx, nginx_before
from tests.support.rollout import Instances, Load, wait_for
from tests.support.wire import read_response, read_to_end, status_of

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

HAND_OVERS = {1: 10, 2: 4}
"""How many there are, by the number of workers."""


def healthcheck(instances: Instances) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": os.environ["PATH"],
        "SERVER_URL": instances.tuist_url,
        "SOCKET_DIR": str(instances.sockets),
    }
    command = [sys.executable, "-m", "cache_actors", "healthcheck"]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=20
    )


def test_healthcheck_asks_the_instance_itself(instances: Instances) -> None:
    instances.start()
    healthy = healthcheck(instances)
    assert healthy.returncode == 0, healthy.stderr
    assert '"status":"up"' in healthy.stdout
    instances.started[0].stop(signal.SIGKILL)
    dead = healthcheck(instances)
    assert dead.returncode == 1
    assert "No instance listens" in dead.stderr


def test_healthcheck_does_not_wait_for_one_that_accepts_nothing(instances: Instances) -> None:
    instances.start()
    with socket.socket(socket.AF_UNIX) as hung, socket.socket(socket.AF_UNIX) as waiting:
        hung.bind(str(instances.sockets / "hung.sock"))
        hung.listen(0)
        waiting.connect(str(instances.sockets / "hung.sock"))
        assert healthcheck(instances).returncode == 0


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


def nginx_in_front(instances: Instances) -> AbstractContextManager[Nginx]:
    """Debian's nginx, which connects to the instance that is current."""
    return nginx_before(f"unix:{instances.sockets}/current.sock", instances.storage, "debian")


def test_no_request_is_lost_in_many_hand_overs(instances: Instances) -> None:
    hand_overs = HAND_OVERS[instances.workers]
    current = instances.start()
    with nginx_in_front(instances) as nginx, Load(nginx.url) as load:
        leaving = []
        for _ in range(hand_overs):
            load.wait_for_more()
            successor = instances.start()
            assert current.process is not None
            current.process.send_signal(signal.SIGTERM)
            leaving.append(current)
            current = successor
        load.wait_for_more()
        assert [service.wait() for service in leaving] == [0] * hand_overs
    assert load.failures == []
    assert min(load.done[what] for what in ("upload", "put", "up")) > hand_overs
    assert instances.names() == {"current.sock", instances.current()}
    assert current.stop() == 0


def test_no_request_is_lost_when_the_successor_is_stopped(instances: Instances) -> None:
    """As when a deploy fails: the new container is up, but Kamal does not think it healthy."""
    instances.start()
    wanted = instances.current()
    with nginx_in_front(instances) as nginx, Load(nginx.url) as load:
        successor = instances.start()
        load.wait_for_more()
        assert successor.stop() == 0
        assert instances.current() == wanted
        load.wait_for_more()
    assert load.failures == []
    assert instances.names() == {"current.sock", wanted}


def test_requests_are_answered_again_soon_after_the_successor_is_killed(
    instances: Instances,
) -> None:
    instances.start()
    with nginx_in_front(instances) as nginx, httpx.Client(base_url=nginx.url) as client:
        successor = instances.start()
        assert client.get("/up").status_code == 200
        successor.stop(signal.SIGKILL)
        began = time.monotonic()
        wait_for(lambda: client.get("/up").status_code == 200)
        assert time.monotonic() - began < 3
