"""`GET /up`: is everything running, and if not, what isn't.

It reads the supervisor's records and asks no actor, so a stuck one can't hang it.
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
    from cache_actors.supervision import Status

_VERSION = version("cache-actors")
_STARTED = time.monotonic()


async def up() -> Response:
    """200 if every part of the tree runs and none is stuck, else 503; 503 too while draining."""
    tree = app().services.status()
    draining = app().in_flight.draining
    healthy = tree.is_healthy() and not draining
    body = {
        "status": "draining" if draining else "up" if healthy else "degraded",
        "version": _VERSION,
        "uptime_seconds": round(time.monotonic() - _STARTED, 1),
        "tree": _node(tree),
    }
    status = HTTPStatus.OK if healthy else HTTPStatus.SERVICE_UNAVAILABLE
    return json_response(msgspec.json.encode(body), status)


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
