"""Handlers for key-value entries, the results of compile jobs."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec

from cache_actors.http.errors import HttpError, record_missing_artifact
from cache_actors.http.responses import Response, empty_response, json_response
from cache_actors.kinds import Kind
from cache_actors.storage.entries import MissingArtifact
from cache_actors.storage.layout import Key, parse_id
from cache_actors.storage.references import artifact_target, references

from .artifacts import require_here
from .decision import authorized_project

if TYPE_CHECKING:
    from cache_actors.http.request import Request


class Value(msgspec.Struct):
    """One value: an opaque string."""

    value: str


class Values(msgspec.Struct):
    """The values of an entry: what is stored, and what a client that retrieves it gets."""

    entries: list[Value]  # Tuist's name for the values


class StoreRequest(Values):
    """The body of a request to store values under `cas_id`."""

    cas_id: str


_decode = msgspec.json.Decoder(StoreRequest).decode
_encode = msgspec.json.Encoder().encode


async def retrieve_values(request: Request, cas_id: str) -> Response:
    """`PUT` (older clients) or `GET /api/cache/keyvalue/:cas_id`: the values under that id."""
    parse_id(Kind.KEYVALUE, "cas_id", cas_id)
    key = Key(await authorized_project(request), Kind.KEYVALUE, cas_id)
    missing = f"No entries found for CAS ID {cas_id}."
    body = await request.services.keyvalue.get(key)
    if body is None:
        await require_here(request, key, missing)
        body = await request.services.keyvalue.get(key)
    if body is None:
        raise HttpError(HTTPStatus.NOT_FOUND, missing)
    return json_response(body)


async def store_values(request: Request) -> Response:
    """`PUT /api/cache/keyvalue`: store values, replacing earlier ones."""
    project = await authorized_project(request)
    services = request.services
    body = request.body.limit(request.app.settings.largest(Kind.KEYVALUE))
    async with body.collected(services.entry_memory, request.owner) as raw:
        try:
            parsed = _decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise HttpError(HTTPStatus.BAD_REQUEST, f"The body is invalid: {error}") from error
        key = Key(project, Kind.KEYVALUE, parse_id(Kind.KEYVALUE, "cas_id", parsed.cas_id))
        artifacts = references(value.value for value in parsed.entries)
        encoded = _encode(Values(parsed.entries))
        try:
            missing_artifact = await services.keyvalue.put(key, encoded, artifacts, request.owner)
        except MissingArtifact:
            if services.fetcher is None:
                raise
            await services.fetcher.pull_targets(project, map(artifact_target, artifacts))
            missing_artifact = await services.keyvalue.put(key, encoded, artifacts, request.owner)
        if missing_artifact is not None:  # stored all the same: KV_REQUIRE_ARTIFACTS is false
            app = request.app
            record_missing_artifact(request, missing_artifact, app.metrics, app.log, stored=True)
    return empty_response()
