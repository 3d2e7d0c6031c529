"""The worker's end of the channel: it takes connections, and says how far it is."""

import socket
from collections.abc import Iterator

import msgspec
import pytest
import trio
import trio.testing

from cache_actors.workers.connection_receiver import ConnectionReceiver
from cache_actors.workers.protocol import CONNECTION, Drain, Progress
from tests.support.waiting import LIMIT


@pytest.fixture
def channel() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The parent's end and the worker's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


class Parent:
    """The parent's end."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = trio.socket.from_stdlib_socket(sock)
        self._stdlib = sock

    async def hand(self) -> trio.SocketStream:
        """Hand a connection over, and return the client's end of it."""
        client, accepted = socket.socketpair()
        with accepted:
            socket.send_fds(self._stdlib, [CONNECTION], [accepted.fileno()])
        return trio.SocketStream(trio.socket.from_stdlib_socket(client))

    async def hears(self) -> Progress:
        """What the worker says next."""
        with trio.fail_after(LIMIT):
            return msgspec.json.decode(await self.sock.recv(4096), type=Progress)


class Worker:
    """Runs the worker's end, with a handler that sends back what comes."""

    def __init__(self, sock: socket.socket) -> None:
        self.connections = ConnectionReceiver(sock)
        self.stop = trio.Event()
        self.ended = trio.Event()
        self.serving = trio.CancelScope()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.connections.follow_parent, self.stop, nursery.cancel_scope)
            nursery.start_soon(self.connections.report_progress, self.stop, nursery.cancel_scope)
            with self.serving:
                await self.connections.serve(_send_back, nursery)
        self.ended.set()


async def _send_back(stream: trio.SocketStream) -> None:
    async for data in stream:
        await stream.send_all(data)


@pytest.fixture
def parent(channel: tuple[socket.socket, socket.socket]) -> Parent:
    return Parent(channel[0])


@pytest.fixture
def worker(channel: tuple[socket.socket, socket.socket], nursery: trio.Nursery) -> Worker:
    worker = Worker(channel[1])
    nursery.start_soon(worker.run)
    return worker


async def test_connection_is_taken_handled_and_ended(parent: Parent, worker: Worker) -> None:
    worker.connections.announce()
    assert await parent.hears() == Progress(ready=True)
    client = await parent.hand()
    assert await parent.hears() == Progress(ready=True, taken=1)
    await client.send_all(b"abc")
    assert await client.receive_some() == b"abc"
    await client.aclose()
    assert await parent.hears() == Progress(ready=True, taken=1, ended=1)


async def test_drain_sets_stop_and_says_who_has_taken_over(parent: Parent, worker: Worker) -> None:
    assert not worker.connections.is_replaced()
    await parent.sock.send(msgspec.json.encode(Drain(replaced=True)))
    with trio.fail_after(LIMIT):
        await worker.stop.wait()
    assert worker.connections.is_replaced()


async def test_worker_that_has_been_replaced_is_so_though_its_supervisor_drains_it_again(
    parent: Parent, worker: Worker
) -> None:
    for replaced in (True, False):
        await parent.sock.send(msgspec.json.encode(Drain(replaced=replaced)))
    client = await parent.hand()
    await parent.hears()  # and has received what came before the connection
    assert worker.connections.is_replaced()
    await client.aclose()


async def test_closed_worker_takes_nothing_that_still_comes(parent: Parent, worker: Worker) -> None:
    worker.serving.cancel()
    await trio.testing.wait_all_tasks_blocked()
    worker.connections.close()
    assert await parent.hears() == Progress(closed=True)
    client = await parent.hand()
    with trio.fail_after(LIMIT):
        assert await client.receive_some() == b""
    await client.aclose()


async def test_connection_waits_for_the_next_incarnation_of_the_listener(
    parent: Parent, worker: Worker, nursery: trio.Nursery
) -> None:
    worker.serving.cancel()
    client = await parent.hand()
    await client.send_all(b"abc")
    await trio.testing.wait_all_tasks_blocked()
    nursery.start_soon(worker.connections.serve, _send_back, nursery)
    with trio.fail_after(LIMIT):
        assert await client.receive_some() == b"abc"
    await client.aclose()


async def test_connection_without_a_free_descriptor_is_counted_as_ended(
    parent: Parent, worker: Worker
) -> None:
    await parent.sock.send(CONNECTION)
    assert await parent.hears() == Progress(taken=1, ended=1)


async def test_end_of_the_parent_cancels_everything(parent: Parent, worker: Worker) -> None:
    parent.sock.close()
    with trio.fail_after(LIMIT):
        await worker.ended.wait()
