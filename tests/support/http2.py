"""One HTTP/2 connection without TLS, on which anything can be sent as a call of gRPC."""

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)

HEADERS = {"content-type": "application/grpc", "te": "trailers", "authorization": "Bearer token"}


@dataclass
class Answer:
    """What has come of a call: headers and trailers as one, and the body."""

    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def status(self) -> int:
        """The status of gRPC."""
        return int(self.headers["grpc-status"])


class Http2:
    """A connection to a port of loopback."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self._h2.initiate_connection()
        self._flush()

    def call(self, path: str, body: bytes, headers: Mapping[str, str] = HEADERS) -> Answer:
        """Send a call with a body of any bytes, and return what comes of it."""
        stream = self.begin(path, headers)
        self.send(stream, body, ends=True)
        return self.answer(stream)

    def begin(self, path: str, headers: Mapping[str, str] = HEADERS) -> int:
        """Begin a call; its stream."""
        stream: int = self._h2.get_next_available_stream_id()
        pseudo = {":method": "POST", ":scheme": "http", ":authority": "cache", ":path": path}
        self._h2.send_headers(stream, list((pseudo | dict(headers)).items()))
        self._flush()
        return stream

    def send(self, stream: int, body: bytes, *, ends: bool = False) -> None:
        """Send some of its body, which has to fit into the windows."""
        self._h2.send_data(stream, body, end_stream=ends)
        self._flush()

    def answer(self, stream: int) -> Answer:
        """What comes of it.

        Raises:
            AssertionError: the stream was reset, or the connection ended.
        """
        answer = Answer()
        for event in self._events():
            assert not isinstance(event, ConnectionTerminated), event
            if getattr(event, "stream_id", stream) != stream:
                continue
            assert not isinstance(event, StreamReset), event
            if isinstance(event, ResponseReceived | TrailersReceived):
                answer.headers |= {str(name): str(value) for name, value in event.headers or ()}
            elif isinstance(event, DataReceived):
                answer.body += event.data or b""
                self._h2.acknowledge_received_data(event.flow_controlled_length, stream)
                self._flush()
            elif isinstance(event, StreamEnded):
                return answer
        raise AssertionError("the connection has ended")

    def _events(self) -> Iterator[Event]:
        while received := self._socket.recv(65536):
            events = self._h2.receive_data(received)
            self._flush()
            yield from events

    def _flush(self) -> None:
        self._socket.sendall(self._h2.data_to_send())


@contextmanager
def http2(port: int) -> Iterator[Http2]:
    """A connection to a port of loopback, whose waits are limited."""
    with socket.create_connection(("127.0.0.1", port), 60) as connection:
        yield Http2(connection)
