"""The listener: Hypercorn's HTTP/1.1 on trio, under the tree's supervision.

Hypercorn's `serve` is not used, as it ends, with every request in flight, when one connection
raises, and closes connections that come while it drains. Its parts are: each connection is a
Hypercorn `TCPServer`, with these differences.

* It speaks HTTP/1.1 and 1.0 only. An upgrade, to WebSocket or HTTP/2, is ignored, as RFC 9110
  (section 7.8) allows: the request is answered as if it had not been asked for.
* What a connection raises ends that connection only.
* A client that does not read its response for `SEND_SECONDS` is given up.
* Errors in the protocol are answered with JSON, as all others are.
* What is read from a connection goes straight to whoever asked for it.
* The timer of an idle connection ends with the connection.

Where connections come from (`endpoint.py`) outlives the listener's crashes.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from http import HTTPStatus
from itertools import chain
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import h11
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.task_group import TaskGroup, _handle
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState, LifespanState
from hypercorn.utils import parse_socket_addr

from .errors import error_body
from .in_flight import InFlight
from .request_id import request_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hypercorn.typing import AppWrapper, ASGIReceiveEvent, ASGISendEvent, Scope

    from cache_actors.supervision import Started

    from .app import CacheApp
    from .endpoint import Endpoint

IDLE_SECONDS = 75.0
"""How long a connection may be idle; longer than nginx keeps its own (15 s), so that nginx never
sends a request into a connection that is being closed."""

SEND_SECONDS = 60.0
"""How long a client may take to make room for one piece of a response (1 MiB at most)."""

DRAIN_SECONDS = 30.0
"""How long requests in flight may take to end when the service stops."""

HAND_OVER_SECONDS = 20.0
"""How long idle connections are kept for nginx when another instance has taken over. It ends them
itself after 15 s, and so never uses one that is just being closed."""

LATE_SECONDS = 1.0
"""How long a connection that is opened while the service drains may take to send a request."""

MOST_HEADER_BYTES = 16 * 1024

LEAST_READ, MOST_READ = 2 * 1024, 64 * 1024
READS_TOGETHER = 6 * 1024 * 1024
"""What a connection reads at once, in bytes. Little at first, as a request may have to wait, and
what has come of its body with it; then more and more, up to its share of what all requests in
flight may read together. Each byte is in memory several times on its way through the protocol."""


class Listener:
    """Answers the connections that come to `endpoint`."""

    def __init__(self, app: CacheApp, endpoint: Endpoint) -> None:
        self._app = app
        self._endpoint = endpoint
        self._connections = InFlight()
        self._config = Config()
        self._config.accesslog = self._config.errorlog = None
        self._config.include_server_header = False
        self._config.keep_alive_timeout = IDLE_SECONDS
        self._config.keep_alive_max_requests = 1_000_000

    async def run(self, stop: trio.Event, started: Started) -> None:
        """Serve until `stop` is set, then drain.

        Until the requests that were in flight then have ended, new ones are still taken: somebody
        may ask `/up` what is going on. Then the socket is closed, and the last ones end.

        When another instance has taken over, nginx may still use the connections that it keeps to
        this one. They are left to it until it closes them, or has been told to with an answer.
        """
        context = WorkerContext(None)
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as accepting:
                serve = partial(self._serve, context)
                accepting.start_soon(self._endpoint.serve, serve, connections)
                started()
                await stop.wait()
                self._app.in_flight.draining = True
                with trio.move_on_after(DRAIN_SECONDS) as drain:
                    if self._endpoint.is_replaced():
                        with trio.move_on_after(HAND_OVER_SECONDS):
                            await self._connections.wait_for_none()
                    await context.terminated.set()
                    await self._app.in_flight.wait_for_current()
                accepting.cancel_scope.cancel()
            self._endpoint.close()
            with trio.CancelScope(deadline=drain.deadline):
                await self._app.in_flight.wait_for_current()
                await trio.lowlevel.checkpoint()  # let the last connections close by themselves
            connections.cancel_scope.cancel()

    async def _serve(self, context: WorkerContext, stream: trio.SocketStream) -> None:
        with self._connections.one():
            await _Connection(self._app, self._config, context, stream).run()


class _TaskGroup(TaskGroup):
    """Starts the application's task for a request, with a pipe to it that holds nothing.

    Hypercorn's own is a queue, which keeps data that nobody has asked for in memory and, as the end
    of the request has to go through it too, blocks for ever when it is full and nobody reads.
    """

    async def spawn_app(
        self,
        app: AppWrapper,
        config: Config,
        scope: Scope,
        send: Callable[[ASGISendEvent | None], Awaitable[None]],
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        sender: trio.MemorySendChannel[ASGIReceiveEvent]
        receiver: trio.MemoryReceiveChannel[ASGIReceiveEvent]
        sender, receiver = trio.open_memory_channel(0)

        async def put(message: ASGIReceiveEvent) -> None:
            if message["type"] == "http.disconnect":
                sender.close()
                return
            with suppress(trio.ClosedResourceError):
                await sender.send(message)

        async def receive() -> ASGIReceiveEvent:
            try:
                return await receiver.receive()
            except trio.EndOfChannel:
                return {"type": "http.disconnect"}

        self.spawn(_handle, app, config, scope, receive, send, None, None)
        return put


class _Connection(TCPServer):
    """One connection."""

    def __init__(
        self, app: CacheApp, config: Config, context: WorkerContext, stream: trio.SocketStream
    ) -> None:
        self._log = app.log
        self._in_flight = app.in_flight
        super().__init__(ASGIWrapper(app), config, context, LifespanState(), stream)  # type: ignore[arg-type]

    async def run(self) -> None:
        """Answer request after request, until one side closes the connection."""
        sock = self.stream.socket
        try:
            async with _TaskGroup() as self._task_group:
                self.protocol = _Protocol(  # type: ignore[assignment]
                    self.app,
                    self.config,
                    self.context,
                    self._task_group,
                    ConnectionState(self.state),
                    False,
                    parse_socket_addr(sock.family, sock.getpeername()),
                    parse_socket_addr(sock.family, sock.getsockname()),
                    self.protocol_send,
                )
                await self.idle_task.restart(self._task_group, self._idle_timeout)
                await self._read_data()
                await self.idle_task.stop()
        except* OSError:
            pass  # the client is gone
        except* Exception as errors:
            self._log.exception("connection_crashed", exc_info=errors)
        finally:
            await self._close()

    async def protocol_send(self, event: Event) -> None:
        """Send what the protocol wants sent, to a client that reads it."""
        if not isinstance(event, RawData):
            await super().protocol_send(event)
            return
        async with self.send_lock:
            try:
                with trio.fail_after(SEND_SECONDS):
                    await self.stream.send_all(event.data)
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
                await self.stream.aclose()
                await self.protocol.handle(Closed())

    async def _read_data(self) -> None:
        with suppress(trio.ClosedResourceError, trio.BrokenResourceError):
            size = LEAST_READ
            while data := await self.stream.receive_some(size):
                await self.protocol.handle(RawData(bytes(data)))
                size = min(2 * size, self._share()) if len(data) == size else LEAST_READ
            await self.protocol.handle(RawData(b""))
        await self.protocol.handle(Closed())

    async def _close(self) -> None:
        """Close the connection. Closing it half first would be in the way of who is sending."""
        await self.stream.aclose()

    def _share(self) -> int:
        return min(MOST_READ, max(LEAST_READ, READS_TOGETHER // max(1, len(self._in_flight))))

    async def _idle_timeout(self) -> None:
        if self.context.terminated.is_set():
            await trio.sleep(LATE_SECONDS)
        else:
            with trio.move_on_after(self.config.keep_alive_timeout):
                await self.context.terminated.wait()
        with trio.CancelScope(shield=True):
            await self._initiate_server_close()


class _Protocol(H11Protocol):
    """HTTP/1.1 and nothing else."""

    _request_id = ""

    async def _check_protocol(self, event: h11.Request) -> None:
        """Offer no other protocol."""

    async def _create_stream(self, request: h11.Request) -> None:
        headers = dict(request.headers)
        self._request_id = headers.get(b"x-request-id", b"").decode("latin-1")
        refusal = _refusal(request, headers)
        if refusal is not None:
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
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())


def _refusal(request: h11.Request, headers: dict[bytes, bytes]) -> HTTPStatus | None:
    """The status to refuse a request with that h11 has let through, if it has to be refused."""
    if request.http_version not in (b"1.0", b"1.1"):
        return HTTPStatus.HTTP_VERSION_NOT_SUPPORTED
    if sum(len(name) + len(value) for name, value in request.headers) > MOST_HEADER_BYTES:
        return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    if len(request.target) > MOST_HEADER_BYTES:
        return HTTPStatus.REQUEST_URI_TOO_LONG
    if not _is_target(request.target.decode("ascii")):
        return HTTPStatus.BAD_REQUEST
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
