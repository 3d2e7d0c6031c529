"""Whether one project that stores as fast as it can keeps another waiting.

`python -m tests.bench.fairness`: one project stores over 200 connections as fast as it is let,
another one artifact a second; and the latter also alone. The two take turns of a few seconds, in
one run on one machine, and what counts is the ratio: beside the other it is to take at most
`MAX_TIMES` as long as alone, at the 99th percentile. With `--nginx wheel` or `debian`, nginx is in
front.
"""

import http.client
import itertools
import multiprocessing
import select
import socket
import sys
import time
from contextlib import ExitStack
from multiprocessing.synchronize import Event
from uuid import uuid4

import click

from cache_actors.cli.dev.tuist import StandInTuist
from tests.support.nginx import nginx_before
from tests.support.service import Service, running_service

from .contestants import scratch_folder, storage_in
from .figures import percentile
from .names import SMALL, payload

CONNECTIONS = 200
MAX_TIMES = 3.0
PHASE_SECONDS = 10.0
SETTLE_SECONDS = 1.0
"""After a change, during which nothing is measured."""

GREEDY, MODEST = "greedy/app", "modest/app"


def head(project: str) -> bytes:
    """The head of an upload of a new artifact."""
    account, name = project.split("/")
    query = f"account_handle={account}&project_handle={name}"
    return (
        f"POST /api/cache/cas/{uuid4().hex.upper()}?{query} HTTP/1.1\r\nHost: cache\r\n"
        f"Authorization: Bearer {account}\r\nContent-Length: {SMALL}\r\n\r\n"
    ).encode()


def store_greedily(port: int, go: Event, over: Event, stored: "multiprocessing.Queue[int]") -> None:
    """Store over all connections as fast as answers come, whenever `go` is set."""
    body, number = payload(SMALL), 0
    poll = select.epoll()
    connections: dict[int, socket.socket] = {}
    for _ in range(CONNECTIONS):
        connection = socket.create_connection(("127.0.0.1", port))
        connections[connection.fileno()] = connection
        poll.register(connection, select.EPOLLIN)
    while not over.is_set():
        if not go.wait(0.1):
            continue
        for connection in connections.values():
            connection.sendall(head(GREEDY) + body)
        waiting = len(connections)
        while waiting:
            for fd, _ in poll.poll(1.0):
                answer = connections[fd].recv(65536)
                assert answer.startswith(b"HTTP/1.1 204"), answer
                number += 1
                if go.is_set():
                    connections[fd].sendall(head(GREEDY) + body)
                else:
                    waiting -= 1
    stored.put(number)


def store_modestly(port: int, seconds: float, every: float) -> list[float]:
    """Store an artifact every now and then, and return how many seconds each has taken."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.connect()
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    body, took = payload(SMALL), []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        connection.sock.sendall(head(MODEST) + body)
        answer = connection.sock.recv(65536)
        took.append(time.monotonic() - began)
        assert answer.startswith(b"HTTP/1.1 204"), answer
        time.sleep(max(0.0, every - took[-1]))
    connection.close()
    return took


@click.command()
@click.option("--seconds", default=300.0, show_default=True, help="Of each of the two, in all.")
@click.option("--every", default=1.0, show_default=True, help="Seconds between two artifacts.")
@click.option("--nginx", type=click.Choice(["wheel", "debian"]), help="What is in front.")
@click.option("--workers", default="1", show_default=True)
def main(seconds: float, every: float, nginx: str | None, workers: str) -> None:
    """Measure, print, and end with 1 if it takes more than `MAX_TIMES` as long."""
    go, over = multiprocessing.Event(), multiprocessing.Event()
    stored: multiprocessing.Queue[int] = multiprocessing.Queue()
    tokens = {project.split("/")[0]: [project] for project in (GREEDY, MODEST)}
    with ExitStack() as stack:
        storage = storage_in(stack.enter_context(scratch_folder()), "cas")
        tuist = stack.enter_context(StandInTuist(tokens))
        service = Service(storage, tuist.url, {"WORKERS": workers, "LOG_LEVEL": "warning"})
        stack.enter_context(running_service(service))
        port = service.port
        if nginx is not None:
            upstream = f"127.0.0.1:{service.port}"
            port = stack.enter_context(nginx_before(upstream, storage, nginx)).port
        greedy = multiprocessing.Process(target=store_greedily, args=(port, go, over, stored))
        greedy.start()
        store_modestly(port, SETTLE_SECONDS, every)
        alone: list[float] = []
        beside: list[float] = []
        busy = 0.0
        for phase in itertools.count():
            took = beside if phase % 2 else alone
            if phase % 2:
                go.set()
            store_modestly(port, SETTLE_SECONDS, every)
            took += store_modestly(port, min(seconds, PHASE_SECONDS), every)
            if phase % 2:
                go.clear()
                busy += SETTLE_SECONDS + min(seconds, PHASE_SECONDS)
            if busy >= seconds:
                break
        over.set()
        count = stored.get()
        greedy.join()
    for name, took in ("alone", alone), ("beside", beside):
        figures = ", ".join(f"p{q} {percentile(sorted(took), q) * 1000:.1f}" for q in (50, 90, 99))
        click.echo(f"{name:8} {figures} ms, of {len(took)}")
    times = percentile(sorted(beside), 99) / percentile(sorted(alone), 99)
    click.echo(f"beside {count / busy:.0f} a second of the other: {times:.1f} times as long")
    sys.exit(times > MAX_TIMES)


if __name__ == "__main__":
    main()
