"""The body of a request, pulled from the connection by whoever reads it.

Quart-Trio pushes the body into an unbounded buffer, from a task of its own; here the handler takes
each piece when it is ready for it, so that a slow disk slows the client's socket. Sizes are counted
as the pieces come, which Quart's own limit does not do for a body that is iterated over.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import trio
from quart_trio.wrappers import TrioRequest
from quart_trio.wrappers.request import TrioBody

from cache_actors.metrics.request_event import Route
from cache_actors.supervision import Holding

from .errors import ClientDisconnected, HttpError, overloaded
from .server.plain import READ_IN_THREAD

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from hypercorn.typing import ASGIReceiveEvent, HTTPScope

    from cache_actors.services import Services
    from cache_actors.storage.layout import Project
    from cache_actors.supervision import Owner, Shares

    from .app import CacheApp

    Receive = Callable[[], Awaitable[ASGIReceiveEvent]]
    ReadInThread = Callable[[memoryview], int]


class RequestBody(TrioBody):
    """An async iterator over the pieces of a request's body.

    Attributes:
        received: bytes so far.
        complete: whether all of it has been received, or the client is gone.
    """

    def __init__(self, expected_content_length: int | None) -> None:
        # Without the buffer and the events of Quart-Trio's, into which a body is pushed.
        self.received = 0
        self.complete = False
        self._expected = expected_content_length
        self._limit = 0

    def pull_from(self, receive: Receive, read_in_thread: ReadInThread | None = None) -> None:
        """Take the pieces from `receive`; a thread takes them from `read_in_thread`, if it can."""
        self._receive = receive
        self._read_in_thread = read_in_thread

    def limit(self, most: int) -> RequestBody:
        """Allow at most `most` bytes.

        Raises:
            HttpError: 413, if the request announces more.
        """
        self._limit = most
        if self._expected is not None and self._expected > most:
            raise self._too_large()
        return self

    async def __anext__(self) -> bytes:
        """The next piece.

        Raises:
            StopAsyncIteration: that was all.
            HttpError: 413, it is more than the limit.
            BodyStalled: nothing has come for too long.
            ClientDisconnected: the rest will not come.
        """
        while not self.complete:
            piece = await self.pull()
            if self.received > self._limit:
                raise self._too_large()
            if piece:
                return piece
        raise StopAsyncIteration

    async def pull(self) -> bytes:
        """The next piece, however large; empty ones occur.

        Raises:
            ClientDisconnected: the rest will not come.
            BodyStalled: nothing has come for too long.
        """
        message = await self._receive()
        if message["type"] != "http.request":
            self.complete = True
            raise ClientDisconnected
        piece = message.get("body", b"")
        self.complete = not message.get("more_body", False)
        self.received += len(piece)
        return piece

    def read_in_thread(self, buffer: memoryview) -> int:
        """As `ReadableInThread.read_in_thread`; 0 unless an announced size is within the limit."""
        if self._read_in_thread is None or not 0 < (self._expected or 0) <= self._limit:
            return 0
        size = self._read_in_thread(buffer)
        self.received += size
        return size

    def collected(self, memory: Shares, owner: Owner) -> _Collection:
        """All of it, held in the share of `memory` that is the `owner`'s while the context lasts.

        To enter the context raises what iterating does, and HttpError, 429, if there is no memory.
        """
        return _Collection(self, memory, owner)

    def _too_large(self) -> HttpError:
        return HttpError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The body is larger than {self._limit} bytes"
        )


class _Collection(Holding):
    """The pieces of a body that has not come to its end. If its client pauses, and others need the
    memory, it is given up."""

    def __init__(self, body: RequestBody, memory: Shares, owner: Owner) -> None:
        super().__init__(memory, owner)
        self._body = body
        self._pieces: list[bytes] = []
        self._is_complete = self._is_lost = False

    async def __aenter__(self) -> bytes:
        try:
            async for piece in self._body:
                self._add(piece)
            return self._complete()
        except BaseException:
            self.give_back()
            raise

    async def __aexit__(self, *_: object) -> None:
        self.give_back()

    def _add(self, piece: bytes) -> None:
        """Keep another piece.

        Raises:
            HttpError: 429, there is no memory for it.
        """
        try:
            if not self._is_lost:
                self.take_nowait(len(piece))
        except trio.WouldBlock:
            self._is_lost = True
        if self._is_lost:
            raise overloaded("Too many requests at once")
        self._pieces.append(piece)

    def _complete(self) -> bytes:
        """All pieces.

        Raises:
            HttpError: 429, they have been given up.
        """
        if self._is_lost:
            raise overloaded("Too many requests at once")
        self._is_complete = True
        return b"".join(self._pieces)

    def let_go(self) -> None:
        """Forget what has come of a body whose rest does not come."""
        if not self._is_complete:
            self._is_lost = True
            self._pieces.clear()
            self.give_back()


class RequestHeaders:
    """The headers of a request, as far as somebody reads them; names are of any case.

    werkzeug's, which decode all of them first, take longer than a handler.
    """

    def __init__(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._headers = tuple(headers)
        self._first = dict(reversed(self._headers))

    def __contains__(self, name: str) -> bool:
        return name.lower().encode() in self._first

    def __getitem__(self, name: str) -> str:
        return self._first[name.lower().encode()].decode("latin-1")

    def get(self, name: str, default: str | None = None) -> str | None:
        """The first value of a header; `default` if there is none."""
        value = self._first.get(name.lower().encode())
        return default if value is None else value.decode("latin-1")

    def getlist(self, name: str) -> list[str]:
        """All values of a header."""
        wanted = name.lower().encode()
        return [value.decode("latin-1") for each, value in self._headers if each == wanted]


@dataclass(slots=True)
class Call:
    """What a request asks for by gRPC, for metrics and logs.

    Attributes:
        method: the name of the method; "unknown" for one that the service does not have.
        instance: the name of the instance as the client gave it.
        status: the name of the status that it was answered with.
        http_status: the status of HTTP that means the same.
        resources: what is given back once the answer has been sent.
    """

    method: str = "unknown"
    instance: str = ""
    status: str = "UNKNOWN"
    http_status: int = 500
    resources: ExitStack = field(default_factory=ExitStack)


class Request(TrioRequest):
    """A request whose body is pulled. It has what handlers read, and no more.

    Attributes:
        method, path, query_string, headers, scope: as Quart's.
        app: the application that it came to.
        route: what it asks for, once that is known.
        id: what ties together its lines in the logs.
        project: the project it names, once that is known, for the logs.
        owner: for whom what it takes is held, once that is known: the project, and who has sent it.
        duplicate: whether it has brought an artifact that existed, for the metrics.
        call: what it asks for by gRPC, if it does.
        content_length: of its body, in bytes, if that is announced.
    """

    route: Route = Route.OTHER
    id: str = ""
    project: Project | None = None
    owner: Owner = ()
    duplicate: bool = False
    call: Call | None = None
    content_length: int | None = None

    def __init__(self, app: CacheApp, scope: HTTPScope, receive: Receive) -> None:
        self.app = app
        self.scope = scope
        self.method = scope["method"]
        path = scope["path"]
        self.path = "/" + (path if path[0] == "/" else urlsplit(path).path).lstrip("/")
        self.query_string = scope["query_string"]
        self.headers = RequestHeaders(scope["headers"])  # type: ignore[assignment]
        length = self.headers.get("Content-Length")
        if length is not None:  # its digits have been checked, and that there are no chunks
            self.content_length = int(length)
        self.body: RequestBody = RequestBody(self.content_length)
        extension = scope["extensions"].get(READ_IN_THREAD)
        self.body.pull_from(receive, None if extension is None else extension["read"])

    @property
    def services(self) -> Services:
        """The services that its handler may use."""
        services: Services = self.app.services
        return services
