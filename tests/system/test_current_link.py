"""`current.sock`: who gets new connections when instances come, go and die."""

from __future__ import annotations

import signal
import stat
import sys
from typing import TYPE_CHECKING

from tests.support.service import Service, running_service
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.support.rollout import Instances


def test_socket_is_for_its_group_and_the_link_is_relative(instances: Instances) -> None:
    service = instances.start()
    target = instances.current()
    assert target is not None
    assert "/" not in target
    assert stat.S_IMODE((instances.sockets / target).stat().st_mode) == 0o770
    assert instances.names() == {"current.sock", target}
    assert service.stop() == 0
    assert instances.names() == {"current.sock"}


def test_sockets_of_dead_instances_are_removed_and_others_left(one_worker: Instances) -> None:
    dead = one_worker.start()
    dead_socket = one_worker.current()
    dead.stop(signal.SIGKILL)
    living = one_worker.start()
    living_socket = one_worker.current()
    newest = one_worker.start()
    assert one_worker.names() == {"current.sock", living_socket, one_worker.current()}
    assert dead_socket not in one_worker.names()
    assert living.stop() == 0
    assert one_worker.names() == {"current.sock", one_worker.current()}
    assert newest.stop() == 0


def test_link_goes_back_to_the_one_before_when_its_successor_is_killed(
    instances: Instances,
) -> None:
    oldest = instances.start()
    instances.start()
    second = instances.current()
    instances.start().stop(signal.SIGKILL)
    eventually(lambda: instances.current() == second)
    assert instances.ask_up() == 200
    assert "link_repaired" in oldest.log.read_text()


def test_link_goes_to_the_successor_when_one_that_came_back_stops(one_worker: Instances) -> None:
    """As when the old container crashes after the hand-over, is started again, and then stopped."""
    one_worker.start().stop(signal.SIGKILL)
    one_worker.start()
    successor = one_worker.current()
    came_back = one_worker.start()
    assert came_back.stop() == 0
    assert one_worker.current() == successor
    assert one_worker.ask_up() == 200


def test_link_that_has_been_removed_comes_back_and_several_leave_it_alone(
    one_worker: Instances,
) -> None:
    one_worker.start()
    newest = one_worker.start()
    led = one_worker.current()
    for times in range(1, 3):
        (one_worker.sockets / "current.sock").unlink()
        eventually(lambda: one_worker.current() is not None)
        assert one_worker.current() == led
        assert times <= len(newest.logged("link_repaired")) <= 2 * times  # each may have looked


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
