"""A load generator that sends each operation when it is due, whatever became of those before it.

Theory of operation
-------------------
Clients of a cache do not wait for one another. A generator that sends its next request only when
the last one has been answered does: while the server stalls it asks for nothing, and what would
have been asked meanwhile, and would have waited, is not measured. So here a latency counts from the
moment at which an operation was due. If a connection has to be waited for, or this program itself
is late, that counts too.

One process has many connections and one loop over them (epoll), and requests that were made
before the start. Bodies of answers are dropped by the kernel unread (`MSG_TRUNC`). That is cheap
enough to leave the cores to the servers: about 25 microseconds a request, and the rest is the
kernel's.
"""

import gc
import select
import socket
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from .farm import Operation

HEAD_BYTES = 16 * 1024
"""What is read at once of an answer whose length is not known yet."""

_nowhere = bytearray(1 << 20)


class UnreadableAnswer(Exception):
    """An answer without a length, or one that is no HTTP."""


@dataclass
class Outcome:
    """What became of operations.

    Attributes:
        latencies: seconds from when each was due to its end, by kind, of those that ended well.
        endings: how many ended otherwise, by kind and by what they ended with.
        late: by how many seconds a first request was sent late at worst.
        complete_in_time: how many had ended well when the last one was due.
        cpu_seconds: what this cost the generator.
    """

    latencies: dict[str, list[float]] = field(default_factory=dict)
    endings: Counter[str] = field(default_factory=Counter)
    late: float = 0.0
    complete_in_time: int = 0
    cpu_seconds: float = 0.0


