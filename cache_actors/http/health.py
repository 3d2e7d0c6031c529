"""Health: `GET /up` says whether everything runs, `GET /ready` whether builds may come.

Both read records and ask neither an actor nor the disk, so that none that is stuck can hang them.
Trouble with writing is told by both. It leaves the status of `/up` as it is, since reads go on; but
an instance that cannot write is not ready for builds.
"""

from __future__ import annotations

import time
from http import HTTPStatus
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import msgspec

from cache_actors.storage.health import StorageState
from cache_actors.supervision import State

from .context import app
from .responses import Response, json_response

if TYPE_CHECKING:
    from cache_actors.storage.health import StorageStatus
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
        "storage": _storage(app().services.storage()),
        "recent": app().metrics.recent.figures(),
        "tree": _node(tree),
    }
    return _json(body, healthy=healthy)


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
    return _json({"status": status}, healthy=status == "ready")


def _json(body: dict[str, Any], *, healthy: bool) -> Response:
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
        "uptime_seconds": None if status.uptime is None else round(status.uptime, 1),
    }
    if status.depth is not None:
        node["mailbox_depth"] = status.depth
        node["oldest_message_seconds"] = None if status.oldest is None else round(status.oldest, 3)
        node["stuck"] = status.stuck
    if status.children:
        node["children"] = [_node(child) for child in status.children]
    return node
