"""Handlers for Gradle's build cache: task outputs, under keys that Gradle computes."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from cache_actors.http.errors import HttpError
from cache_actors.http.responses import empty_response
from cache_actors.kinds import Kind
from cache_actors.storage.files.store import Published

from .artifacts import authorized_key, read_file, store_body

if TYPE_CHECKING:
    from cache_actors.http.request import Request
    from cache_actors.http.responses import Response


async def retrieve_output(request: Request, key: str) -> Response:
    """`GET` or `HEAD /api/cache/gradle/:key`: the output's bytes, or a range of them."""
    return await read_file(request, await authorized_key(request, Kind.GRADLE, "key", key))


async def store_output(request: Request, key: str) -> Response:
    """`PUT /api/cache/gradle/:key`: store the body; 201, or 200 if the output exists already.

    Raises:
        HttpError: 422 without a `Content-Length`, as of the server that this one replaces.
    """
    output = await authorized_key(request, Kind.GRADLE, "key", key)
    if request.content_length is None:
        raise HttpError(HTTPStatus.UNPROCESSABLE_ENTITY, "Content-Length is missing")
    published = await store_body(request, output)
    return empty_response(HTTPStatus.CREATED if published is Published.STORED else HTTPStatus.OK)
