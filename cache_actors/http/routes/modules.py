"""Handlers for module artifacts, which are uploaded in parts and read as a whole.

nginx cannot derive a module's file from its URL, since names may hold any letters. So the response
to nginx has the path in `X-Accel-Redirect`, and nginx sends the bytes.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec

from cache_actors.http.errors import HttpError
from cache_actors.http.parameters import module_in, parameter
from cache_actors.http.responses import empty_response, json_response
from cache_actors.kinds import Kind
from cache_actors.storage.files.store import Published
from cache_actors.storage.files.unfinished import MAX_PART_NUMBER
from cache_actors.storage.layout import Key

from .artifacts import NO_ARTIFACT, declared_digest, read_file, require_here, sent_by_nginx
from .decision import authorized_project

if TYPE_CHECKING:
    from cache_actors.http.request import Request
    from cache_actors.http.responses import Response

FILES_HEADER = "X-Cache-Sends-Files"
"""Header of requests through nginx, which supports `X-Accel-Redirect` to stored files."""

MAX_COMPLETION_BYTES = 256 * 1024
"""Largest body of the request that completes an upload, in bytes."""

NO_CONTENT_SINCE = (4, 202, 0)
"""First version of Tuist's command line that understands 204 as "exists already"."""


class _Completion(msgspec.Struct, frozen=True):
    """The body of the request that completes an upload."""

    parts: list[int | float]  # to JSON, 1.0 is a whole number
    checksum_sha256: str | None = None


async def retrieve_module(request: Request, **_: str) -> Response:
    """`GET /api/cache/module/:hash`: the module's bytes, or a range of them; `HEAD`: 204 if stored.

    The hash in the path is ignored, since the query has it too.
    """
    key = await _key(request)
    if request.method == "HEAD" or FILES_HEADER in request.headers:
        if not await request.services.reader.find(key):
            await require_here(request, key, NO_ARTIFACT)
        return empty_response() if request.method == "HEAD" else sent_by_nginx(key)
    return await read_file(request, key)


async def start_upload(request: Request) -> Response:
    """`POST /api/cache/module/start`: the id of a new upload, unless the module exists."""
    upload_id = await request.services.parts.start(await _key(request))
    if upload_id is None and _client_version(request) >= NO_CONTENT_SINCE:
        return empty_response()
    return json_response(msgspec.json.encode({"upload_id": upload_id}))


async def put_part(request: Request) -> Response:
    """`POST /api/cache/module/part`: receive the body as a part of an upload."""
    upload_id = parameter(request.query_string, "upload_id")
    number = _part_number(parameter(request.query_string, "part_number"))
    project = await authorized_project(request)
    await request.services.parts.put(
        upload_id,
        project,
        number,
        request.body.limit(request.app.settings.largest(Kind.MODULE)),
        request.content_length,
        declared_digest(request),
        request.owner,
    )
    return empty_response()


async def complete_upload(request: Request) -> Response:
    """`POST /api/cache/module/complete`: store the module from the parts of an upload."""
    upload_id = parameter(request.query_string, "upload_id")
    project = await authorized_project(request)
    body = bytearray()
    async for piece in request.body.limit(MAX_COMPLETION_BYTES):
        body += piece
    try:
        wanted = msgspec.json.decode(body, type=_Completion)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise HttpError(HTTPStatus.BAD_REQUEST, f"The body is no completion: {error}") from None
    if any(number != int(number) for number in wanted.parts):
        raise HttpError(HTTPStatus.BAD_REQUEST, "parts must be whole numbers")
    numbers = list(map(int, wanted.parts))
    published = await request.services.parts.complete(
        upload_id, project, numbers, _digest(wanted.checksum_sha256), request.owner
    )
    request.duplicate = published is not Published.STORED
    return empty_response()


async def _key(request: Request) -> Key:
    """The key of the module that the query names."""
    module_id = module_in(request.query_string)
    return Key(await authorized_project(request), Kind.MODULE, module_id)


def _part_number(value: str) -> int:
    number = int(value) if re.fullmatch("[0-9]{1,5}", value, re.ASCII) else 0
    if not 1 <= number <= MAX_PART_NUMBER:
        raise HttpError(
            HTTPStatus.BAD_REQUEST,
            f"part_number must be a whole number from 1 to {MAX_PART_NUMBER}",
        )
    return number


def _digest(value: str | None) -> bytes | None:
    if value is None:
        return None
    if not re.fullmatch("[0-9A-Fa-f]{64}", value):
        raise HttpError(HTTPStatus.BAD_REQUEST, "checksum_sha256 must be 64 hexadecimal characters")
    return bytes.fromhex(value)


def _client_version(request: Request) -> tuple[int, ...]:
    """The version of Tuist's command line that sent the request; (0,) for other clients."""
    numbers = re.match(
        r"(\d{1,9})\.(\d{1,9})\.(\d{1,9})", request.headers.get("x-tuist-cli-version", "")
    )
    return tuple(map(int, numbers.groups())) if numbers else (0,)
