"""A connection: reads requests from a socket, one after another, and answers each in the same task.

Of Hypercorn's parts it uses the HTTP/1.1 protocol and its side of ASGI. Hypercorn starts a task for
each request, another that waits for the connection to be idle for too long, and pushes what it
reads to the first. Here the application *pulls*: it runs in the connection's task, and what it asks
for is read from the socket then. So nothing is read that nobody wants yet, and a request costs no
task, no channel and no timer. Plain requests, which nearly all are, do without the protocol too
(`plain.py`). With that come these differences:

* It speaks HTTP/1.1 and 1.0 only. An upgrade, to WebSocket or HTTP/2, is ignored, as RFC 9110
  (section 7.8) allows: the request is answered as if it had not been asked for.
* What a connection raises ends that connection only.
* A client that sends a body too slowly is given up; see `Connection.read`.
* A client that does not read its response for `SEND_SECONDS` is given up.
* Errors in the protocol are answered with JSON, as all others are.
* The head of a response goes out with what follows it.
* Who closes idle connections is the listener; see `Connection.end_if_idle`.
"""

from __future__ import annotations

import select
import socket
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from itertools import chain
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import h11
import trio
from hypercorn.events import Closed, RawData
from hypercorn.protocol.events import EndBody, Response
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.typing import ConnectionState, LifespanState
from hypercorn.utils import parse_socket_addr

from cache_actors.http.errors import BodyStalled, error_body
from cache_actors.http.request_id import request_id

from .plain import PlainExchange, plain_request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hypercorn.config import Config
    from hypercorn.events import Event
    from hypercorn.protocol.events import Event as StreamEvent
    from hypercorn.trio.worker_context import WorkerContext
    from hypercorn.typing import (
        AppWrapper,
        ASGIReceiveEvent,
        ASGISendEvent,
        Scope,
    )

    from cache_actors.http.app import CacheApp

    from .plain import PlainRequest

SEND_SECONDS = 60.0
"""Longest time that a client may take to receive one piece of a response (1 MiB at most), in
seconds."""

MAX_HEADER_BYTES = 16 * 1024
"""Largest head, in bytes, without the token, which has a limit of its own; largest target too."""

FIRST_READ = 16 * 1024
MIN_READ, MAX_READ = 2 * 1024, 256 * 1024
READS_TOGETHER = 6 * 1024 * 1024
"""Largest number of bytes that all requests in flight read at once. A connection reads its share of
this; with a request's head, no more of the body than a small one has, since it may have to wait.
Each byte is in memory several times on its way through the protocol."""

THREAD_WAIT = 0.001
"""Longest time that a thread waits for the next bytes of a body, in seconds: a client that keeps up
needs less, and to wait for another one is the event loop's."""


