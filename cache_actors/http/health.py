"""Health: `GET /up` says whether everything runs, `GET /ready` whether builds may come.

Of `/up` programs get JSON, and browsers a page that draws it (`page`). Both paths read records and
ask neither an actor nor the disk, so that none that is stuck can hang them. Both tell of trouble
with writing. It leaves the status of `/up` as it is, since reads go on; but an instance that cannot
write is not ready for builds.
"""

from __future__ import annotations

import time
from http import HTTPStatus
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import msgspec

from cache_actors.storage.health import StorageState
from cache_actors.supervision import State

from .context import app, request
from .page import is_wanted, page_response
from .responses import Response, json_response

if TYPE_CHECKING:
    from cache_actors.storage.eviction_record import EvictionStatus
    from cache_actors.storage.health import StorageStatus
    from cache_actors.supervision import Status

_VERSION = version("cache-actors")


async def up() -> Response:
    """200 if every part of the tree runs and none is stuck, else 503; 503 too while stopping.

    An instance that another has taken over from says 200 while it stops: nginx asks it over
    connections that it keeps, and the service as a whole is up.
    """
    tree = app().services.status()
    stopping = tree.state is State.STOPPING or app().in_flight.draining
    handing_over = stopping and app().services.is_replaced()
    healthy = handing_over or tree.is_healthy()
    if stopping:
        said = "handing_over" if handing_over else "draining"
    else:
        said = "up" if healthy else "degraded"
    body = {
        "status": said,
        "version": _VERSION,
        "uptime_seconds": round(time.monotonic() - app().services.since, 1),
        "storage": _storage(app().services.storage()),
        "eviction": _eviction(app().services.eviction()),
        "nginx": {"troubles": app().services.nginx_troubles()},
        "recent": app().services.recent(),
        "tree": _node(tree),
    }
    respond = page_response if is_wanted(request().accept_mimetypes) else json_response
    response = respond(msgspec.json.encode(body), _status(healthy))
    response.headers["Vary"] = "Accept"
    return response


async def ready() -> Response:
    """200 if requests of all kinds can be taken, else 503; the body says why not."""
    tree = app().services.status().state
    storage = app().services.storage().state
    if tree is State.STARTING:
        status = "starting"
    elif tree is not State.RUNNING or app().in_flight.draining:
        status = "draining"
    else:
        status = "ready" if storage is StorageState.OK else f"storage_{storage.value}"
    return json_response(msgspec.json.encode({"status": status}), _status(status == "ready"))


def _status(healthy: bool) -> HTTPStatus:
    return HTTPStatus.OK if healthy else HTTPStatus.SERVICE_UNAVAILABLE


def _storage(status: StorageStatus) -> dict[str, Any]:
    return {
        "state": status.state.value,
        "reason": status.reason,
        "seconds": round(time.monotonic() - status.since, 1),
        "free_bytes": status.free_bytes,
        "free_inodes": status.free_inodes,
    }


def _eviction(status: EvictionStatus) -> dict[str, Any]:
    last = status.last
    return {
        "used_percent": None if status.used is None else round(status.used * 100, 1),
        "running": status.running,
        "failure": status.failure,
        "passes": status.passes,
        "artifacts": status.artifacts,
        "entries": status.entries,
        "bytes": status.bytes,
        "last_pass": last
        and {
            "ended_seconds_ago": round(max(0.0, time.time() - last.ended), 1),
            "seconds": last.seconds,
            "artifacts": last.artifacts,
            "entries": last.entries,
            "bytes": last.bytes,
            "youngest_evicted_seconds": last.youngest_evicted_seconds,
            "stored_artifacts": last.stored_artifacts,
            "stored_entries": last.stored_entries,
            "stored_bytes": last.stored_bytes,
        },
    }


def _node(status: Status) -> dict[str, Any]:
    node: dict[str, Any] = {
        "name": status.name,
        "state": status.state.value,
        "restarts": status.restarts,
        "last_error": status.last_error,
        "uptime_seconds": None if status.uptime is None else round(status.uptime, 1),
    }
    if status.depth is not None:
        node["mailbox_depth"] = status.depth
        node["oldest_message_seconds"] = None if status.oldest is None else round(status.oldest, 3)
    if status.depth is not None or status.stuck:
        node["stuck"] = status.stuck
    if status.children:
        node["children"] = [_node(child) for child in status.children]
    return node
