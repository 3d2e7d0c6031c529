"""One instance takes over from another, behind nginx, and no request is lost."""

import os
import signal
import socket
import stat
import subprocess
import sys
from contextlib import AbstractContextManager

import pytest

from tests.support.nginx import BRIEF_KEEPALIVE, Nginx, nginx_before
from tests.support.rollout import Instances
from tests.support.service import Service, client_at, running_service
from tests.support.waiting import eventually
from tests.support.wire import read_response, read_to_end, status_of
from tests.support.writers import Writers

HAND_OVERS = 2
"""From one that has taken over from nobody, and from one that has."""

by_workers = pytest.mark.parametrize(
    "instances",
    [pytest.param(1, marks=pytest.mark.nightly), 2],
    ids=["1 worker", "2 workers"],
    indirect=True,
)
"""For what workers do themselves."""


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


@by_workers
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
        instances.workers = 1
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


def clients_of(nginx: Nginx) -> Writers:
    return Writers(nginx.url, 2, asked=("/up",))


def expect_no_request_lost(clients: Writers) -> None:
    clients.finish()
    assert (clients.broken, clients.refused) == (0, {})
    assert clients.lost() == []


@by_workers
@pytest.mark.parametrize(
    "brief",
    [True, pytest.param(False, marks=pytest.mark.nightly)],
    ids=["brief keep-alive", "that of production"],
)
def test_no_request_is_lost_in_many_hand_overs(instances: Instances, brief: bool) -> None:
    current = instances.start()
    with nginx_in_front(instances, brief=brief) as nginx, clients_of(nginx) as clients:
        leaving = []
        for _ in range(HAND_OVERS):
            clients.store_some_more()
            successor = instances.start()
            current.begin_stop()
            leaving.append(current)
            current = successor
        clients.store_some_more()
        assert [service.wait() for service in leaving] == [0] * HAND_OVERS
        expect_no_request_lost(clients)
    assert instances.names() == {"current.sock", instances.current()}
    assert current.stop() == 0


def test_no_request_is_lost_when_the_successor_is_stopped(one_worker: Instances) -> None:
    """As when a deploy fails: the new container is up, but Kamal does not think it healthy."""
    one_worker.start()
    wanted = one_worker.current()
    with nginx_in_front(one_worker) as nginx, clients_of(nginx) as clients:
        successor = one_worker.start()
        clients.store_some_more()
        assert successor.stop() == 0
        assert one_worker.current() == wanted
        clients.store_some_more()
        expect_no_request_lost(clients)
    assert one_worker.names() == {"current.sock", wanted}


# Who gets new connections: `current.sock`.


def test_socket_is_for_its_group_and_the_link_is_relative(instances: Instances) -> None:
    service = instances.start()
    target = instances.current()
    assert target is not None
    assert "/" not in target
    assert stat.S_IMODE((instances.sockets / target).stat().st_mode) == 0o770
    assert instances.names() == {"current.sock", target}
    assert service.stop() == 0
    assert instances.names() == {"current.sock"}


def test_link_that_leads_nowhere_or_is_gone_leads_to_the_last_that_lives(
    instances: Instances,
) -> None:
    oldest = instances.start()
    instances.start()
    second = instances.current()
    instances.start().stop(signal.SIGKILL)
    eventually(lambda: instances.current() == second)
    assert instances.ask_up() == 200
    assert "link_repaired" in oldest.log.read_text()
    (instances.sockets / "current.sock").unlink()
    eventually(lambda: instances.current() == second)


def test_instance_that_cannot_take_the_link_says_so_and_stops_in_order(
    instances: Instances,
) -> None:
    """The folder has become read-only, say, while it started."""
    script = (
        "from cache_actors.cli.main import main\n"
        "from cache_actors.runtime.current_socket import CurrentLink\n"
        "def take(_: CurrentLink) -> None: raise OSError(30, 'Read-only file system')\n"
        "CurrentLink.take = take\n"
        "main(['serve'])"
    )
    environment = {"SOCKET_DIR": str(instances.sockets)}
    command = (sys.executable, "-c", script)
    service = Service(instances.storage, instances.tuist_url, environment, command)
    with running_service(service, wait=False):
        assert service.wait() == 2
    said = service.log.read_text()
    assert "Cannot have connections come here: Read-only file system\n" in said
    assert "Traceback" not in said
    assert instances.names() == set()
