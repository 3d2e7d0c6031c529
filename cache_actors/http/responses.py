"""The kinds of response there are."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from quart_trio.wrappers import TrioResponse as Response

if TYPE_CHECKING:
    from collections.abc import Mapping

NO_STORE: Mapping[str, str] = {"Cache-Control": "no-store"}


def json_response(body: bytes, status: int = 200, headers: Mapping[str, str] = {}) -> Response:
    """A response with encoded JSON, which nobody may store."""
    return Response(
        body, status=status, headers={**NO_STORE, **headers}, content_type="application/json"
    )


class _Empty(Response):
    """A response without a body, nor headers that describe one."""

    default_mimetype = None  # type: ignore[assignment]  # none at all
    automatically_set_content_length = False


def empty_response(status: int = 204, headers: Mapping[str, str] = {}) -> Response:
    """A response without a body, nor headers that describe one but a length where one may be."""
    length = {} if status == HTTPStatus.NO_CONTENT else {"Content-Length": "0"}
    return _Empty(b"", status=status, headers={**length, **headers})


__all__ = ["NO_STORE", "Response", "empty_response", "json_response"]
