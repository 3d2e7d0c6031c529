"""Handlers for CAS artifacts, the outputs of compile jobs, and shared parts of other handlers."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Self

from quart.wrappers.response import ResponseBody
from werkzeug.http import http_date

from cache_actors.http.conditional import etag, select
from cache_actors.http.errors import HttpError
from cache_actors.http.responses import Response, empty_response
from cache_actors.kinds import Kind
from cache_actors.s3.outcome import Outcome
from cache_actors.storage.files.store import Published
from cache_actors.storage.layout import Key, parse_id

from .decision import authorized_project

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from cache_actors.http.request import Request
    from cache_actors.transfer.artifact_reader import Artifact

DIGEST_HEADER = "tuist-checksum-sha256"
"""Header with the SHA-256 of an artifact: optional in an upload, and present in a full response."""

_DIGEST = re.compile("[0-9A-Fa-f]{64}")

IMMUTABLE = "private, max-age=31536000, immutable"
"""`Cache-Control` of an artifact. `public` would allow shared caches to skip the authorisation."""


NO_ARTIFACT = "Artifact does not exist"

MISSED_HEADER = "X-Cache-Missed"
"""Header of reads that nginx passes on as it has no such file. It sends the file if there is one by
the time of the answer."""

ABSENT_SECONDS = 30
"""Time in seconds for which nginx remembers that something is neither here nor in the bucket."""

UNKNOWN_SECONDS = 1
"""The same, if the bucket could not be asked."""

_PLACE = "/_cache_file/"
"""Path of nginx's internal location for the storage folder."""


async def retrieve_artifact(request: Request, artifact_id: str) -> Response:
    """`GET` or `HEAD /api/cache/cas/:id`: the artifact's bytes, or a range of them."""
    return await read_file(request, await authorized_key(request, Kind.CAS, "id", artifact_id))


async def store_artifact(request: Request, artifact_id: str) -> Response:
    """`POST /api/cache/cas/:id`: store the body, unless the artifact exists already."""
    await store_body(request, await authorized_key(request, Kind.CAS, "id", artifact_id))
    return empty_response()


async def require_here(request: Request, key: Key, missing: str) -> None:
    """Have the file of `key`, which is not here, looked for in the bucket; return if it is by then.

    Args:
        request: the request.
        key: which file.
        missing: the message if it is not.

    Raises:
        HttpError: 404.
    """
    fetcher = request.services.fetcher
    if fetcher is None:
        raise HttpError(HTTPStatus.NOT_FOUND, missing)
    outcome = await fetcher.pull(key)
    if outcome is not Outcome.HERE:
        seconds = UNKNOWN_SECONDS if outcome is Outcome.UNKNOWN else ABSENT_SECONDS
        headers = {"X-Accel-Expires": str(seconds)}
        raise HttpError(HTTPStatus.NOT_FOUND, missing, headers)


def sent_by_nginx(key: Key) -> Response:
    """The response that has nginx send the file of `key`, with its own validators."""
    headers = {"X-Accel-Redirect": _PLACE + key.place, "Cache-Control": IMMUTABLE}
    return empty_response(HTTPStatus.OK, headers)


async def authorized_key(request: Request, kind: Kind, name: str, value: str) -> Key:
    """The key with the id `value` in the project that the request is authorised for.

    Raises:
        InvalidIdentifier: `value` is no id of `kind`; the message calls it `name`.
        As `authorized_project`.
    """
    parse_id(kind, name, value)
    return Key(await authorized_project(request), kind, value)


async def read_file(request: Request, key: Key) -> Response:
    """The response with the file stored under `key`, or with the requested range of it.

    Raises:
        HttpError: 404, 412 or 416.
        StorageError: the disk failed.
    """
    if MISSED_HEADER in request.headers:
        if not await request.services.reader.find(key):
            await require_here(request, key, NO_ARTIFACT)
        return sent_by_nginx(key)
    artifact = await request.services.reader.open(key)
    if artifact is None:
        await require_here(request, key, NO_ARTIFACT)
        artifact = await request.services.reader.open(key)
    if artifact is None:
        raise HttpError(HTTPStatus.NOT_FOUND, NO_ARTIFACT)
    try:
        return _response(request, artifact)
    except HttpError:
        artifact.close()
        raise


async def store_body(request: Request, key: Key) -> Published:
    """Store the request's body under `key`, unless that exists already."""
    digest = declared_digest(request)
    body = request.body.limit(request.app.settings.largest(key.kind))
    published = await request.services.writer.store(
        key, body, request.content_length, digest, request.owner
    )
    request.duplicate = published is Published.EXISTS
    return published


def declared_digest(request: Request) -> bytes | None:
    """The SHA-256 that the client declares for its body, or None.

    Raises:
        HttpError: 400, the header is not 64 hexadecimal characters.
    """
    if DIGEST_HEADER not in request.headers:
        return None
    declared = ",".join(request.headers.getlist(DIGEST_HEADER))
    if _DIGEST.fullmatch(declared) is None:
        raise HttpError(
            HTTPStatus.BAD_REQUEST, f"{DIGEST_HEADER} must be 64 hexadecimal characters"
        )
    return bytes.fromhex(declared)


def _response(request: Request, artifact: Artifact) -> Response:
    selection = select(request.headers, artifact.mtime, artifact.size)
    headers = {
        "ETag": etag(artifact.mtime, artifact.size),
        "Last-Modified": http_date(artifact.mtime),
        "Cache-Control": IMMUTABLE,
        "Accept-Ranges": "bytes",
    }
    start, end = selection.start, selection.end
    match selection.status:
        case HTTPStatus.PRECONDITION_FAILED:
            raise HttpError(selection.status, "Precondition failed")
        case HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise HttpError(
                selection.status,
                "Requested range not satisfiable",
                {"Content-Range": f"bytes */{artifact.size}"},
            )
        case HTTPStatus.PARTIAL_CONTENT:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{artifact.size}"
        case HTTPStatus.OK if artifact.digest is not None:
            headers[DIGEST_HEADER] = artifact.digest.hex()
    response = Response(
        _Pieces(artifact, start, start if request.method == "HEAD" else end),
        status=selection.status,
        headers=headers,
    )
    if selection.status is HTTPStatus.NOT_MODIFIED:
        del response.headers["Content-Type"]
    else:
        response.content_type = "application/octet-stream"
        response.content_length = end - start
    return response


class _Pieces(ResponseBody):
    """A response body with a range of an artifact, which it closes after use."""

    def __init__(self, artifact: Artifact, start: int, end: int) -> None:
        self._artifact = artifact
        self._pieces = artifact.read(start, end)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pieces.aclose()
        self._artifact.close()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._pieces