class Connection:
    """A connection with at most one request on its way."""

    __slots__ = ("_body_left", "_head", "_out", "_poll", "operation", "sock", "step")

    def __init__(self, address: tuple[str, int], poll: select.epoll) -> None:
        self.sock = socket.create_connection(address)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setblocking(False)
        self._poll = poll
        self._poll.register(self.sock.fileno(), select.EPOLLIN)
        self._out: list[memoryview] = []
        self._head = b""
        self._body_left = -1
        self.operation: Operation | None = None
        self.step = 0

    def start(self, operation: Operation) -> None:
        """Send the first request of `operation`."""
        self.operation, self.step = operation, 0
        self._send_step()

    def send(self) -> None:
        """Send what is left of the request."""
        try:
            while self._out:
                sent = self.sock.sendmsg(self._out)
                while self._out and sent >= len(self._out[0]):
                    sent -= len(self._out.pop(0))
                if sent:
                    self._out[0] = self._out[0][sent:]
        except BlockingIOError:
            self._poll.modify(self.sock.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def receive(self) -> int:
        """Take what has come of the answer; return its status once all of it has, else 0.

        Raises:
            OSError: the connection broke, or the server closed it.
            UnreadableAnswer: there is no telling where it ends.
        """
        if self._body_left < 0:
            piece = self.sock.recv(HEAD_BYTES)
            if not piece:
                raise ConnectionResetError("closed by the server")
            head, separator, body = (self._head + piece).partition(b"\r\n\r\n")
            if not separator:
                self._head = head
                return 0
            self._head = head
            self._body_left = _length(head) - len(body)
        while self._body_left > 0:
            try:
                dropped = self.sock.recv_into(
                    _nowhere, min(self._body_left, len(_nowhere)), socket.MSG_TRUNC
                )
            except BlockingIOError:
                return 0
            if not dropped:
                raise ConnectionResetError("closed by the server")
            self._body_left -= dropped
        status = int(self._head[9:12])
        self._body_left, self._out = -1, []
        return status

    def go_on(self) -> bool:
        """Send the next request of the operation, and say whether there is one."""
        assert self.operation is not None
        self.step += 1
        if self.step == len(self.operation.requests):
            return False
        self._send_step()
        return True

    def is_to_be_closed(self) -> bool:
        """Whether the last answer said that no other request may follow on this connection."""
        return b"\r\nConnection: close" in self._head

    def close(self) -> None:
        """Close it."""
        self._poll.unregister(self.sock.fileno())
        self.sock.close()

    def _send_step(self) -> None:
        assert self.operation is not None
        request = self.operation.requests[self.step]
        self._head = b""
        self._out = [memoryview(request.head)]
        if request.body:
            self._out.append(memoryview(request.body))
        self.send()


class Generator:
    """Carries out operations, once.

    Args:
        address: of the server.
        most: connections at once; when all are busy, operations wait, which counts.
        patience: seconds after the last one was due that are waited for all to end.
    """

    def __init__(self, address: tuple[str, int], most: int = 500, patience: float = 10.0) -> None:
        self._address = address
        self._most = most
        self._patience = patience
        self._poll = select.epoll()
        self._connections: dict[int, Connection] = {}
        self._idle: list[Connection] = []
        self._outcome = Outcome()
        self._started = 0.0
        self._last_due = 0.0

    def connect(self, count: int) -> None:
        """Have so many connections ready."""
        for _ in range(count):
            self._idle.append(self._connect())

    def run(self, operations: Sequence[Operation], start: float) -> Outcome:
        """Carry out `operations`, counted from `start` in `time.monotonic()`."""
        gc.collect()
        gc.disable()
        used = time.process_time()
        waiting = deque(operations)
        self._started = start
        self._last_due = operations[-1].due if operations else 0.0
        give_up = self._last_due + self._patience
        while waiting or len(self._idle) < len(self._connections):
            now = time.monotonic() - start
            while waiting and waiting[0].due <= now and self._may_start():
                self._start(waiting.popleft(), now)
            if now > give_up:
                break
            may_wait = waiting[0].due if waiting and self._may_start() else give_up
            self._wait(may_wait - now)
            for fd, event in self._poll.poll(0):
                self._advance(self._connections[fd], event)
        self._outcome.endings["no answer in time"] += len(waiting)
        self._outcome.endings["no answer in time"] += len(self._connections) - len(self._idle)
        self._outcome.endings += Counter()  # without the zeros
        self._outcome.cpu_seconds = time.process_time() - used
        gc.enable()
        for connection in self._connections.values():
            connection.close()
        self._poll.close()
        return self._outcome

    def _may_start(self) -> bool:
        return bool(self._idle) or len(self._connections) < self._most

    def _start(self, operation: Operation, now: float) -> None:
        connection = self._idle.pop() if self._idle else self._connect()
        self._outcome.late = max(self._outcome.late, now - operation.due)
        try:
            connection.start(operation)
        except OSError as error:
            self._fail(connection, type(error).__name__)

    def _wait(self, seconds: float) -> None:
        """Wait for something to happen; epoll alone counts in milliseconds, which is too coarse."""
        select.select([self._poll.fileno()], [], [], max(0.0, seconds))

    def _advance(self, connection: Connection, event: int) -> None:
        operation = connection.operation
        try:
            if event & select.EPOLLOUT:
                self._poll.modify(connection.sock.fileno(), select.EPOLLIN)
                connection.send()
            if not event & ~select.EPOLLOUT:
                return
            status = connection.receive()
            if not status or operation is None:
                return
            wanted = operation.requests[connection.step].status
            if status != wanted:
                self._outcome.endings[f"{operation.kind}: {status}"] += 1
            elif connection.go_on():
                return
            else:
                self._note(operation)
        except (OSError, UnreadableAnswer) as error:
            self._fail(connection, type(error).__name__)
            return
        connection.operation = None
        if connection.is_to_be_closed():
            self._drop(connection)
        else:
            self._idle.append(connection)

    def _note(self, operation: Operation) -> None:
        now = time.monotonic() - self._started
        self._outcome.latencies.setdefault(operation.kind, []).append(now - operation.due)
        self._outcome.complete_in_time += now <= self._last_due

    def _fail(self, connection: Connection, reason: str) -> None:
        """An operation ends with its connection; one without an operation just goes."""
        if connection.operation is None:
            self._idle.remove(connection)
        else:
            self._outcome.endings[f"{connection.operation.kind}: {reason}"] += 1
        self._drop(connection)

    def _connect(self) -> Connection:
        connection = Connection(self._address, self._poll)
        self._connections[connection.sock.fileno()] = connection
        return connection

    def _drop(self, connection: Connection) -> None:
        del self._connections[connection.sock.fileno()]
        connection.close()


def _length(head: bytes) -> int:
    """How many bytes of body come after the head of an answer."""
    lowered = head.lower()
    at = lowered.find(b"\r\ncontent-length:")
    if at >= 0:
        return int(lowered[at + 17 :].partition(b"\r\n")[0])
    if head[9:12] in (b"204", b"304"):
        return 0
    raise UnreadableAnswer(head)
