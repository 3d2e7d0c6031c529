"""Plain requests, as nginx and most clients send them, without h11.

h11 takes ten times as long for a head as one regular expression does. So a request is looked at
here first, and answered here if all of its head has come at once and says nothing unusual. All
others are h11's, from their first byte on: what is chunked and no call by gRPC, waits for a 100,
closes its connection, repeats a header, or is no HTTP. The grammar here is a part of h11's, so
nothing is accepted that h11 would refuse, nor understood in another way
(`tests/http/server/test_plain.py`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from hypercorn.typing import ASGIReceiveEvent, ASGISendEvent, HTTPScope

    from .connection import Connection

_HEAD = re.compile(
    rb"(GET|POST|PUT) (/[!-~]*+) HTTP/1\.1\r\n"
    rb"((?:[-!#$%&'*+.^_`|~0-9a-zA-Z]++:[ -~]*+\r\n)++)\r\n"
)
_UNUSUAL = {b"expect", b"transfer-encoding", b"upgrade"}
_UNUSUAL_IN_CALLS = _UNUSUAL - {b"transfer-encoding"} | {b"content-length"}
_BODILESS = {204, 304}

READ_IN_THREAD = "cache_actors.read_in_thread"
"""ASGI extension: `read` is `PlainExchange.read_in_thread`."""

_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n\0]*)?\r\n")
_TRAILERS = re.compile(rb"(?:[-!#$%&'*+.^_`|~0-9a-zA-Z]++:[ -~]*+\r\n)++")
_BARE_NEWLINE = re.compile(rb"(?<!\r)\n")
_MAX_CHUNK_LINE = 1024  # bytes; of one with a size, or of all trailers together


@dataclass(slots=True)
class PlainRequest:
    """A request with a plain head.

    Attributes:
        method: GET, POST or PUT.
        target: a path, and perhaps a query.
        headers: each once, with its name in lower case.
        length: of the body, in bytes; None if it is chunked.
        rest: what has come behind the head: of the body, and of what is behind that.
    """

    method: bytes
    target: bytes
    headers: dict[bytes, bytes]
    length: int | None
    rest: bytes


def plain_request(data: bytes, most: int) -> PlainRequest | None:
    """The request that `data` begins with, if it is plain and its head has at most `most` bytes."""
    match = _HEAD.match(data)
    if match is None or match.end() > most:
        return None
    method, target, lines = match.groups()
    headers: dict[bytes, bytes] = {}
    for line in lines.split(b"\r\n")[:-1]:
        name, _, value = line.partition(b":")
        name = name.lower()
        if name in headers:
            return None
        headers[name] = value.strip()
    if b"host" not in headers or headers.get(b"connection", b"keep-alive").lower() != b"keep-alive":
        return None
    rest = data[match.end() :]
    if headers.get(b"content-type", b"").startswith(b"application/grpc") and (
        headers.get(b"transfer-encoding") == b"chunked" and _UNUSUAL_IN_CALLS.isdisjoint(headers)
    ):
        return PlainRequest(method, target, headers, None, rest)
    length = headers.get(b"content-length", b"0")
    # A longer number is left to h11.
    if _UNUSUAL.isdisjoint(headers) and length.isdigit() and len(length) <= 18:
        return PlainRequest(method, target, headers, int(length), rest)
    return None


class ChunkedBody:
    """Decodes a chunked body (RFC 9112, section 7.1); its extensions and trailers are ignored.

    Attributes:
        ended: whether it has come to its end.
        rest: what has come and is not decoded yet; at the end, what is behind the body.
    """

    def __init__(self, data: bytes) -> None:
        self.rest = data
        self.ended = False
        self._left = 0  # bytes of the chunk that are still to come
        self._follows_chunk = self._in_trailers = False

    def decode(self) -> bytes:
        """The bytes in what has come.

        Raises:
            ValueError: that is no chunked body.
        """
        pieces: list[bytes] = []
        data, at = self.rest, 0  # `at` moves, as a copy of the rest for each chunk takes too long
        while not self._in_trailers:
            if self._left:
                piece = data[at : at + self._left]
                at += len(piece)
                self._left -= len(piece)
                pieces.append(piece)
                if self._left:
                    break
                self._follows_chunk = True
            if self._follows_chunk:
                if len(data) - at < 2 and b"\r\n".startswith(data[at:]):
                    break
                if not data.startswith(b"\r\n", at):
                    raise ValueError("a chunk is longer than it says")
                at, self._follows_chunk = at + 2, False
            match = _CHUNK_SIZE.match(data, at)
            if match is None:
                if data.find(b"\n", at) >= 0 or len(data) - at > _MAX_CHUNK_LINE:
                    raise ValueError("a chunk does not say how long it is")
                break
            at, self._left = match.end(), int(match[1], 16)
            self._in_trailers = not self._left
        self.rest = data[at:]
        if self._in_trailers and not self.ended:
            self._skip_trailers()
        return b"".join(pieces)

    def _skip_trailers(self) -> None:
        """Skip the trailers, if all of them have come."""
        if self.rest.startswith(b"\r\n"):
            self.rest, self.ended = self.rest[2:], True
            return
        end = self.rest.find(b"\r\n\r\n")
        if end < 0:
            if len(self.rest) > _MAX_CHUNK_LINE or _BARE_NEWLINE.search(self.rest):
                raise ValueError("the trailers are too many, or none")
            return
        if _TRAILERS.fullmatch(self.rest, 0, end + 2) is None:
            raise ValueError("a trailer is none")
        self.rest, self.ended = self.rest[end + 4 :], True


class PlainExchange:
    """A plain request and its response, as ASGI has them.

    Args:
        connection: where both go.
        request: what has come.
        headers: the headers of all responses.
        refuse: answers a request whose body ends too early.
        client, server: the addresses of both ends.

    Attributes:
        scope: the request.
        started: whether there is something of a response.
        cut: whether nothing can be sent any more: the client is gone, or has been refused.
    """

    def __init__(
        self,
        connection: Connection,
        request: PlainRequest,
        headers: Iterable[tuple[bytes, bytes]],
        refuse: Callable[[], Awaitable[None]],
        client: tuple[str, int] | None,
        server: tuple[str, int] | None,
    ) -> None:
        path, _, query = request.target.partition(b"?")
        self.scope: HTTPScope = {  # type: ignore[typeddict-item]  # no state: nothing has one
            "type": "http",
            "asgi": {"spec_version": "2.1", "version": "3.0"},
            "http_version": "1.1",
            "method": request.method.decode(),
            "scheme": "http",
            "path": unquote(path.decode()),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": list(request.headers.items()),
            "client": client,
            "server": server,
            "extensions": {
                "http.response.trailers": {},
                READ_IN_THREAD: {"read": self.read_in_thread},
            },
        }
        self._connection = connection
        self._headers = headers
        self._refuse = refuse
        self._rest = request.rest
        self._to_come = request.length or 0
        self._chunks = ChunkedBody(request.rest) if request.length is None else None
        self.started = self.cut = False
        self._head = b""
        self._to_send = 0
        self._is_sent = self._closes = self._is_bodiless = self._has_trailers = False
        self._held: list[bytes] = []  # the end of a body, which goes out with the trailers

    def behind(self) -> bytes | None:
        """What has come behind the request; None if no other request may follow.

        That is so if something of this one is unfinished, or its response closes the connection.
        """
        unfinished = self.cut or not self._is_sent or self._to_come or self._to_send
        if unfinished or self._closes:
            return None
        if self._chunks is not None:
            return self._chunks.rest if self._chunks.ended else None
        return self._rest

    async def receive(self) -> ASGIReceiveEvent:
        """The next piece of the body.

        Raises:
            BodyStalled: it does not come.
        """
        if self._chunks is not None:
            return await self._receive_chunked(self._chunks)
        if not self._to_come:
            return {"type": "http.request", "body": b"", "more_body": False}
        if self._rest:
            piece, self._rest = self._rest[: self._to_come], self._rest[self._to_come :]
        else:
            piece = await self._connection.read(self._to_come)
            if not piece:
                return await self._end_early()
        self._to_come -= len(piece)
        return {"type": "http.request", "body": piece, "more_body": self._to_come > 0}

    def read_in_thread(self, buffer: memoryview) -> int:
        """Read the next bytes of the body into `buffer`, if they come soon; return their number.

        For a thread, while nobody receives. 0 says nothing of the rest: `receive` finds out.
        """
        if self._chunks is not None or not self._to_come:
            return 0
        if self._rest:
            piece = self._rest[: min(len(buffer), self._to_come)]
            size = len(piece)
            buffer[:size], self._rest = piece, self._rest[size:]
        else:
            size = self._connection.read_in_thread(buffer[: self._to_come])
        self._to_come -= size
        return size

    async def _receive_chunked(self, chunks: ChunkedBody) -> ASGIReceiveEvent:
        while True:
            try:
                piece = chunks.decode()
            except ValueError:
                return await self._end_early()
            if piece or chunks.ended:
                return {"type": "http.request", "body": piece, "more_body": not chunks.ended}
            data = await self._connection.read()
            if not data:
                return await self._end_early()
            chunks.rest += data

    async def _end_early(self) -> ASGIReceiveEvent:
        """Refuse a request whose body does not come to its end."""
        if not self.started:  # else its end is all that the client may get
            self.cut = True
            await self._refuse()
        return {"type": "http.disconnect"}

    async def send(self, message: ASGISendEvent) -> None:
        """Send a part of the response; its head waits for what comes after it.

        A response with trailers is chunked, and its end waits for them.

        Raises:
            ValueError: it cannot be sent like that.
        """
        if message["type"] == "http.response.start":
            self._has_trailers = bool(message.get("trailers"))
            self._start(message["status"], message["headers"])
        elif message["type"] == "http.response.trailers" and not self.cut:
            lines = [b"%s: %s\r\n" % header for header in message["headers"]]
            trailers = b"".join((b"0\r\n", *lines, b"\r\n"))
            if trailers.count(b"\n") != len(lines) + 2:
                raise ValueError("A trailer of a response has a line end")
            self._is_sent = True
            await self._send_now([*self._held, trailers])
        elif self._has_trailers and message["type"] == "http.response.body" and not self.cut:
            output = [self._head] if self._head else []
            self._head = b""
            if piece := message["body"]:
                output += [b"%x\r\n" % len(piece), piece, b"\r\n"]
            if message["more_body"]:
                await self._send_now(output)
            else:
                self._held = output
        elif message["type"] == "http.response.body" and not self.cut:
            piece = b"" if self._is_bodiless else message["body"]
            self._to_send -= len(piece)
            if self._to_send < 0:
                raise ValueError("A response is longer than it says")
            self._is_sent = not message["more_body"]
            output = [each for each in (self._head, piece) if each]
            self._head = b""
            await self._send_now(output)

    async def _send_now(self, output: list[bytes]) -> None:
        if output:
            try:
                await self._connection.send(output)
            except OSError:
                self.cut = True

    def _start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        lines, length = [b"HTTP/1.1 %d \r\n" % status], None
        for name, value in (*headers, *self._headers):
            lines.append(b"%s: %s\r\n" % (name, value))
            if name == b"content-length":
                length = int(value)
            elif name == b"connection":
                self._closes = value == b"close"
        self._is_bodiless = status in _BODILESS
        if self._has_trailers:
            lines.append(b"Transfer-Encoding: chunked\r\n")
        elif length is None and not self._is_bodiless:
            raise ValueError("A response does not say how long it is")
        self._to_send = 0 if self._is_bodiless else length or 0
        self._head = b"".join((*lines, b"\r\n"))
        if self._head.count(b"\n") != len(lines) + 1:
            raise ValueError("A header of a response has a line end")
        self.started = True
