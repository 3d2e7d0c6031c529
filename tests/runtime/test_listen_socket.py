"""Where an instance listens: sockets in a folder, and who comes there.

Sockets in a folder: what an instance makes there, what it clears away, and what stops it.
"""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio
import trio.testing

from cache_actors.runtime.current_socket import CURRENT, CurrentLink, is_listening
from cache_actors.runtime.listen_socket import Arrivals, CannotListen, ListenSocket, bind
from cache_actors.settings import Settings


@pytest.fixture
def sockets(tmp_path: Path) -> Path:
    folder = tmp_path / "sockets"
    folder.mkdir()
    return folder


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """Closes what a test opens."""
    with ExitStack() as stack:
        yield stack


def bound_in(sockets: Path) -> ListenSocket:
    return bind(Settings(server_url="http://tuist", socket_dir=sockets))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def listening(opened: ExitStack, path: Path, backlog: int = 1) -> None:
    sock = opened.enter_context(socket.socket(socket.AF_UNIX))
    sock.bind(str(path))
    sock.listen(backlog)


def abandoned(path: Path) -> None:
    """Make a socket that nobody listens at."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def make_old(path: Path) -> None:
    os.utime(path, (0, 0), follow_symlinks=False)


def test_instance_cannot_be_chosen_before_it_is_announced(sockets: Path, opened: ExitStack) -> None:
    starting = opened.enter_context(bound_in(sockets))
    assert [name.partition(".")[2] for name in names(sockets)] == ["init"]
    starting.announce()
    link, own = sorted(names(sockets), key=lambda name: name != CURRENT)
    assert (sockets / link).readlink().name == own
    assert not starting.is_replaced()


def test_folder_in_the_place_of_the_link_or_missing_is_told_and_nothing_left(sockets: Path) -> None:
    (sockets / CURRENT).mkdir()
    with pytest.raises(CannotListen, match=r"current\.sock there is not a link"):
        bound_in(sockets)
    assert names(sockets) == [CURRENT]
    (sockets / CURRENT).rmdir()
    with bound_in(sockets) as late:
        (sockets / CURRENT).mkdir()
        with pytest.raises(CannotListen, match="Cannot have connections come here: Is a directory"):
            late.announce()
    assert names(sockets) == [CURRENT]
    with pytest.raises(CannotListen, match="No such file or directory"):
        bound_in(sockets / "missing")


def test_remains_of_dead_instances_are_removed_and_nothing_else(
    sockets: Path, opened: ExitStack
) -> None:
    for name in "dead.sock", "dead.init", "starting.init":
        abandoned(sockets / name)
    for name in "living.sock", "living.init":
        listening(opened, sockets / name)
    for name in "dead.link", "young.link":
        (sockets / name).symlink_to("nowhere")
    (sockets / "README").write_text("not ours")
    for name in "dead.init", "living.init", "dead.link", "README":
        make_old(sockets / name)
    opened.enter_context(bound_in(sockets)).close()
    assert names(sockets) == [
        "README",
        "living.init",
        "living.sock",
        "starting.init",
        "young.link",
    ]


def test_link_is_given_to_the_last_that_started_of_those_that_live(
    sockets: Path, opened: ExitStack
) -> None:
    for number, name in enumerate(["old.sock", "young.sock", "dead.sock", "starting.init"]):
        if name == "dead.sock":
            abandoned(sockets / name)
        else:
            listening(opened, sockets / name)
        os.utime(sockets / name, (number, number))
    link = CurrentLink(sockets / CURRENT, sockets / "own.sock")
    link.take()
    link.hand_off()
    assert (sockets / CURRENT).readlink().name == "young.sock"


def test_link_stays_with_the_only_one(sockets: Path) -> None:
    link = CurrentLink(sockets / CURRENT, sockets / "own.sock")
    link.take()
    link.hand_off()
    assert link.is_ours()


def test_all_who_mend_the_link_choose_the_same(sockets: Path, opened: ExitStack) -> None:
    for number, name in enumerate(["a.sock", "c.sock", "b.sock"]):
        listening(opened, sockets / name, backlog=10)
        os.utime(sockets / name, (number, number))
    for own in "a.sock", "b.sock", "c.sock":
        (sockets / CURRENT).unlink(missing_ok=True)
        (sockets / CURRENT).symlink_to("gone.sock")
        assert CurrentLink(sockets / CURRENT, sockets / own).repair() == "b.sock"
        assert (sockets / CURRENT).readlink().name == "b.sock"


def test_link_that_leads_to_another_that_lives_is_left_alone(
    sockets: Path, opened: ExitStack
) -> None:
    for name in "older.sock", "own.sock":
        listening(opened, sockets / name)
    make_old(sockets / "older.sock")
    (sockets / CURRENT).symlink_to("older.sock")
    assert CurrentLink(sockets / CURRENT, sockets / "own.sock").repair() is None
    assert (sockets / CURRENT).readlink().name == "older.sock"


def test_one_that_has_no_room_for_more_connections_is_listening(
    sockets: Path, opened: ExitStack
) -> None:
    listening(opened, sockets / "busy.sock", backlog=0)
    opened.enter_context(socket.socket(socket.AF_UNIX)).connect(str(sockets / "busy.sock"))
    assert is_listening(sockets / "busy.sock")


# What one connection does before it is accepted harms nobody else.

HARMLESS = [
    *(errno.EHOSTUNREACH, errno.EPERM, errno.EPROTO, errno.ECONNABORTED, errno.ENETDOWN),
    *(errno.ENONET, errno.EMFILE, errno.ENOMEM, errno.EIO, errno.ENOSYS),
]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.dup()


def fail(arrivals: Arrivals, errors: list[OSError]) -> None:
    """Have it fail with these before the next connection is accepted."""
    accept = arrivals._listening.accept

    async def failing() -> object:
        if errors:
            raise errors.pop()
        return await accept()

    arrivals._listening.accept = failing  # type: ignore[method-assign,assignment]


@pytest.mark.parametrize("number", HARMLESS, ids=lambda number: errno.errorcode[number])
async def test_error_of_accept_does_not_end_the_listening(
    listener: socket.socket, number: int, autojump_clock: trio.testing.MockClock
) -> None:
    errors = [OSError(number, os.strerror(number))] * 20
    with Arrivals(listener) as arrivals, socket.create_connection(listener.getsockname()):
        fail(arrivals, errors)
        connection = await arrivals.next()
        assert connection.getsockname() == listener.getsockname()
        connection.close()


@pytest.mark.parametrize("number", [errno.EBADF, errno.EINVAL, errno.ENOTSOCK])
async def test_socket_that_is_none_any_more_ends_the_listening(
    listener: socket.socket, number: int
) -> None:
    with Arrivals(listener) as arrivals:
        fail(arrivals, [OSError(number, os.strerror(number))])
        with pytest.raises(OSError) as raised:  # noqa: PT011
            await arrivals.next()
        assert raised.value.errno == number
