"""The pool and its links: which worker gets a connection, and what becomes of it when one ends."""

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager

import msgspec
import pytest
import trio
import trio.testing

from cache_actors.workers.link import MOST_UNTAKEN, SLOW_SECONDS, Link
from cache_actors.workers.messages import CONNECTION, Drain, Progress
from cache_actors.workers.pool import Pool
from tests.supervision.small_actors import Task


class WorkerEnd:
    """A worker as its parent sees it: the other end of a link."""

    def __init__(self, pool: Pool, sock: socket.socket, link: Link) -> None:
        self._pool = pool
        self._sock = sock
        self._link = link

    async def say(self, progress: Progress) -> None:
        """Tell the parent how far it is, and let that have its effect."""
        self._sock.send(msgspec.json.encode(progress))
        assert await self._link.receive() == progress
        self._pool.spread()

    def received(self) -> list[int]:
        """The ports of the clients whose connections it has been handed since the last time."""
        ports = []
        try:
            while True:
                message, descriptors, _, _ = socket.recv_fds(self._sock, 4096, 1)
                assert message == CONNECTION
                with socket.socket(fileno=descriptors[0]) as connection:
                    ports.append(connection.getpeername()[1])
        except BlockingIOError:
            return ports

    def drain(self) -> Drain:
        """What it has been told instead of being handed a connection."""
        return msgspec.json.decode(self._sock.recv(4096), type=Drain)


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    pool = Pool()
    yield pool
    pool.close()


@contextmanager
def worker_of(pool: Pool) -> Iterator[WorkerEnd]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setblocking(False)
    with ours, theirs:
        link = Link(ours)
        with pool.member(link):
            yield WorkerEnd(pool, theirs, link)


@pytest.fixture
async def worker(pool: Pool) -> AsyncIterator[WorkerEnd]:
    with worker_of(pool) as worker:
        yield worker


@pytest.fixture
async def other(pool: Pool, worker: WorkerEnd) -> AsyncIterator[WorkerEnd]:
    """One that came after `worker`."""
    with worker_of(pool) as other:
        yield other


class Clients:
    """Clients that connect, and what is accepted of them."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.clients: dict[int, socket.socket] = {}

    def connection(self) -> tuple[socket.socket, int]:
        """An accepted connection, and the port of its client."""
        client = self._stack.enter_context(socket.create_connection(self._listener.getsockname()))
        accepted, (_, port) = self._listener.accept()
        self.clients[port] = client
        return accepted, port

    def put_into(self, pool: Pool, count: int) -> list[int]:
        """Put so many connections into a pool; return the clients' ports."""
        connections = [self.connection() for _ in range(count)]
        for connection, _ in connections:
            pool.put(connection)
        return [port for _, port in connections]


@pytest.fixture
def clients() -> Iterator[Clients]:
    with ExitStack() as stack:
        yield Clients(stack)


READY = Progress(ready=True)


async def test_connection_goes_to_the_worker_that_has_the_fewest(
    pool: Pool, worker: WorkerEnd, other: WorkerEnd, clients: Clients
) -> None:
    await worker.say(READY)
    clients.put_into(pool, 4)
    await worker.say(Progress(ready=True, taken=4, ended=1))
    await other.say(READY)
    clients.put_into(pool, 3)
    assert (len(worker.received()), len(other.received())) == (4, 3)
    clients.put_into(pool, 2)
    assert (len(worker.received()), len(other.received())) == (1, 1)


async def test_worker_that_takes_nothing_for_a_while_gets_no_more_until_it_does(
    pool: Pool,
    worker: WorkerEnd,
    other: WorkerEnd,
    clients: Clients,
    autojump_clock: trio.testing.MockClock,
) -> None:
    await worker.say(READY)
    await other.say(READY)
    clients.put_into(pool, 4)
    await other.say(Progress(ready=True, taken=2))
    await trio.sleep(SLOW_SECONDS + 0.1)
    clients.put_into(pool, 2)
    assert (len(worker.received()), len(other.received())) == (2, 4)
    await worker.say(Progress(ready=True, taken=2))
    clients.put_into(pool, 2)
    assert (len(worker.received()), len(other.received())) == (2, 0)


async def test_worker_that_is_not_ready_gets_nothing(
    pool: Pool, worker: WorkerEnd, other: WorkerEnd, clients: Clients
) -> None:
    ports = clients.put_into(pool, 2)
    assert other.received() == []
    await worker.say(READY)
    assert worker.received() == ports
    assert other.received() == []


async def test_connections_wait_for_room(
    pool: Pool, worker: WorkerEnd, clients: Clients, nursery: trio.Nursery
) -> None:
    await worker.say(READY)
    await pool.wait_for_room()
    ports = clients.put_into(pool, MOST_UNTAKEN)
    assert worker.received() == ports
    room = Task[None]()
    nursery.start_soon(room.run, pool.wait_for_room())
    late = clients.put_into(pool, 1)
    await trio.testing.wait_all_tasks_blocked()
    assert worker.received() == []
    assert not room.is_done()
    await worker.say(Progress(ready=True, taken=2))
    assert worker.received() == late
    await room.result()


async def test_what_a_worker_had_not_taken_goes_to_another_when_it_ends(
    pool: Pool, other: WorkerEnd, clients: Clients
) -> None:
    with worker_of(pool) as worker:
        await worker.say(READY)
        ports = clients.put_into(pool, 5)
        await worker.say(Progress(ready=True, taken=2))
        await other.say(READY)
        assert other.received() == []
    assert other.received() == ports[2:]


async def test_what_a_worker_had_not_taken_goes_to_another_when_it_closes(
    pool: Pool, worker: WorkerEnd, other: WorkerEnd, clients: Clients
) -> None:
    await worker.say(READY)
    ports = clients.put_into(pool, 3)
    await other.say(READY)
    await worker.say(Progress(ready=True, taken=1, closed=True))
    assert other.received() == ports[1:]
    later = clients.put_into(pool, 1)
    assert other.received() == later


async def test_worker_whose_end_is_not_known_yet_loses_nothing(
    pool: Pool, other: WorkerEnd, clients: Clients
) -> None:
    with worker_of(pool) as worker:
        await worker.say(READY)
        worker._sock.close()
        ports = clients.put_into(pool, 3)
        await other.say(READY)
    assert sorted(other.received()) == sorted(ports)


async def test_all_are_told_to_drain_and_waited_for(
    pool: Pool, worker: WorkerEnd, other: WorkerEnd, nursery: trio.Nursery
) -> None:
    await worker.say(READY)
    assert not pool.is_draining()
    pool.drain(replaced=True)
    assert pool.is_draining()
    assert worker.drain() == other.drain() == Drain(replaced=True)
    closed = Task[None]()
    nursery.start_soon(closed.run, pool.wait_closed())
    await worker.say(Progress(ready=True, closed=True))
    await trio.testing.wait_all_tasks_blocked()
    assert not closed.is_done()
    await other.say(Progress(closed=True))
    await closed.result()


async def test_what_nobody_takes_is_closed_in_the_end(pool: Pool, clients: Clients) -> None:
    (port,) = clients.put_into(pool, 1)
    pool.close()
    assert clients.clients[port].recv(1) == b""