class Connection:
    """One connection, over the socket of `stream`.

    Attributes:
        idle_since: when it began to wait for a request, in `trio.current_time()`; None while one is
            being answered.
        ended: whether the request that is being answered is the last one.
    """

    def __init__(
        self, app: CacheApp, config: Config, context: WorkerContext, stream: trio.SocketStream
    ) -> None:
        # Python's own socket, whose calls do not wait: trio's would let all other tasks run first.
        self._socket = socket.socket(fileno=stream.socket.detach())
        self._socket.setblocking(False)
        self._app = app
        self._config = config
        self._context = context
        self.idle_since: float | None = trio.current_time()
        self.ended = False
        self._patience = 0.0  # seconds that the client may still have others wait for a body

    async def run(self) -> None:
        """Answer request after request, until one side closes the connection."""
        try:
            protocol = _Protocol(self, self._app, self._config, self._context, self._socket)
            while not self.ended:
                await protocol.answer_next()
                self.idle_since = trio.current_time()
        except* OSError:
            pass  # the client is gone
        except* Exception as errors:
            self._app.log.exception("connection_crashed", exc_info=errors)
        finally:
            self._socket.close()

    def begin_request(self) -> None:
        """A request has come, whose body may be on its way."""
        self.idle_since = None
        self._patience = self._app.body_timeout

    def end_if_idle(self, since: float) -> None:
        """Close the connection if it has been idle since `since`, in `trio.current_time()`.

        A request that has come meanwhile is answered.
        """
        if self.idle_since is not None and self.idle_since <= since:
            self.ended = True
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RD)

    async def read(self, most: int = MAX_READ) -> bytes:
        """The next bytes from the client, at most `most`; empty if it will send no more.

        While a request is under way, patience with its client is limited: it has `body_timeout`
        seconds in all, and wins them back with what it sends, one for each `min_body_rate`
        bytes. So neither a pause nor bytes that come one by one hold anything for long, however
        much has come before.

        Raises:
            BodyStalled: it has none left.
        """
        size = min(most, self._share(), MAX_READ if self.idle_since is None else FIRST_READ)
        waited = self.idle_since is not None
        if waited:  # as a rule nothing has come yet
            await self._wait_for_data()
        while True:
            try:
                data = self._socket.recv(size)
            except BlockingIOError:
                await self._wait_for_data()
                waited = True
            except OSError:
                return b""
            else:
                break
        self._win_patience(len(data))
        if not waited:  # a client that is fast lets others have their turn
            await trio.lowlevel.checkpoint()
        return data

    def read_in_thread(self, buffer: memoryview) -> int:
        """Read the next bytes into `buffer`, if they come within `THREAD_WAIT`; say how many.

        For a thread, while nobody else reads. 0 says nothing of the rest: `read` finds out.
        """
        try:
            try:
                size = self._socket.recv_into(buffer)
            except BlockingIOError:
                waiting = select.poll()
                waiting.register(self._socket, select.POLLIN)
                if not waiting.poll(THREAD_WAIT * 1000):
                    return 0
                size = self._socket.recv_into(buffer)
        except OSError:
            return 0
        self._win_patience(size)
        return size

    def _win_patience(self, size: int) -> None:
        if self._app.min_body_rate:
            won = size / self._app.min_body_rate
            self._patience = min(self._app.body_timeout, self._patience + won)
        else:
            self._patience = self._app.body_timeout

    async def _wait_for_data(self) -> None:
        if self.idle_since is not None:
            await trio.lowlevel.wait_readable(self._socket)
            return
        began = trio.current_time()
        try:
            with trio.fail_after(max(0.0, self._patience)):
                await trio.lowlevel.wait_readable(self._socket)
        except trio.TooSlowError:
            raise BodyStalled(self._app.body_timeout) from None
        self._patience -= trio.current_time() - began

    async def send(self, pieces: list[bytes]) -> None:
        """Send `pieces`, to a client that reads them.

        Raises:
            OSError: the client is gone, or does not read.
        """
        try:
            sent = self._socket.sendmsg(pieces)
        except BlockingIOError:
            sent = 0
        if sent < sum(map(len, pieces)):
            try:
                with trio.fail_after(SEND_SECONDS):
                    await self._send_rest(pieces, sent)
            except trio.TooSlowError:
                raise TimeoutError from None

    async def _send_rest(self, pieces: list[bytes], sent: int) -> None:
        """Send what follows the first `sent` bytes of `pieces`, when the socket takes it."""
        await trio.lowlevel.wait_writable(self._socket)
        for piece in pieces:
            with memoryview(piece) as view:
                while sent < len(piece):
                    try:
                        sent += self._socket.send(view[sent:])
                    except BlockingIOError:
                        await trio.lowlevel.wait_writable(self._socket)
            sent -= len(piece)

    def _share(self) -> int:
        in_flight = max(1, len(self._app.in_flight))
        return min(MAX_READ, max(MIN_READ, READS_TOGETHER // in_flight))


class _Inline:
    """Takes the place of Hypercorn's task group: keeps what it would start a task for."""

    scope: Scope
    send: Callable[[ASGISendEvent | None], Awaitable[None]]

    async def spawn_app(
        self,
        _app: AppWrapper,
        _config: Config,
        scope: Scope,
        send: Callable[[ASGISendEvent | None], Awaitable[None]],
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        self.scope, self.send = scope, send
        return self._drop

    async def _drop(self, _message: ASGIReceiveEvent) -> None:
        """The end of a stream needs no message: the application is in the middle of a call."""


class _Protocol(H11Protocol):
    """HTTP/1.1 and nothing else."""

    connection: h11.Connection

    def __init__(
        self,
        connection: Connection,
        app: CacheApp,
        config: Config,
        context: WorkerContext,
        sock: socket.socket,
    ) -> None:
        self._application = app
        self._connection = connection
        self._inline = _Inline()
        self._output: list[bytes] = []
        self._behind = b""  # what has come behind a plain request
        self._is_h11s_turn = False  # it has bytes of the next request already
        self._request_id = ""
        self._wants_no_body = False
        self._has_trailers = False
        self._trailers: list[tuple[bytes, bytes]] = []  # of the response, once they are known
        super().__init__(
            app,  # type: ignore[arg-type]
            config,
            context,
            self._inline,  # type: ignore[arg-type]
            ConnectionState(LifespanState()),
            False,
            parse_socket_addr(sock.family, sock.getpeername()),
            parse_socket_addr(sock.family, sock.getsockname()),
            self._take_event,
        )

    async def answer_next(self) -> None:
        """Wait for a request and answer it, or end the connection if there is none."""
        self._wants_no_body = False
        if not self._is_h11s_turn:
            data, self._behind = self._behind or await self._connection.read(), b""
            request = plain_request(data, MAX_HEADER_BYTES)
            if (
                request is not None
                and self.keep_alive_requests < self.config.keep_alive_max_requests
            ):
                await self._answer_plain(request)
                return
            self.connection.receive_data(data)
        try:
            event = await self._next_event()
        except h11.RemoteProtocolError as error:
            if not self._connection.ended:
                self._request_id = request_id("")
                self._application.record_refusal(self._request_id, error.error_status_hint)
                await self._refuse(error.error_status_hint)
            return
        if not isinstance(event, h11.Request):
            self._connection.ended = True
            return
        self._connection.begin_request()
        await self._create_stream(event)
        if self.stream is not None:
            await self._run_application()
        self._is_h11s_turn = bool(self.connection.trailing_data[0])

    async def _answer_plain(self, request: PlainRequest) -> None:
        """Have the application answer a request that h11 does not hear of."""
        self._connection.begin_request()
        self.keep_alive_requests += 1
        self._request_id = request.headers.get(b"x-request-id", b"").decode()
        exchange = PlainExchange(
            self._connection,
            request,
            self.config.response_headers("h11"),
            partial(self._refuse, HTTPStatus.BAD_REQUEST),
            self.client,
            self.server,
        )
        try:
            await self._application(exchange.scope, exchange.receive, exchange.send)
        except Exception:
            await self._answer_for_application(exchange)
            raise
        await self._answer_for_application(exchange)
        behind = exchange.behind()
        if behind is None or self.context.terminated.is_set():
            self._connection.ended = True
        else:
            self._behind = behind

    async def _answer_for_application(self, exchange: PlainExchange) -> None:
        """Answer a client that the application has not answered, if it is still there."""
        if not (exchange.started or exchange.cut):
            await self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR)

    async def _run_application(self) -> None:
        """Have the application answer the request that has just come."""
        try:
            await self._application(self._inline.scope, self._receive, self._send)
        except Exception:
            await self._inline.send(None)
            raise
        await self._inline.send(None)

    async def _send(self, message: ASGISendEvent) -> None:
        """Send a part of the response; its end waits for the trailers, if it has some.

        Hypercorn sends trailers in HTTP/2 alone.
        """
        if message["type"] == "http.response.start":
            self._has_trailers, self._trailers = bool(message.get("trailers")), []
            message = {**message, "trailers": False}
        elif message["type"] == "http.response.body" and self._has_trailers:
            message = {**message, "more_body": True}
        elif message["type"] == "http.response.trailers":
            self._trailers = list(message["headers"])
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._inline.send(message)

    async def _next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """The next event of the connection; reads as much as it takes.

        Raises:
            h11.RemoteProtocolError: what has come is not HTTP.
        """
        while (event := self.connection.next_event()) is h11.NEED_DATA:
            await self._flush()
            self.connection.receive_data(await self._connection.read())
        return event

    async def _receive(self) -> ASGIReceiveEvent:
        """The next piece of the request's body, as ASGI has it.

        A client that waits for a word before it sends the body hears it now that it is wanted.
        """
        if self.connection.they_are_waiting_for_100_continue:
            await self._send_h11_event(h11.InformationalResponse(status_code=100, headers=[]))
        try:
            event = await self._next_event()
        except h11.RemoteProtocolError as error:
            await self._refuse(error.error_status_hint)
            return {"type": "http.disconnect"}
        if isinstance(event, h11.Data):
            return {"type": "http.request", "body": bytes(event.data), "more_body": True}
        if isinstance(event, h11.EndOfMessage):
            return {"type": "http.request", "body": b"", "more_body": False}
        return {"type": "http.disconnect"}

    async def _refuse(self, status: int) -> None:
        """Answer what is not HTTP, if there is still an answer to give, and end the connection."""
        if self.connection.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            await self._send_error_response(status)
        await self.send(Closed())

    async def _take_event(self, event: Event) -> None:
        """Keep what is to be sent; end the connection when the protocol says so."""
        if isinstance(event, RawData):
            if event.data:
                self._output.append(event.data)
        elif isinstance(event, Closed):
            self._connection.ended = True
            await self._flush()
            await self.handle(event)

    async def stream_send(self, event: StreamEvent) -> None:
        """Send a part of the response; its head waits for what comes after it."""
        if isinstance(event, EndBody) and self._trailers:
            await self._send_h11_event(h11.EndOfMessage(headers=self._trailers))
        else:
            await super().stream_send(event)
        if not isinstance(event, Response):
            await self._flush()

    async def _flush(self) -> None:
        if not self._output:
            return
        output, self._output = self._output, []
        try:
            await self._connection.send(output)
        except OSError:
            self._connection.ended = True
            await self.handle(Closed())

    async def _create_stream(self, request: h11.Request) -> None:
        headers = dict(request.headers)
        self._wants_no_body = request.method == b"HEAD"
        self._request_id = headers.get(b"x-request-id", b"").decode("latin-1")
        refusal = _refusal(request, headers)
        if refusal is not None:
            self._request_id = request_id(self._request_id)
            self._application.record_refusal(
                self._request_id,
                refusal,
                request.method.decode("latin-1"),
                request.target.decode("latin-1"),
            )
            await self._send_error_response(refusal)
            await self.send(Closed())
            return
        if any(name == b"upgrade" for name, _ in request.headers):
            request = h11.Request(
                method=request.method,
                target=request.target,
                http_version=request.http_version,
                headers=[header for header in request.headers if header[0] != b"upgrade"],
            )
        await super()._create_stream(request)

    async def _send_error_response(self, status_code: int) -> None:
        """Answer a request that is not HTTP, before there is one to hand on."""
        body = error_body(HTTPStatus(status_code).phrase)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
            (b"x-request-id", request_id(self._request_id).encode()),
            (b"connection", b"close"),
        ]
        await self._send_h11_event(
            h11.Response(
                status_code=status_code,
                headers=list(chain(headers, self.config.response_headers("h11"))),
            )
        )
        if not self._wants_no_body:
            await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())


