"""The kinds of response there are."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Self

from quart.wrappers.response import ResponseBody
from quart_trio.wrappers import TrioResponse as Response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

NO_STORE: Mapping[str, str] = {"Cache-Control": "no-store"}


def json_response(body: bytes, status: int = 200, headers: Mapping[str, str] = {}) -> Response:
    """A response with the JSON `body`, which no cache may store."""
    return Response(
        body, status=status, headers={**NO_STORE, **headers}, content_type="application/json"
    )


class _Nothing(ResponseBody):
    """A body of no bytes."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b""


class _Empty(Response):
    """A response without a body, made of its status and headers alone: to make Quart's own takes
    several times as long as the rest of the handler."""

    response = _Nothing()

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        self._status_code = status
        self.headers = headers  # type: ignore[assignment]  # their names are ours: of one case


def empty_response(status: int = 204, headers: Mapping[str, str] = {}) -> Response:
    """A response without a body and `Content-Type`. Its `Content-Length` is 0, but for a 204, which
    must have none (RFC 9110, section 8.6)."""
    length = {} if status == HTTPStatus.NO_CONTENT else {"Content-Length": "0"}
    return _Empty(status, {**length, **headers})


__all__ = ["NO_STORE", "Response", "empty_response", "json_response"]
