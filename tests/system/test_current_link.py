"""`current.sock`: who gets new connections when instances come, go and die."""

from __future__ import annotations

import signal
import stat
import sys
import time
from typing import TYPE_CHECKING

from tests.support.rollout import wait_for
from tests.support.service import Service

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


def test_sockets_of_dead_instances_are_removed_and_others_left(instances: Instances) -> None:
    dead = instances.start()
    dead_socket = instances.current()
    dead.stop(signal.SIGKILL)
    living = instances.start()
    living_socket = instances.current()
    newest = instances.start()
    assert instances.names() == {"current.sock", living_socket, instances.current()}
    assert dead_socket not in instances.names()
    assert living.stop() == 0
    assert instances.names() == {"current.sock", instances.current()}
    assert newest.stop() == 0


def test_link_goes_back_to_the_one_before_when_its_successor_is_killed(
    instances: Instances,
) -> None:
    oldest = instances.start()
    instances.start()
    second = instances.current()
    instances.start().stop(signal.SIGKILL)
    wait_for(lambda: instances.current() == second, oldest)
    assert instances.ask_up() == 200
    assert "link_mended" in oldest.log.read_text()


def test_link_goes_to_the_successor_when_one_that_came_back_stops(instances: Instances) -> None:
    """As when the old container crashes after the hand-over, is started again, and then stopped."""
    instances.start().stop(signal.SIGKILL)
    instances.start()
    successor = instances.current()
    came_back = instances.start()
    assert came_back.stop() == 0
    assert instances.current() == successor
    assert instances.ask_up() == 200


def test_several_living_instances_leave_the_link_alone(instances: Instances) -> None:
    for _ in range(3):
        newest = instances.start()
    led = instances.current()
    for _ in range(30):  # they look once a second
        assert instances.current() == led
        time.sleep(0.1)
    assert newest.log.read_text().count("link_mended") == 0


def test_link_that_has_been_removed_comes_back(instances: Instances) -> None:
    only = instances.start()
    led = instances.current()
    (instances.sockets / "current.sock").unlink()
    wait_for(lambda: instances.current() == led, only)


def test_instance_that_cannot_take_the_link_says_so_and_stops_in_order(
    instances: Instances,
) -> None:
    """The folder has become read-only, say, while it started."""
    script = (
        "from cache_actors.__main__ import main\n"
        "from cache_actors.http.current import CurrentLink\n"
        "def take(_: CurrentLink) -> None: raise OSError(30, 'Read-only file system')\n"
        "CurrentLink.take = take\n"
        "main(['serve'])"
    )
    environment = {"SOCKET_DIR": str(instances.sockets)}
    command = (sys.executable, "-c", script)
    service = Service(instances.storage, instances.tuist_url, environment, command)
    service.start(wait=False)
    assert service.wait() == 2
    said = service.log.read_text()
    assert "Cannot have connections come here: Read-only file system\n" in said
    assert "Traceback" not in said
    assert instances.names() == set()
