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

The socket is bound once and outlives the listener's crashes: clients wait in its backlog.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from itertools import chain
from pathlib import Path
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
from .request_id import request_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hypercorn.typing import AppWrapper, ASGIReceiveEvent, ASGISendEvent, Scope

    from cache_actors.settings import Settings
    from cache_actors.supervision import Started

    from .app import CacheApp

IDLE_SECONDS = 75.0
"""How long a connection may be idle; longer than nginx keeps its own (60 s), so that nginx never
sends a request into a connection that is being closed."""

SEND_SECONDS = 60.0
"""How long a client may take to make room for one piece of a response (1 MiB at most)."""

DRAIN_SECONDS = 30.0
"""How long requests in flight may take to end when the service stops."""

LATE_SECONDS = 1.0
"""How long a connection that is opened while the service drains may take to send a request."""

BACKLOG = 4096
MOST_HEADER_BYTES = 16 * 1024

LEAST_READ, MOST_READ = 2 * 1024, 64 * 1024
READS_TOGETHER = 6 * 1024 * 1024
"""What a connection reads at once, in bytes. Little at first, as a request may have to wait, and
what has come of its body with it; then more and more, up to its share of what all requests in
flight may read together. Each byte is in memory several times on its way through the protocol."""


class CannotListen(Exception):
    """The address or socket to listen on is not to be had; the message says which and why."""


def bind(settings: Settings) -> socket.socket:
    """A socket bound to what the settings name, a Unix socket for its group to connect to.

    Raises:
        CannotListen: it is taken, or not allowed.
    """
    path = settings.socket_path
    where = str(path) if path else f"{settings.bind}:{settings.port}"
    try:
        return _bind_unix(path) if path else _bind_tcp(settings.bind, settings.port)
    except OSError as error:
        raise CannotListen(f"Cannot listen on {where}: {error.strerror or error}") from error


def _bind_tcp(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock


def _bind_unix(path: Path) -> socket.socket:
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise FileExistsError(errno.EEXIST, "there is a file that is not a socket")
        _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    umask = os.umask(0o007)
    try:
        sock.bind(str(path))
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(umask)
    return sock


def _remove_stale(path: Path) -> None:
    """Remove the socket at `path` if nobody listens there any more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


class Listener:
    """Accepts connections on `sock`, which it listens on from its first incarnation on."""

    def __init__(self, app: CacheApp, sock: socket.socket) -> None:
        self._app = app
        self._socket = sock
        self._config = Config()
        self._config.accesslog = self._config.errorlog = None
        self._config.include_server_header = False
        self._config.keep_alive_timeout = IDLE_SECONDS
        self._config.keep_alive_max_requests = 1_000_000

    async def run(self, stop: trio.Event, started: Started) -> None:
        """Serve until `stop` is set, then drain.

        Until the requests that were in flight then have ended, new ones are still taken: somebody
        may ask `/up` what is going on. Then the socket is closed, and the last ones end.
        """
        context = WorkerContext(None)
        self._socket.listen(BACKLOG)
        # trio closes what it listens on when this incarnation ends; the next one needs it too.
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._socket.dup()))
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as accepting:
                accepting.start_soon(
                    partial(
                        trio.serve_listeners,
                        partial(self._serve, context),
                        [listener],
                        handler_nursery=connections,
                    )
                )
                started()
                await stop.wait()
                self._app.in_flight.draining = True
                await context.terminated.set()
                with trio.move_on_after(DRAIN_SECONDS) as drain:
                    await self._app.in_flight.wait_for_current()
                accepting.cancel_scope.cancel()
            self._close()
            with trio.CancelScope(deadline=drain.deadline):
                await self._app.in_flight.wait_for_current()
                await trio.lowlevel.checkpoint()  # let the last connections close by themselves
            connections.cancel_scope.cancel()

    async def _serve(self, context: WorkerContext, stream: trio.SocketStream) -> None:
        await _Connection(self._app, self._config, context, stream).run()

    def _close(self) -> None:
        if self._socket.family == socket.AF_UNIX:
            with suppress(OSError):
                Path(self._socket.getsockname()).unlink()
        self._socket.close()


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
