"""Responses: with JSON, and without a body."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quart_trio.wrappers import TrioResponse as Response

if TYPE_CHECKING:
    from collections.abc import Mapping

NO_STORE: Mapping[str, str] = {"Cache-Control": "no-store"}


def json_response(body: bytes, status: int = 200, headers: Mapping[str, str] = {}) -> Response:
    """A response with the encoded JSON `body`, which no cache may store."""
    return Response(
        body, status=status, headers={**NO_STORE, **headers}, content_type="application/json"
    )


class _Empty(Response):
    """A response without a body, Content-Type and Content-Length."""

    default_mimetype = None  # type: ignore[assignment]  # none at all
    automatically_set_content_length = False


def empty_response(status: int = 204, headers: Mapping[str, str] = {}) -> Response:
    """A response without a body, Content-Type and Content-Length."""
    return _Empty(b"", status=status, headers=dict(headers))


__all__ = ["NO_STORE", "Response", "empty_response", "json_response"]
