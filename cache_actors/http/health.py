"""`GET /up`: is everything running, and if not, what isn't; and can the disk be written to.

It reads records and asks neither an actor nor the disk, so that none that is stuck can hang it.
Trouble with writing is told, but leaves the status as it is: reads go on.
"""

from __future__ import annotations

import time
from http import HTTPStatus
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import msgspec

from .context import app
from .responses import Response, json_response

if TYPE_CHECKING:
    from cache_actors.storage.health import StorageStatus
    from cache_actors.supervision import Status

_VERSION = version("cache-actors")


async def up() -> Response:
    """200 if every part of the tree runs and none is stuck, else 503; 503 too while draining."""
    tree = app().services.status()
    draining = app().in_flight.draining
    healthy = tree.is_healthy() and not draining
    body = {
        "status": "draining" if draining else "up" if healthy else "degraded",
        "version": _VERSION,
        "uptime_seconds": round(time.monotonic() - app().services.since, 1),
        "storage": _storage(app().services.storage()),
        "tree": _node(tree),
    }
    status = HTTPStatus.OK if healthy else HTTPStatus.SERVICE_UNAVAILABLE
    return json_response(msgspec.json.encode(body), status)


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
    if status.depth is not None or status.stuck:
        node["stuck"] = status.stuck
    if status.children:
        node["children"] = [_node(child) for child in status.children]
    return node
