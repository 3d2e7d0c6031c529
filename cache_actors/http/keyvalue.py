"""Key-value entries: what a compile job's result is."""

from __future__ import annotations

from http import HTTPStatus

import msgspec

from cache_actors.kinds import Kind
from cache_actors.storage.layout import Entry, parse_id
from cache_actors.storage.references import references

from .authorization import authorized_project
from .context import app, request
from .errors import HttpError
from .responses import Response, empty_response, json_response


class Value(msgspec.Struct):
    """One value: an opaque string."""

    value: str


class Values(msgspec.Struct):
    """What is stored, and the response that retrieves it."""

    entries: list[Value]


class StoreRequest(Values):
    """The body of a request to store values under `cas_id`."""

    cas_id: str


_decode = msgspec.json.Decoder(StoreRequest).decode
_encode = msgspec.json.Encoder().encode


async def retrieve_values(cas_id: str) -> Response:
    """`PUT` (older clients) or `GET /api/cache/keyvalue/:cas_id`: the values stored under it."""
    parse_id("cas_id", cas_id)
    entry = Entry(await authorized_project(), Kind.KEYVALUE, cas_id)
    body = await app().services.keyvalue.get(entry)
    if body is None:
        raise HttpError(HTTPStatus.NOT_FOUND, f"No entries found for CAS ID {cas_id}.")
    return json_response(body)


async def store_values() -> Response:
    """`PUT /api/cache/keyvalue`: store values, in place of those that there were."""
    project = await authorized_project()
    services = app().services
    body = request().body.limit(app().settings.max_keyvalue_bytes)
    async with body.collected(services.memory, request().owner) as text:
        try:
            wanted = _decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise HttpError(HTTPStatus.BAD_REQUEST, f"The body is invalid: {error}") from error
        entry = Entry(project, Kind.KEYVALUE, parse_id("cas_id", wanted.cas_id))
        artifacts = references(value.value for value in wanted.entries)
        encoded = _encode(Values(wanted.entries))
        missing = await services.keyvalue.put(entry, encoded, artifacts, request().owner)
        if missing is not None:
            app().log_missing_artifact(request(), missing, stored=True)
    return empty_response()
