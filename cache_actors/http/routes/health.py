"""Handlers for health: `GET /up` for the tree's parts, `GET /ready` for readiness for builds.

For `/up` programs get JSON, and browsers a page that draws it (`page`). Both paths read records and
use neither actors nor the disk, so that neither can hang them. Both report failing writes, which
leave the status of `/up` as it is, since reads go on; but an instance that cannot write is not
ready for builds.
"""

from __future__ import annotations

import time
from http import HTTPStatus
from importlib.metadata import version
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET, UnsetType

from cache_actors.http.responses import Response, json_response
from cache_actors.storage.health import StorageState
from cache_actors.supervision import State

from .page import is_wanted, page_response
from .up_schema import Eviction, Health, LastPass, Nginx, Node, Shared, Storage, encode_answer

if TYPE_CHECKING:
    from cache_actors.http.request import Request
    from cache_actors.s3.status import SharedStatus
    from cache_actors.storage.eviction.last_pass import PassReport
    from cache_actors.storage.eviction.status import EvictionStatus
    from cache_actors.storage.health import StorageStatus
    from cache_actors.supervision import Status

_VERSION = version("cache-actors")


async def up(request: Request) -> Response:
    """`GET /up`: 200 if every part of the tree runs and none is stuck, else 503.

    A stopping instance answers 503, but 200 if another has taken over: nginx may still use kept
    connections to this one, and the service as a whole is up.
    """
    tree = request.services.status()
    stopping = tree.state is State.STOPPING or request.app.in_flight.draining
    handing_over = stopping and request.services.is_replaced()
    healthy = handing_over or tree.is_healthy()
    if stopping:
        said = "handing_over" if handing_over else "draining"
    else:
        said = "up" if healthy else "degraded"
    answer = Health(
        said,
        _VERSION,
        round(time.monotonic() - request.services.since, 1),
        _storage(request.services.storage()),
        _eviction(request.services.eviction()),
        Nginx(tuple(request.services.nginx_troubles())),
        _shared(request.services.shared()),
        request.services.recent(),
        _node(tree),
    )
    respond = page_response if is_wanted(request.accept_mimetypes) else json_response
    response = respond(encode_answer(answer), _status(healthy))
    response.headers["Vary"] = "Accept"
    return response


async def ready(request: Request) -> Response:
    """`GET /ready`: 200 if all requests can be served, else 503 with the reason in the body."""
    tree = request.services.status().state
    storage = request.services.storage().state
    if tree is State.STARTING:
        status = "starting"
    elif tree is not State.RUNNING or request.app.in_flight.draining:
        status = "draining"
    else:
        status = "ready" if storage is StorageState.OK else f"storage_{storage.value}"
    return json_response(msgspec.json.encode({"status": status}), _status(status == "ready"))


def _status(healthy: bool) -> HTTPStatus:
    return HTTPStatus.OK if healthy else HTTPStatus.SERVICE_UNAVAILABLE


def _storage(status: StorageStatus) -> Storage:
    return Storage(
        status.state.value,
        status.reason,
        round(time.monotonic() - status.since, 1),
        status.free_bytes,
        status.free_inodes,
    )


def _eviction(status: EvictionStatus) -> Eviction:
    return Eviction(
        None if status.used is None else round(status.used * 100, 1),
        status.running,
        status.failure,
        status.passes,
        status.artifacts,
        status.entries,
        status.bytes,
        None if status.last is None else _last_pass(status.last),
    )


def _shared(status: SharedStatus | None) -> Shared | UnsetType:
    if status is None:
        return UNSET
    return Shared(
        status.state,
        status.reason,
        round(time.monotonic() - status.since, 1),
        status.files,
        status.bytes,
        round(status.oldest, 1),
        status.dropped,
    )


def _last_pass(last: PassReport) -> LastPass:
    return LastPass(
        round(max(0.0, time.time() - last.ended), 1),
        last.seconds,
        last.artifacts,
        last.entries,
        last.bytes,
        last.youngest_evicted_seconds,
        last.stored_artifacts,
        last.stored_entries,
        last.stored_bytes,
    )


def _node(status: Status) -> Node:
    has_mailbox = status.depth is not None
    oldest = None if status.oldest is None else round(status.oldest, 3)
    return Node(
        status.name,
        status.state.value,
        status.restarts,
        status.last_error,
        None if status.uptime is None else round(status.uptime, 1),
        UNSET if status.depth is None else status.depth,
        oldest if has_mailbox else UNSET,
        status.stuck if has_mailbox or status.stuck else UNSET,
        tuple(map(_node, status.children)) or UNSET,
    )
