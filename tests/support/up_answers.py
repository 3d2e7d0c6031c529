"""What `/up` may answer: with no more than it must tell, and with all that it may."""

from __future__ import annotations

import math
from typing import Any

DAY = 86_400.0


def part(name: str, *children: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A part of the tree that runs, but for what `more` says."""
    below = {"children": list(children)} if children else {}
    return {
        "name": name,
        "state": "running",
        "restarts": 0,
        "last_error": None,
        **below,
        **more,
    }


def actor(name: str, **more: Any) -> dict[str, Any]:
    """A part with a mailbox."""
    mailbox = {"mailbox_depth": 0, "oldest_message_seconds": None, "stuck": False}
    return part(name, **mailbox | more)


def tree(**changes: dict[str, Any]) -> dict[str, Any]:
    """The service's tree; `changes` are to parts of these names."""

    def changed(node: dict[str, Any]) -> dict[str, Any]:
        return node | changes.get(node["name"], {})

    return part(
        "cache_actors",
        changed(actor("disk_writer")),
        changed(actor("kv_store")),
        changed(actor("auth_cache")),
        changed(part("housekeeper")),
        changed(part("scrubber")),
        part("http", changed(part("listener"))),
    )


def aged(node: dict[str, Any], seconds: float) -> dict[str, Any]:
    """A tree whose every part tells how long it has been running."""
    older = {"uptime_seconds": seconds} | node
    if "children" in node:
        older["children"] = [aged(child, seconds) for child in node["children"]]
    return older


def traffic(steps: int = 60) -> dict[str, Any]:
    """What has been going on lately: a swell, a burst of new work, and a pause before it."""

    def series(value: Any) -> list[Any]:
        return [value(step) for step in range(60 - steps, 60)]

    def wave(step: int, amount: float) -> float:
        return amount * (math.sin(step / 7) + 0.4 * math.sin(step * 2.1))

    burst, pause = range(33, 44), range(19, 23)
    return {
        "step_seconds": 5,
        "requests_per_second": series(
            lambda step: (
                0 if step in pause else round(60 + wave(step, 20) + 140 * (step in burst), 1)
            )
        ),
        "hit_rate": series(
            lambda step: (
                None if step in pause else round(0.9 + wave(step, 0.03) - 0.4 * (step == 34), 3)
            )
        ),
        "latency_ms_p50": series(
            lambda step: None if step in pause else round(1.6 + wave(step, 0.2), 2)
        ),
        "latency_ms_p95": series(
            lambda step: (
                None if step in pause else round(4 + wave(step, 0.8) + 3 * (step in burst), 2)
            )
        ),
        "errors_per_second": series(lambda step: 1.2 if step == 34 else 0.0),
    }


STORAGE: dict[str, Any] = {
    "state": "ok",
    "reason": None,
    "seconds": 3.2 * DAY,
    "free_bytes": 71_234_567_890,
    "free_inodes": 16_286_867,
}
EVICTION: dict[str, Any] = {
    "used_percent": 81.4,
    "last_pass": {
        "ended_seconds_ago": 130.2,
        "artifacts": 1204,
        "entries": 311,
        "bytes": 8_412_345_678,
        "youngest_evicted_seconds": 9 * DAY,
    },
}
PLAIN: dict[str, Any] = {
    "status": "up",
    "version": "0.1.0",
    "uptime_seconds": 3.2 * DAY,
    "storage": STORAGE,
    "tree": tree(),
}
"""No more than there has always been."""

NEWBORN = PLAIN | {"uptime_seconds": 3.0, "recent": traffic(steps=1)}
SILENT = PLAIN | {"recent": traffic(steps=0)}

BUSY = PLAIN | {
    "recent": traffic(),
    "tree": aged(
        tree(
            disk_writer={"restarts": 2, "last_error": "OSError", "uptime_seconds": 1841.2},
            kv_store={"mailbox_depth": 17, "oldest_message_seconds": 0.042},
        ),
        3.2 * DAY,
    ),
}
EVICTING = BUSY | {"eviction": EVICTION}
NOT_YET_EVICTED = PLAIN | {"eviction": {"used_percent": 12, "last_pass": None}}

WORKERS = PLAIN | {
    "tree": part("cache_actors", part("worker_0"), part("worker_1", restarts=1)),
    "workers": [
        {"name": "worker_0", "tree": aged(tree(), 900.0)},
        {"name": "worker_1", "tree": aged(tree(kv_store={"restarts": 3}), 12.5)},
    ],
}
DEGRADED = PLAIN | {
    "status": "degraded",
    "storage": STORAGE
    | {"state": "failing", "reason": "Input/output error", "free_bytes": None, "free_inodes": None},
    "tree": tree(
        disk_writer={"mailbox_depth": 256, "oldest_message_seconds": 31.4, "stuck": True},
        auth_cache={"state": "starting", "restarts": 19, "last_error": "ConnectionRefusedError"},
    ),
}
DRAINING = PLAIN | {"status": "draining", "tree": tree(listener={"state": "stopping"})}

EVERY = {
    "plain": PLAIN,
    "newborn": NEWBORN,
    "silent": SILENT,
    "busy": BUSY,
    "evicting": EVICTING,
    "not yet evicted": NOT_YET_EVICTED,
    "workers": WORKERS,
    "degraded": DEGRADED,
    "draining": DRAINING,
}
