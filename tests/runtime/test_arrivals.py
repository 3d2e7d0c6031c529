"""What one connection does before it is accepted harms nobody else."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

import pytest
import trio

from cache_actors.runtime.listen_socket import Arrivals

if TYPE_CHECKING:
    from collections.abc import Iterator

    import trio.testing

HARMLESS = [
    *(errno.EHOSTUNREACH, errno.EPERM, errno.EPROTO, errno.ECONNABORTED, errno.ENETDOWN),
    *(errno.ENONET, errno.EMFILE, errno.ENOMEM, errno.EIO, errno.ENOSYS),
]


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.dup()


@pytest.mark.parametrize("number", HARMLESS, ids=lambda number: errno.errorcode[number])
async def test_error_of_accept_does_not_end_the_listening(
    listening: socket.socket, number: int, autojump_clock: trio.testing.MockClock
) -> None:
    errors = [OSError(number, os.strerror(number))] * 20
    with Arrivals(listening) as arrivals, socket.create_connection(listening.getsockname()):
        accept = arrivals._listening.accept

        async def failing() -> object:
            if errors:
                raise errors.pop()
            return await accept()

        arrivals._listening.accept = failing  # type: ignore[method-assign,assignment]
        connection = await arrivals.next()
        assert connection.getsockname() == listening.getsockname()
        connection.close()


@pytest.mark.parametrize("number", [errno.EBADF, errno.EINVAL, errno.ENOTSOCK])
async def test_socket_that_is_none_any_more_ends_the_listening(
    listening: socket.socket, number: int
) -> None:
    with Arrivals(listening) as arrivals:

        async def failing() -> object:
            raise OSError(number, os.strerror(number))

        arrivals._listening.accept = failing  # type: ignore[method-assign,assignment]
        with pytest.raises(OSError) as raised:  # noqa: PT011
            await arrivals.next()
        assert raised.value.errno == number
