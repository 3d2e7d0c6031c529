"""HTTP on a bare socket, for requests that no HTTP client sends."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from uuid import uuid4

from .service import Service

QUERY = "account_handle=acme&project_handle=app"
TIMEOUT = 60
"""Seconds after which a socket counts as hanging."""


def connect(service: Service) -> socket.socket:
    """Connect to the service, with a timeout."""
    return socket.create_connection(("127.0.0.1", service.port), timeout=TIMEOUT)


@contextmanager
def connected(service: Service, times: int) -> Iterator[list[socket.socket]]:
    """Open `times` connections, which the service spreads evenly over its workers."""
    with ExitStack() as stack:
        yield [stack.enter_context(connect(service)) for _ in range(times)]


def upload_head(size: int, artifact_id: str | None = None) -> bytes:
    """The head of a request that announces an upload of `size` bytes by `token` to `acme/app`."""
    return (
        f"POST /api/cache/cas/{artifact_id or uuid4().hex}?{QUERY} HTTP/1.1\r\nHost: cache\r\n"
        f"Authorization: Bearer token\r\nContent-Length: {size}\r\n\r\n"
    ).encode()


def get_head(path: str) -> bytes:
    """The head of a GET request."""
    return f"GET {path} HTTP/1.1\r\nHost: cache\r\nAuthorization: Bearer token\r\n\r\n".encode()


def ask(connection: socket.socket, request: bytes) -> bytes:
    """Send a whole request, and return the response."""
    connection.sendall(request)
    return read_response(connection)


def read_to_end(connection: socket.socket) -> bytes:
    """Read until the other side closes the connection."""
    received = b""
    while piece := connection.recv(65536):
        received += piece
    return received


def read_response(connection: socket.socket) -> bytes:
    """Read one response, whose length is in its head."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += _some(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    length = int(lengths[0].partition(b":")[2]) if lengths else 0
    while len(body) < length:
        body += _some(connection)
    return head + b"\r\n\r\n" + body


def _some(connection: socket.socket) -> bytes:
    received = connection.recv(65536)
    assert received, "the connection was closed before the end of a response"
    return received


def status_of(response: bytes) -> int:
    """The status in the first line of a response."""
    return int(response.split(b" ", 2)[1])


def body_of(response: bytes) -> bytes:
    """The bytes after the head of a response."""
    return response.partition(b"\r\n\r\n")[2]
