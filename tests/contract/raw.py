"""HTTP over bare sockets, for what HTTP clients are too polite to send or too quick to hide."""

import json
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

import httpx

from .facts import PROJECT, TOKEN

TIMEOUT = 60.0
"""Seconds until a read or a write counts as hanging."""

HANDLES = urlencode(
    dict(zip(("account_handle", "project_handle"), PROJECT.split("/"), strict=True))
)
"""The query that names the project of most tests."""

AUTHORIZATION = f"Authorization: Bearer {TOKEN}"


@dataclass(frozen=True, slots=True)
class RawResponse:
    """A response as it came, interim ones included."""

    request: httpx.Request
    status_code: int
    headers: httpx.Headers
    content: bytes

    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.content)


class RawConnection:
    """One connection to the service; as a context manager, closed in the end.

    Args:
        base_url: where to connect to.
        timeout: seconds that each read or write may take.
        receive_buffer: bytes of the socket's receive buffer, if not the system's own choice.
    """

    def __init__(
        self, base_url: str, *, timeout: float = TIMEOUT, receive_buffer: int | None = None
    ) -> None:
        url = urlsplit(base_url)
        assert url.hostname is not None
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout)
        self.socket.connect((url.hostname, url.port or 80))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._host = url.netloc
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send `data` as it is."""
        self.socket.sendall(data)

    def head(self, request: str, *headers: str) -> bytes:
        """The head of a request, such as `GET /up`, with the `Host` it needs."""
        lines = [f"{request} HTTP/1.1", f"Host: {self._host}", *headers, "", ""]
        return "\r\n".join(lines).encode("latin-1")

    def begin(self, request: str, *headers: str) -> None:
        """Send the head of a request."""
        self.send(self.head(request, *headers))

    def ask(self, request: str, *headers: str, body: bytes = b"") -> RawResponse:
        """Send a whole request and read the response to it."""
        self.send(self.head(request, *headers) + body)
        return self.response(request.split()[0])

    def response(self, method: str = "GET") -> RawResponse:
        """Read the next response, which may be an interim one (1xx)."""
        head = self._read_to(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")[:-2]
        version, code = status_line.split(" ")[:2]
        assert version in {"HTTP/1.1", "HTTP/1.0"}, status_line
        status = int(code)
        fields = [(name, value.strip()) for name, _, value in (x.partition(":") for x in lines)]
        headers = httpx.Headers(fields)
        bodiless = method == "HEAD" or status < 200 or status in {204, 304}
        request = httpx.Request(method, f"http://{self._host}")
        return RawResponse(request, status, headers, b"" if bodiless else self._body(headers))

    def _body(self, headers: httpx.Headers) -> bytes:
        if headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self._read_to(b"\r\n"), 16):
                body += self._read(size)
                self._read(2)
            self._read_to(b"\r\n")
            return body
        if "Content-Length" in headers:
            return self._read(int(headers["Content-Length"]))
        return self.rest()

    def rest(self) -> bytes:
        """Read until the service closes the connection."""
        data, self._buffer = self._buffer, b""
        while piece := self.socket.recv(65536):
            data += piece
        return data

    def reset(self) -> None:
        """Close the connection with a reset, as a process that is killed may."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def is_over(self) -> bool:
        """Whether the service closes the connection, and answers nothing more that comes on it."""
        data = self._buffer
        with suppress(ConnectionError):
            self.begin("GET /up")
            while b"HTTP/1." not in data:
                piece = self.socket.recv(65536)
                if not piece:
                    return True
                data += piece
            return False
        return True

    def _read_to(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            self._receive()
        data, _, self._buffer = self._buffer.partition(mark)
        return data + mark

    def _read(self, size: int) -> bytes:
        pieces, missing = [], size
        while missing:
            if not self._buffer:
                self._receive()
            piece, self._buffer = self._buffer[:missing], self._buffer[missing:]
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)

    def _receive(self) -> None:
        piece = self.socket.recv(65536)
        if not piece:
            raise ConnectionError(f"closed in the middle of a response, after {self._buffer!r}")
        self._buffer += piece


def chunked(*pieces: bytes) -> bytes:
    """`pieces` as a complete body in chunked transfer coding."""
    return b"".join(map(chunk, (*pieces, b"")))


def chunk(piece: bytes) -> bytes:
    """`piece` as one chunk; an empty one ends the body."""
    return f"{len(piece):x}\r\n".encode() + piece + b"\r\n"


def pieces_of(data: bytes, size: int = 65536) -> Iterable[bytes]:
    """`data` in pieces of at most `size` bytes."""
    for start in range(0, len(data), size):
        yield data[start : start + size]
