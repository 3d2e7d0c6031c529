"""The constructors of responses: one with JSON, and one without a body."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Self

from quart.wrappers.response import ResponseBody
from quart_trio.wrappers import TrioResponse as Response

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

NO_STORE: Mapping[str, str] = {"Cache-Control": "no-store"}


def json_response(body: bytes, status: int = 200, headers: Mapping[str, str] = {}) -> Response:
    """A response with the JSON text `body`, which no cache may store."""
    return Response(
        body, status=status, headers={**NO_STORE, **headers}, content_type="application/json"
    )


class _EmptyBody(ResponseBody):
    """The body of a response without one: no bytes."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration


class _EmptyResponse(Response):
    """A response without a body, with no more than its status and headers. To make one of Quart's
    own takes several times as long as the rest of a handler."""

    response = _EmptyBody()

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        self._status_code = int(status)  # not an HTTPStatus, which a log of text would print as one
        self.headers = headers  # type: ignore[assignment]  # a dict: no name comes in two cases


class TrailedResponse(Response):
    """A response that ends with trailers, as an answer by gRPC does.

    Attributes:
        pieces: yields its body, and then knows its trailers.
    """

    def __init__(self, pieces: TrailedBody, headers: dict[str, str]) -> None:
        self._status_code = HTTPStatus.OK
        self.headers = headers  # type: ignore[assignment]
        self.response = pieces
        self.pieces = pieces


class TrailedBody(ResponseBody):
    """The body of a response with trailers."""

    def __aiter__(self) -> AsyncGenerator[bytes, None]:
        """The pieces of the body."""
        raise NotImplementedError

    def trailers(self) -> list[tuple[bytes, bytes]]:
        """The trailers, once the body is complete."""
        raise NotImplementedError


def empty_response(status: int = 204, headers: Mapping[str, str] = {}) -> Response:
    """A response without a body. Its only header about a body is `Content-Length: 0`, which a 204
    must not have."""
    length = {} if status == HTTPStatus.NO_CONTENT else {"Content-Length": "0"}
    return _EmptyResponse(status, {**length, **headers})


__all__ = [
    "NO_STORE",
    "Response",
    "TrailedBody",
    "TrailedResponse",
    "empty_response",
    "json_response",
]
