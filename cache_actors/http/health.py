"""`GET /up`: is everything running, and if not, what isn't; and can the disk be written to.

Programs get JSON, browsers a page that draws it (`page`). It reads records and asks neither an
actor nor the disk, so that none that is stuck can hang it. Trouble with writing is told, but leaves
the status as it is: reads go on.
"""

from __future__ import annotations

import time
from http import HTTPStatus
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import msgspec

from cache_actors.supervision import State

from .context import app, request
from .page import is_wanted, page_response
from .responses import Response, json_response

if TYPE_CHECKING:
    from cache_actors.storage.health import StorageStatus
    from cache_actors.supervision import Status

_VERSION = version("cache-actors")
_STARTED = time.monotonic()


async def up() -> Response:
    """200 if every part of the tree runs and none is stuck, else 503; 503 too while stopping.

    An instance that another has taken over from says 200 while it stops: nginx asks it over
    connections that it keeps, and the service as a whole is up.
    """
    tree = app().services.status()
    stopping = tree.state is State.STOPPING
    handing_over = stopping and app().services.is_replaced()
    healthy = handing_over or tree.is_healthy()
    if stopping:
        said = "handing_over" if handing_over else "draining"
    else:
        said = "up" if healthy else "degraded"
    body = {
        "status": said,
        "version": _VERSION,
        "uptime_seconds": round(time.monotonic() - _STARTED, 1),
        "storage": _storage(app().services.storage()),
        "tree": _node(tree),
    }
    status = HTTPStatus.OK if healthy else HTTPStatus.SERVICE_UNAVAILABLE
    respond = page_response if is_wanted(request().accept_mimetypes) else json_response
    response = respond(msgspec.json.encode(body), status)
    response.headers["Vary"] = "Accept"
    return response


def _storage(status: StorageStatus) -> dict[str, Any]:
    return {
        "state": status.state.value,
        "reason": status.reason,
        "seconds": round(time.monotonic() - status.since, 1),
        "free_bytes": status.free_bytes,
        "free_inodes": status.free_inodes,
    }


def _node(status: Status) -> dict[str, Any]:
    node: dict[str, Any] = {
        "name": status.name,
        "state": status.state.value,
        "restarts": status.restarts,
        "last_error": status.last_error,
    }
    if status.depth is not None:
        node["mailbox_depth"] = status.depth
        node["oldest_message_seconds"] = None if status.oldest is None else round(status.oldest, 3)
        node["stuck"] = status.stuck
    if status.children:
        node["children"] = [_node(child) for child in status.children]
    return node