def _refusal(request: h11.Request, headers: dict[bytes, bytes]) -> HTTPStatus | None:
    """The status to refuse a request with that h11 has let through, if it has to be refused."""
    if request.http_version not in (b"1.0", b"1.1"):
        return HTTPStatus.HTTP_VERSION_NOT_SUPPORTED
    size = sum(len(name) + len(value) for name, value in request.headers)
    if size - len(headers.get(b"authorization", b"")) > MAX_HEADER_BYTES:
        return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    if len(request.target) > MAX_HEADER_BYTES:
        return HTTPStatus.REQUEST_URI_TOO_LONG
    if not _is_target(request.target.decode("ascii")):
        return HTTPStatus.BAD_REQUEST
    if sum(name == b"authorization" for name, _ in request.headers) > 1:
        return HTTPStatus.BAD_REQUEST  # nginx refuses it too: whose access would be decided?
    if b"content-length" in headers and b"transfer-encoding" in headers:
        # Who of those before us believed which of the two (RFC 9112, section 6.3)?
        return HTTPStatus.BAD_REQUEST
    return None


def _is_target(target: str) -> bool:
    """Whether `target` is a path, or a URL that has one."""
    try:
        return target.startswith("/") or urlsplit(target).scheme in ("http", "https")
    except ValueError:
        return False
