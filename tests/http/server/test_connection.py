"""A connection answers one request after another, and reads no more than is asked for."""

import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import structlog
import trio
import trio.testing
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, Scope

from cache_actors.http.errors import BodyStalled
from cache_actors.http.server import connection as module
from cache_actors.http.server.connection import Connection
from cache_actors.http.server.in_flight import InFlight
from cache_actors.http.server.plain import READ_IN_THREAD
from tests.support.waiting import eventually_async

Handler = Callable[[Scope, ASGIReceiveCallable, ASGISendCallable], Awaitable[None]]


GET = b"GET /no-%d HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
PATIENCE = 120.0


class App:
    """An ASGI application, as far as connections need one.

    Attributes:
        handler: answers requests; one that says their path, unless it is replaced.
        paths: what has been asked for.
    """

    body_timeout = 30.0
    min_body_rate = 256

    def __init__(self) -> None:
        self.in_flight = InFlight()
        self.events: list[str] = []
        self.paths: list[str] = []
        self.handler: Handler = say_path

    @property
    def log(self) -> Any:
        """A log that remembers the names of events."""

        def remember(_logger: object, _method: str, event: Any) -> Any:
            self.events.append(event["event"])
            raise structlog.DropEvent

        return structlog.wrap_logger(None, processors=[remember])

    def record_refusal(self, _request_id: str, status: int, *_: str) -> None:
        """A log of what was no request."""
        self.events.append(f"refused {status}")

    async def __call__(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        with self.in_flight.one():
            self.paths.append(scope["path"])  # type: ignore[typeddict-item]
            await self.handler(scope, receive, send)


async def body_of(receive: ASGIReceiveCallable) -> bytes:
    """All of a request's body."""
    body = b""
    while True:
        message: Any = await receive()
        body += bytes(message.get("body", b""))
        if not message.get("more_body"):
            return body


async def answer(send: ASGISendCallable, *pieces: bytes) -> None:
    """Send a response of these pieces."""
    length = str(sum(map(len, pieces))).encode()
    headers = [(b"content-length", length)]
    start: Any = {"type": "http.response.start", "status": 200, "headers": headers}
    await send(start)
    for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def say_path(scope: Any, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Answer with the path of the request."""
    await body_of(receive)
    await answer(send, scope["path"].encode())


async def say_body(_scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Answer with the body of the request."""
    await answer(send, await body_of(receive))


def held(handler: Handler) -> tuple[Handler, trio.Event]:
    """A handler that does nothing before the event is set."""
    go_on = trio.Event()

    async def wait(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await go_on.wait()
        await handler(scope, receive, send)

    return wait, go_on


class Client:
    """The other end of a connection."""

    def __init__(self, stream: trio.SocketStream, connection: Connection) -> None:
        self.stream = stream
        self.connection = connection
        self._received = b""

    async def send(self, data: bytes) -> None:
        """Send all of `data`."""
        await self.stream.send_all(data)

    async def read_until(self, end: bytes) -> bytes:
        """What comes up to `end`, which is an error if it does not come."""
        with trio.fail_after(PATIENCE):
            while end not in self._received:
                piece = await self.stream.receive_some()
                assert piece, f"it ended after {self._received!r}"
                self._received += piece
        found, _, self._received = self._received.partition(end)
        return found + end

    async def read_to_end(self) -> bytes:
        """All that comes until the connection is closed."""
        with trio.fail_after(PATIENCE):
            try:
                while piece := await self.stream.receive_some():
                    self._received += piece
            except trio.BrokenResourceError:
                pass
        return self._received


@pytest.fixture(params=["plain", "h11"])
def app(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> App:
    """An application whose requests are all plain, or all left to h11."""
    if request.param == "h11":
        monkeypatch.setattr(module, "plain_request", lambda _data, _most: None)
    return App()


@asynccontextmanager
async def connected(app: App) -> AsyncIterator[Client]:
    """A client of `app`; its connection is cut in the end."""
    ours, theirs = socket.socketpair()
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
    config = Config()
    config.accesslog = config.errorlog = None
    connection = Connection(app, config, WorkerContext(None), stream)  # type: ignore[arg-type]
    client = Client(trio.SocketStream(trio.socket.from_stdlib_socket(ours)), connection)
    async with trio.open_nursery() as nursery, client.stream:
        nursery.start_soon(connection.run)
        yield client
        nursery.cancel_scope.cancel()


async def test_nothing_is_read_that_nobody_asks_for(app: App) -> None:
    app.handler, go_on = held(say_body)
    body = b"x" * 100_000
    head = POST % len(body)
    async with connected(app) as client:
        await client.send(head + body)
        await trio.testing.wait_all_tasks_blocked(0.01)
        unread = client.connection._socket.recv(1_000_000, socket.MSG_PEEK)
        assert len(unread) == len(head + body) - module.FIRST_READ
        go_on.set()
        await client.read_until(body)


def note_stalls(app: App, words: bytes) -> list[str]:
    """Have `app` read the body and answer with `words`; what is returned gets why it gave up."""
    stalled: list[str] = []

    async def wait(scope: Any, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        try:
            await body_of(receive)
        except BodyStalled as error:
            stalled.append(str(error))
        await answer(send, words)

    app.handler = wait
    return stalled


async def test_body_that_stops_is_given_up(
    app: App, autojump_clock: trio.testing.MockClock
) -> None:
    stalled = note_stalls(app, b"too late")
    began = trio.current_time()
    async with connected(app) as client:
        await client.send(POST % 10 + b"half")
        await client.read_until(b"too late")
    assert stalled == ["Too little of the body has come for 30 seconds"]
    assert trio.current_time() - began >= app.body_timeout


async def test_slow_but_steady_body_is_not_given_up(
    app: App, autojump_clock: trio.testing.MockClock
) -> None:
    """What counts is progress, so a whole upload may take longer."""
    pieces = [bytes([number]) * 27 * app.min_body_rate for number in range(1, 6)]
    body: list[bytes] = []

    async def keep(scope: Any, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        body.append(await body_of(receive))
        await answer(send, b"done")

    app.handler = keep
    began = trio.current_time()
    async with connected(app) as client:
        await client.send(POST % sum(map(len, pieces)))
        for piece in pieces:
            await trio.sleep(27)
            await client.send(piece)
        await client.read_until(b"\r\n\r\ndone")
    assert body == [b"".join(pieces)]
    assert trio.current_time() - began > app.body_timeout


async def test_client_that_does_not_read_is_given_up(
    app: App, autojump_clock: trio.testing.MockClock
) -> None:
    async def answer_much(_: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await body_of(receive)
        await answer(send, b"x" * 10_000_000)

    app.handler = answer_much
    began = trio.current_time()
    async with connected(app) as client:
        await client.send(GET % 1)
        while not client.connection.ended:  # noqa: ASYNC110
            await trio.sleep(1)
    assert began + module.SEND_SECONDS <= trio.current_time() < began + module.SEND_SECONDS + 2
    assert app.events == []


async def test_idle_connection_can_be_closed(app: App) -> None:
    async with connected(app) as client:
        await client.send(GET % 1)
        await client.read_until(b"/no-1")
        client.connection.end_if_idle(trio.current_time())
        assert await client.read_to_end() == b""


@pytest.mark.parametrize("start", [b"", b"GET /1 HT"])
async def test_connection_without_a_whole_request_is_closed_without_a_word(
    app: App, start: bytes
) -> None:
    async with connected(app) as client:
        await client.send(start)
        await trio.testing.wait_all_tasks_blocked(0.01)
        client.connection.end_if_idle(trio.current_time())
        assert await client.read_to_end() == b""


async def test_connection_that_has_not_been_idle_for_long_stays(app: App) -> None:
    async with connected(app) as client:
        client.connection.end_if_idle(trio.current_time() - 1)
        await client.send(GET % 1)
        await client.read_until(b"/no-1")


async def test_connection_that_answers_is_not_idle(app: App) -> None:
    app.handler, go_on = held(say_path)
    async with connected(app) as client:
        await client.send(GET % 1)
        await trio.testing.wait_all_tasks_blocked(0.01)
        client.connection.end_if_idle(trio.current_time())
        go_on.set()
        await client.read_until(b"/no-1")
        await client.send(GET % 2)
        await client.read_until(b"/no-2")


async def test_request_that_comes_while_its_connection_is_being_closed_is_answered(
    app: App,
) -> None:
    async with connected(app) as client:
        await trio.testing.wait_all_tasks_blocked()
        client.connection._socket.setblocking(False)
        client.stream.socket._sock.send(GET % 1)  # type: ignore[attr-defined]
        client.connection.end_if_idle(trio.current_time())
        assert (await client.read_to_end()).endswith(b"/no-1")


async def test_application_that_crashes_is_answered_for_and_ends_its_connection(app: App) -> None:
    async def crash(_: Scope, _receive: ASGIReceiveCallable, _send: ASGISendCallable) -> None:
        raise ZeroDivisionError

    app.handler = crash
    async with connected(app) as client:
        await client.send(GET % 1)
        assert (await client.read_to_end()).startswith(b"HTTP/1.1 500")
    assert app.events == ["connection_crashed"]


async def test_request_that_is_cut_is_not_answered(app: App) -> None:
    app.handler, _ = held(say_path)
    ours: trio.SocketStream
    async with connected(app) as client:
        await client.send(GET % 1)
        await trio.testing.wait_all_tasks_blocked(0.01)
        ours = trio.SocketStream(trio.socket.from_stdlib_socket(client.stream.socket._sock.dup()))  # type: ignore[attr-defined]
    async with ours:
        with trio.fail_after(PATIENCE):
            assert await ours.receive_some() == b""
    assert app.events == []


async def test_client_that_leaves_in_the_middle_ends_its_connection(app: App) -> None:
    app.handler = say_body
    async with connected(app) as client:
        await client.send(POST % 10 + b"half")
        await trio.testing.wait_all_tasks_blocked(0.01)
        await client.stream.aclose()
        await eventually_async(lambda: client.connection.ended)
    assert app.events == []


@pytest.mark.parametrize("first", [1, 100_000], ids=["from the start", "after a burst"])
async def test_body_that_comes_byte_by_byte_is_given_up(
    app: App, autojump_clock: trio.testing.MockClock, first: int
) -> None:
    """Each byte comes in time; but patience is won back by the byte, and never saved up."""
    stalled = note_stalls(app, b"too slow")
    async with connected(app) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n")
        await client.send(b"x" * first)
        began = trio.current_time()
        with suppress(trio.BrokenResourceError):  # the connection is closed
            while True:
                await trio.sleep(app.body_timeout / 10)
                await client.send(b"x")
        assert stalled == ["Too little of the body has come for 30 seconds"]
        assert trio.current_time() - began <= 2 * app.body_timeout


async def test_without_a_least_rate_only_a_pause_is_too_long(
    app: App, autojump_clock: trio.testing.MockClock
) -> None:
    app.handler = say_body
    app.min_body_rate = 0
    began = trio.current_time()
    async with connected(app) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n")
        for piece in (b"s", b"t", b"e", b"a", b"d"):
            await trio.sleep(app.body_timeout * 0.9)
            await client.send(piece)
        await client.read_until(b"\r\n\r\nstead")
    assert trio.current_time() - began > 4 * app.body_timeout


def responding(
    *pieces: bytes, status: int = 200, headers: dict[bytes, bytes], ends: bool = True
) -> Handler:
    """A handler that answers with these pieces and headers, whether or not they fit."""

    async def respond(_: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await body_of(receive)
        fields = list(headers.items())
        start: Any = {"type": "http.response.start", "status": status, "headers": fields}
        await send(start)
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        if ends:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    return respond


LENGTH = b"content-length"


@pytest.mark.parametrize(
    ("handler", "received", "crashes"),
    [
        (responding(b"ab", headers={LENGTH: b"3"}), b"\r\n\r\nab", None),
        (responding(b"ab", headers={LENGTH: b"2"}, ends=False), b"\r\n\r\nab", False),
        (responding(b"ab", b"cd", headers={LENGTH: b"3"}), b"\r\n\r\nab", True),
        (responding(b"ab", headers={LENGTH: b"2", b"connection": b"close"}), b"\r\n\r\nab", False),
        (responding(headers={LENGTH: b"0", b"x": b"y\r\nz: z"}), b"", None),
    ],
    ids=["too short", "without its end", "too long", "closes", "line end in a header"],
)
async def test_response_after_which_there_can_be_no_other_ends_the_connection(
    app: App, handler: Handler, received: bytes, crashes: bool | None
) -> None:
    app.handler = handler
    async with connected(app) as client:
        await client.send(GET % 1 + GET % 2)
        answer_ = await client.read_to_end()
    assert app.paths == ["/no-1"]
    assert answer_.endswith(received)
    assert b"z: z" not in answer_
    if crashes is not None:
        assert bool(app.events) is crashes


@pytest.mark.parametrize("status", [204, 304])
async def test_response_that_has_no_body_is_sent_without_one(app: App, status: int) -> None:
    app.handler = responding(b"abc", status=status, headers={})
    async with connected(app) as client:
        for number in range(3):
            await client.send(GET % number)
            head = await client.read_until(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 %d" % status)
        assert client._received == b""


async def test_client_that_ends_its_side_in_the_middle_of_a_body_is_told(app: App) -> None:
    app.handler = say_body
    async with connected(app) as client:
        await client.send(POST % 10 + b"half")
        await trio.testing.wait_all_tasks_blocked(0.01)
        await client.stream.send_eof()
        assert (await client.read_to_end()).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(("status", "body"), [(401, b"no"), (204, b"")])
async def test_client_that_ends_its_side_behind_the_answer_gets_no_other_one(
    app: App, status: int, body: bytes
) -> None:
    """The rest of the body is dropped between the answer's last piece and its end."""

    async def refuse(_: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        headers = [(LENGTH, b"%d" % len(body))] if body else []
        start: Any = {"type": "http.response.start", "status": status, "headers": headers}
        await send(start)
        if body:
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await body_of(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    app.handler = refuse
    async with connected(app) as client:
        await client.send(POST % 10 + b"half")
        await trio.testing.wait_all_tasks_blocked(0.01)
        await client.stream.send_eof()
        received = await client.read_to_end()
    assert received.startswith(b"HTTP/1.1 %d " % status)
    assert received.count(b"HTTP/1.1") == 1
    assert received.endswith(b"\r\n\r\n" + body)


async def test_thread_reads_on_in_a_body_and_nothing_behind_it() -> None:
    app, by_threads = App(), 0

    async def read_in_turns(
        scope: Any, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        nonlocal by_threads
        read, buffer = scope["extensions"][READ_IN_THREAD]["read"], bytearray(5000)
        body = b""
        while len(body) < len(content):
            if size := await trio.to_thread.run_sync(read, memoryview(buffer)):
                by_threads += size
                body += buffer[:size]
            else:
                message: Any = await receive()
                body += message["body"]
        assert read(memoryview(buffer)) == 0
        app.handler = say_path
        await answer(send, body)

    app.handler = read_in_turns
    content = random.randbytes(100_000)
    async with connected(app) as client:
        await client.send(POST % len(content) + content[:7000])
        await trio.testing.wait_all_tasks_blocked(0.01)
        await client.send(content[7000:] + GET % 1)
        await client.read_until(b"\r\n\r\n" + content)
        await client.read_until(b"/no-1")
    assert by_threads > 5000  # some of what came with the head, and some of what came later


async def test_requests_that_come_together_are_answered_one_after_another(app: App) -> None:
    app.handler = say_body
    async with connected(app) as client:
        await client.send(b"".join(POST % 1 + b"%d" % number for number in range(5)))
        for number in range(5):
            await client.read_until(b"\r\n\r\n%d" % number)
