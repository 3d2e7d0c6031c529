"""Answers of `/up`, from one with required fields only to one with all fields."""

import math
from typing import Any

DAY = 86_400.0


def part(name: str, *children: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A running node of the tree, with the fields `more` added or replaced."""
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
    """A node with a mailbox."""
    mailbox = {"mailbox_depth": 0, "oldest_message_seconds": None, "stuck": False}
    return part(name, **mailbox | more)


def tree(**changes: dict[str, Any]) -> dict[str, Any]:
    """The service's tree; `changes` are fields by the name of their node."""

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
    """A tree in which each node without an uptime gets one of `seconds`."""
    older = {"uptime_seconds": seconds} | node
    if "children" in node:
        older["children"] = [aged(child, seconds) for child in node["children"]]
    return older


def traffic(steps: int = 60) -> dict[str, Any]:
    """Recent figures for the page's plots: a wave, with a pause and then a burst in it."""

    def wave(step: int, amount: float) -> float:
        return amount * (math.sin(step / 7) + 0.4 * math.sin(step * 2.1))

    def moment(step: int) -> tuple[float | None, ...]:
        if step in range(19, 23):
            return (0, None, None, None, 0.0)
        burst = step in range(33, 44)
        return (
            round(60 + wave(step, 20) + 140 * burst, 1),
            round(0.9 + wave(step, 0.03) - 0.4 * (step == 34), 3),
            round(1.6 + wave(step, 0.2), 2),
            round(4 + wave(step, 0.8) + 3 * burst, 2),
            1.2 if step == 34 else 0.0,
        )

    names = ("requests_per_second", "hit_rate", "latency_ms_p50", "latency_ms_p95")
    moments = [moment(step) for step in range(60 - steps, 60)]
    series = {
        name: [moment[index] for moment in moments]
        for index, name in enumerate((*names, "errors_per_second"))
    }
    return {"step_seconds": 5, **series}


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
"""Answer with the fields of the first version only."""

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
SHARING = BUSY | {
    "shared": {
        "state": "unreachable",
        "reason": "no connection",
        "seconds": 95.2,
        "backlog_files": 1204,
        "backlog_bytes": 8_412_345_678,
        "oldest_seconds": 130.2,
        "dropped": 7,
    }
}
SHARED = PLAIN | {"shared": {"state": "ok"}}
EVICTING = BUSY | {"eviction": EVICTION}
NOT_YET_EVICTED = PLAIN | {"eviction": {"used_percent": 12, "last_pass": None}}

WORKERS = PLAIN | {
    "tree": part(
        "workers",
        part("worker_1", *aged(tree(), 900.0)["children"]),
        part("worker_2", *aged(tree(kv_store={"restarts": 3}), 12.5)["children"], restarts=1),
        part("acceptor"),
    )
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

FIGURES: list[tuple[str, float | None, str]] = [
    ("figures", None, "-"),
    ("figures", 0, "0"),
    ("figures", 0.5, "0.5"),
    ("figures", 1.66, "1.7"),
    ("figures", 68.91, "68.9"),
    ("figures", 1234567.8, "1,234,568"),
    ("time", None, "-"),
    ("time", 0.0, "0 ms"),
    ("time", 0.0421, "42 ms"),
    ("time", 59.9, "59 s"),
    ("time", 200, "3 min 20 s"),
    ("time", 3600, "1 h"),
    ("time", 190_000, "2 d 4 h"),
    ("bytes", None, "-"),
    ("bytes", 999, "999 B"),
    ("bytes", 8_412_345_678, "8.4 GB"),
    ("bytes", 5e18, "5,000 PB"),
    ("percent", None, "-"),
    ("percent", 0.876, "87.6 %"),
    ("percent", 1, "100 %"),
]
"""Kinds of figures with their text, as on the page and in the command `status`."""
