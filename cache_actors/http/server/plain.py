"""Plain requests, as nginx and most clients send them, without h11.

h11 takes ten times as long for a head as one regular expression does. So a request is looked at
here first, and answered here if all of its head has come at once and says nothing unusual. All
others are h11's, from their first byte on: what is chunked, waits for a 100, closes its connection,
repeats a header, or is no HTTP. The grammar here is a part of h11's, so nothing is accepted that
h11 would refuse, nor understood in another way (`tests/http/server/test_plain.py`).
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
_BODILESS = {204, 304}


@dataclass(slots=True)
class PlainRequest:
    """A request with a plain head.

    Attributes:
        method: GET, POST or PUT.
        target: a path, and perhaps a query.
        headers: each once, with its name in lower case.
        length: of the body, in bytes.
        rest: what has come behind the head: of the body, and of what is behind that.
    """

    method: bytes
    target: bytes
    headers: dict[bytes, bytes]
    length: int
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
    length = headers.get(b"content-length", b"0")
    if (
        b"host" in headers
        and _UNUSUAL.isdisjoint(headers)
        and headers.get(b"connection", b"keep-alive").lower() == b"keep-alive"
        and length.isdigit()
        and len(length) <= 18  # what is longer is left to h11
    ):
        return PlainRequest(method, target, headers, int(length), data[match.end() :])
    return None


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
            "extensions": {},
        }
        self._connection = connection
        self._headers = headers
        self._refuse = refuse
        self._rest = request.rest
        self._to_come = request.length
        self.started = self.cut = False
        self._head = b""
        self._to_send = 0
        self._is_sent = self._closes = self._is_bodiless = False

    def behind(self) -> bytes | None:
        """What has come behind the request; None if no other request may follow.

        That is so if something of this one is unfinished, or its response closes the connection.
        """
        unfinished = self.cut or not self._is_sent or self._to_come or self._to_send
        return None if unfinished or self._closes else self._rest

    async def receive(self) -> ASGIReceiveEvent:
        """The next piece of the body.

        Raises:
            BodyStalled: it does not come.
        """
        if not self._to_come:
            return {"type": "http.request", "body": b"", "more_body": False}
        if self._rest:
            piece, self._rest = self._rest[: self._to_come], self._rest[self._to_come :]
        else:
            piece = await self._connection.read(self._to_come)
            if not piece:
                if not self.started:  # else its end is all that the client may get
                    self.cut = True
                    await self._refuse()
                return {"type": "http.disconnect"}
        self._to_come -= len(piece)
        return {"type": "http.request", "body": piece, "more_body": self._to_come > 0}

    async def send(self, message: ASGISendEvent) -> None:
        """Send a part of the response; its head waits for what comes after it.

        Raises:
            ValueError: it cannot be sent like that.
        """
        if message["type"] == "http.response.start":
            self._start(message["status"], message["headers"])
        elif message["type"] == "http.response.body" and not self.cut:
            piece = b"" if self._is_bodiless else message["body"]
            self._to_send -= len(piece)
            if self._to_send < 0:
                raise ValueError("A response is longer than it says")
            self._is_sent = not message["more_body"]
            output = [each for each in (self._head, piece) if each]
            self._head = b""
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
        if length is None and not self._is_bodiless:
            raise ValueError("A response does not say how long it is")
        self._to_send = 0 if self._is_bodiless else length or 0
        self._head = b"".join((*lines, b"\r\n"))
        if self._head.count(b"\n") != len(lines) + 1:
            raise ValueError("A header of a response has a line end")
        self.started = True
