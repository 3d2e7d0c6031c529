"""Google's client of gRPC, grpcio, whose messages are bytes here."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

SECONDS = 60.0
"""Deadline of a call, in seconds."""

_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own for each channel
    ("grpc.enable_http_proxy", 0),
    ("grpc.ssl_target_name_override", "localhost"),
)


class GrpcError(Exception):
    """A call has failed: with which status, such as `NOT_FOUND`, and message."""

    def __init__(self, error: Any) -> None:
        self.status: str = error.code().name
        self.message: str = error.details() or ""
        super().__init__(f"{self.status}: {self.message}")


class GrpcClient:
    """A connection to a server of gRPC. Paths are `/package.Service/Method`."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def call(self, path: str, message: bytes = b"", **how: Any) -> bytes:
        """The answer to one message.

        Raises:
            GrpcError: the call has failed.
        """
        return self._awaited(self._channel.unary_unary(path, _same, _same), message, **how)

    def send(self, path: str, messages: Iterable[bytes], **how: Any) -> bytes:
        """The answer to a stream of messages.

        Raises:
            GrpcError: the call has failed.
        """
        return self._awaited(self._channel.stream_unary(path, _same, _same), iter(messages), **how)

    def receive(self, path: str, message: bytes = b"", **how: Any) -> Iterator[bytes]:
        """The messages that answer one message, as they come.

        Raises:
            GrpcError: the call has failed.
        """
        stream = self.begin(path, message, **how)
        try:
            yield from stream
        except grpc.RpcError as error:
            raise GrpcError(error) from error
        finally:
            stream.cancel()

    def begin_to_send(self, path: str, messages: Iterator[bytes], **how: Any) -> Any:
        """A call that has begun to send its messages, with `result()` and `cancel()`."""
        return self._channel.stream_unary(path, _same, _same).future(
            messages, **_with_deadline(how)
        )

    def begin(self, path: str, message: bytes = b"", **how: Any) -> Any:
        """A call that has begun: an iterator of messages, with `cancel()`."""
        return self._channel.unary_stream(path, _same, _same)(message, **_with_deadline(how))

    def _awaited(self, start: Callable[..., bytes], message: object, **how: Any) -> bytes:
        try:
            return start(message, **_with_deadline(how))
        except grpc.RpcError as error:
            raise GrpcError(error) from error


@contextmanager
def grpc_client(port: int, certificate: Path | None = None) -> Iterator[GrpcClient]:
    """A client of the server at a port of loopback, over TLS if that has a `certificate`."""
    target = f"127.0.0.1:{port}"
    if certificate is None:
        channel = grpc.insecure_channel(target, options=_OPTIONS)
    else:
        credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
        channel = grpc.secure_channel(target, credentials, options=_OPTIONS)
    with channel:
        yield GrpcClient(channel)


def _with_deadline(how: dict[str, Any]) -> dict[str, Any]:
    return {"timeout": SECONDS, "wait_for_ready": False} | how


def _same(message: bytes) -> bytes:
    return message
