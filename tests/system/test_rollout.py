"""One instance takes over from another, behind nginx, and no request is lost."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.nginx import BRIEF_KEEPALIVE, Nginx, nginx_before
from tests.support.rollout import Instances, Load
from tests.support.service import client_at, client_of
from tests.support.waiting import eventually
from tests.support.wire import read_response, read_to_end, status_of

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

HAND_OVERS = 4


def healthcheck(instances: Instances) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": os.environ["PATH"],
        "SERVER_URL": instances.tuist_url,
        "SOCKET_DIR": str(instances.sockets),
    }
    command = [sys.executable, "-m", "cache_actors", "healthcheck"]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def test_healthcheck_asks_the_instance_itself(one_worker: Instances) -> None:
    """It does not wait for one that accepts nothing."""
    instance = one_worker.start()
    healthy = healthcheck(one_worker)
    assert healthy.returncode == 0, healthy.stderr
    assert '"status":"up"' in healthy.stdout
    with socket.socket(socket.AF_UNIX) as hung, socket.socket(socket.AF_UNIX) as waiting:
        hung.bind(str(one_worker.sockets / "hung.sock"))
        hung.listen(0)
        waiting.connect(str(one_worker.sockets / "hung.sock"))
        assert healthcheck(one_worker).returncode == 0
    (one_worker.sockets / "hung.sock").unlink()
    instance.stop(signal.SIGKILL)
    dead = healthcheck(one_worker)
    assert dead.returncode == 1
    assert "No instance listens" in dead.stderr


def test_kept_connection_is_answered_after_the_hand_over_and_told_to_close(
    instances: Instances,
) -> None:
    old = instances.start()
    with (
        client_at((instances.sockets / "current.sock").resolve()) as asking,
        socket.socket(socket.AF_UNIX) as kept,
    ):
        kept.settimeout(60)
        kept.connect(str(instances.sockets / "current.sock"))
        kept.sendall(b"GET /up HTTP/1.1\r\nHost: cache\r\n\r\n")
        assert status_of(read_response(kept)) == 200
        instances.start()
        old.begin_stop()  # it would close idle connections, were there no successor
        eventually(lambda: asking.get("/up").json()["status"] == "handing_over")
        assert [asking.get("/up").status_code for _ in range(4)] == [200] * 4
        kept.sendall(b"GET /nowhere HTTP/1.1\r\nHost: cache\r\n\r\n")
        answer = read_to_end(kept)
    assert status_of(answer) == 404
    assert b"connection: close" in answer.lower()
    assert old.wait() == 0


def nginx_in_front(instances: Instances, *, brief: bool = True) -> AbstractContextManager[Nginx]:
    """Debian's nginx, which connects to the instance that is current.

    An old instance ends when nginx has closed what it keeps: after two seconds if that is `brief`.
    """
    upstream = f"unix:{instances.sockets}/current.sock"
    changes = BRIEF_KEEPALIVE if brief else {}
    return nginx_before(upstream, instances.storage, "debian", changes)


@pytest.mark.parametrize(
    "brief",
    [True, pytest.param(False, marks=pytest.mark.nightly)],
    ids=["brief keep-alive", "that of production"],
)
def test_no_request_is_lost_in_many_hand_overs(instances: Instances, brief: bool) -> None:
    current = instances.start()
    with nginx_in_front(instances, brief=brief) as nginx, Load(nginx.url) as load:
        leaving = []
        for _ in range(HAND_OVERS):
            load.wait_for_more()
            successor = instances.start()
            current.begin_stop()
            leaving.append(current)
            current = successor
        load.wait_for_more()
        assert [service.wait() for service in leaving] == [0] * HAND_OVERS
    assert load.failures == []
    assert min(load.done[what] for what in ("upload", "put", "up")) > HAND_OVERS
    assert instances.names() == {"current.sock", instances.current()}
    assert current.stop() == 0


def test_no_request_is_lost_when_the_successor_is_stopped(one_worker: Instances) -> None:
    """As when a deploy fails: the new container is up, but Kamal does not think it healthy."""
    one_worker.start()
    wanted = one_worker.current()
    with nginx_in_front(one_worker) as nginx, Load(nginx.url) as load:
        successor = one_worker.start()
        load.wait_for_more()
        assert successor.stop() == 0
        assert one_worker.current() == wanted
        load.wait_for_more()
    assert load.failures == []
    assert one_worker.names() == {"current.sock", wanted}


def test_requests_are_answered_again_after_the_successor_is_killed(one_worker: Instances) -> None:
    one_worker.start()
    with nginx_in_front(one_worker) as nginx, client_of(nginx.url) as client:
        successor = one_worker.start()
        assert client.get("/up").status_code == 200
        successor.stop(signal.SIGKILL)
        eventually(lambda: client.get("/up").status_code == 200)
