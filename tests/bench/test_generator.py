"""The generator counts from when an operation was due, and says what went wrong."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .farm import Operation, Request
from .generator import Generator

GET = Request(b"GET / HTTP/1.1\r\n\r\n", b"", 200)
BIG = Request(b"POST / HTTP/1.1\r\nContent-Length: 3000000\r\n\r\n", bytes(3_000_000), 204)
FOUND = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000)

GUARD = 60.0
"""Seconds after which a test hangs; nothing takes as long."""

STALL = 0.3


@contextmanager
def server(answer: Callable[[int], bytes]) -> Iterator[tuple[str, int]]:
    """Answers each request, by its number, after all of it has been received."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        counted = iter(range(1000))

        def serve(connection: socket.socket) -> None:
            with connection, connection.makefile("rb") as received:
                while line := received.readline():
                    length = 0
                    while line.strip():
                        if line.startswith(b"Content-Length: "):
                            length = int(line[16:])
                        line = received.readline()
                    received.read(length)
                    connection.sendall(answer(next(counted)))

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()
        listener.shutdown(socket.SHUT_RDWR)


def test_what_is_due_while_the_server_stalls_has_waited() -> None:
    def stall_once(number: int) -> bytes:
        time.sleep(STALL if number == 0 else 0)
        return FOUND

    due = [Operation(number * STALL / 10, "read", (GET,)) for number in range(10)]
    with server(stall_once) as address:
        outcome = Generator(address, most=1, patience=GUARD).run(due, time.monotonic())
    latencies = outcome.latencies["read"]
    assert not outcome.endings
    assert latencies[0] >= STALL
    assert latencies[5] >= STALL / 2, "it was due in the middle of the stall"
    assert outcome.late >= STALL * 0.8, "one connection had to do"


def test_operations_do_not_wait_for_one_another() -> None:
    count = 10
    others = threading.Barrier(count, timeout=GUARD)

    def answer_together(_number: int) -> bytes:
        others.wait()
        return FOUND

    due = [Operation(number / 1000, "read", (GET,)) for number in range(count)]
    with server(answer_together) as address:
        outcome = Generator(address, patience=GUARD).run(due, time.monotonic())
    assert len(outcome.latencies["read"]) == count


def test_requests_of_an_operation_come_one_after_the_other() -> None:
    answers = [b"HTTP/1.1 204 No Content\r\n\r\n", FOUND]
    with server(answers.__getitem__) as address:
        outcome = Generator(address, patience=GUARD).run(
            [Operation(0, "store", (BIG, GET))], time.monotonic()
        )
    assert len(outcome.latencies["store"]) == 1
    assert not outcome.endings


def test_wrong_answers_and_none_are_told() -> None:
    answers = [
        b"HTTP/1.1 409 Conflict\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\n\r\n",
    ]
    due = [Operation(number / 100, "put", (GET,)) for number in range(2)]
    with server(answers.__getitem__) as address:
        outcome = Generator(address, patience=GUARD).run(due, time.monotonic())
    assert not outcome.latencies
    assert outcome.endings == {"put: 409": 1, "put: UnreadableAnswer": 1}
    with server(lambda _: b"") as address:
        outcome = Generator(address, patience=0.1).run(due[:1], time.monotonic())
    assert not outcome.latencies
    assert outcome.endings == {"no answer in time": 1}
