"""The health of the service, rendered for a terminal: a few lines, and the tree as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import UNSET
from rich.console import Group
from rich.table import Table
from rich.text import Text

from cache_actors.cli.format import (
    format_bytes,
    format_number,
    format_percent,
    format_seconds,
    printable,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import RenderableType

    from cache_actors.http.routes.up_schema import Eviction, Health, Node, Shared, Storage
    from cache_actors.metrics.recent import Figures

_STYLES = {
    "up": "bold green",
    "ok": "green",
    "running": "green",
    "starting": "yellow",
    "stopping": "yellow",
    "draining": "bold yellow",
    "handing_over": "bold yellow",
    "full": "bold yellow",
}
_TROUBLE = "bold red"
"""Style of trouble, and of any state or status that is not in `_STYLES`."""

_COLUMNS = ("", "state", "restarts", "messages", "oldest", "up", "last error")
_NUMBERS = {"restarts", "messages", "oldest", "up"}

_LINES = ("├── ", "└── ", "│   ", "    ")
_PLAIN_LINES = ("|-- ", "`-- ", "|   ", "    ")
"""As `_LINES`, in ASCII: before a child, before the last child, and before what is below each."""


def view(health: Health, *, only_ascii: bool = False) -> RenderableType:
    """Render `health` for rich to print.

    Args:
        health: the answer of `/up`.
        only_ascii: whether to draw the tree in ASCII, for terminals without other characters.
    """
    return Group(*_summary(health), Text(), _tree(health, _PLAIN_LINES if only_ascii else _LINES))


def _summary(health: Health) -> Iterator[Text]:
    about = [f"version {health.version}"] if health.version else []
    about += [f"up for {format_seconds(health.uptime_seconds)}"] if health.uptime_seconds else []
    yield _line(_styled(health.status), ", ".join(about))
    if health.recent:
        yield _line(_traffic(health.recent))
    if health.storage:
        yield _line("Storage", _styled(health.storage.state), _room(health.storage))
    if health.shared is not UNSET:
        yield _line("Bucket", _styled(health.shared.state), _backlog(health.shared))
    if health.nginx and health.nginx.troubles:
        troubles = ", ".join(printable(each.replace("_", " ")) for each in health.nginx.troubles)
        yield _line("nginx:", Text(troubles, style=_TROUBLE))
    if health.eviction:
        yield _line(_evicted(health.eviction))


def _traffic(recent: Figures) -> str:
    def now(series: Sequence[float | None]) -> float | None:
        return series[-1] if series else None

    requests = format_number(now(recent.get("requests_per_second", ())))
    hits = format_percent(now(recent.get("hit_rate", ())))
    median = format_number(now(recent.get("latency_ms_p50", ())))
    slow = format_number(now(recent.get("latency_ms_p95", ())))
    errors = format_number(now(recent.get("errors_per_second", ())))
    return (
        f"{requests} requests/s, {hits} hits, latency {median} ms (p50), {slow} ms (p95), "
        f"{errors} errors/s"
    )


def _room(storage: Storage) -> str:
    since = [f"for {format_seconds(storage.seconds)}"] if storage.seconds is not None else []
    reason = [printable(storage.reason)] if storage.reason else []
    free = [f"{format_bytes(storage.free_bytes)} free"] if storage.free_bytes is not None else []
    free += [f"{storage.free_inodes:,} inodes free"] if storage.free_inodes is not None else []
    return ", ".join([*since, *reason, *free])


def _backlog(shared: Shared) -> str:
    since = [f"for {format_seconds(shared.seconds)}"] if shared.seconds is not None else []
    reason = [printable(shared.reason)] if shared.reason else []
    left = f"{shared.backlog_files:,} files to go, {format_bytes(shared.backlog_bytes)}"
    waiting = [f"the oldest for {format_seconds(shared.oldest_seconds)}"]
    backlog = [left, *waiting] if shared.backlog_files else ["nothing to go"]
    lost = [f"{shared.dropped:,} evicted before they were there"] if shared.dropped else []
    return ", ".join([*since, *reason, *backlog, *lost])


def _evicted(eviction: Eviction) -> str:
    used = None if eviction.used_percent is None else eviction.used_percent / 100
    last = eviction.last_pass
    if last is None:
        return f"{format_percent(used)} used, nothing evicted yet"
    youngest = last.youngest_evicted_seconds
    what = [f"{last.artifacts} artifacts", f"{last.entries} entries", format_bytes(last.bytes)]
    what += [] if youngest is None else [f"the youngest unused for {format_seconds(youngest)}"]
    return (
        f"{format_percent(used)} used, last eviction {format_seconds(last.ended_seconds_ago)} ago: "
        + ", ".join(what)
    )


def _tree(health: Health, lines: tuple[str, ...]) -> Table:
    rows = list(_rows(health.tree, lines)) if health.tree else []
    table = Table(box=None, pad_edge=False, header_style="dim")
    filled = [any(row[index].plain for row in rows) for index in range(len(_COLUMNS))]
    for column, is_filled in zip(_COLUMNS, filled, strict=True):
        if is_filled:
            table.add_column(
                column, justify="right" if column in _NUMBERS else "left", no_wrap=True
            )
    for row in rows:
        table.add_row(*(cell for cell, is_filled in zip(row, filled, strict=True) if is_filled))
    return table


def _rows(
    part: Node, lines: tuple[str, ...], prefix: str = "", child_prefix: str = ""
) -> Iterator[list[Text]]:
    """Table rows for `part`, whose name comes after `prefix`, and for each part below it."""
    child, last_child, below_child, below_last = lines
    yield [
        Text(prefix, style="dim").append(printable(part.name), style="not dim"),
        _styled("stuck" if part.stuck else part.state),
        Text(format_number(part.restarts), style="yellow" if part.restarts else ""),
        Text(format_number(part.mailbox_depth) if part.mailbox_depth is not UNSET else ""),
        Text(format_seconds(part.oldest_message_seconds) if part.oldest_message_seconds else ""),
        Text("" if part.uptime_seconds is None else format_seconds(part.uptime_seconds)),
        Text(printable(part.last_error or "")),
    ]
    children = part.children or ()
    for other in children[:-1]:
        yield from _rows(other, lines, child_prefix + child, child_prefix + below_child)
    for last in children[-1:]:
        yield from _rows(last, lines, child_prefix + last_child, child_prefix + below_last)


def _line(*parts: str | Text) -> Text:
    return Text(" ").join(part if isinstance(part, Text) else Text(part) for part in parts)


def _styled(word: str) -> Text:
    """A state or status in its colour: red for those that `_STYLES` does not know."""
    return Text(printable(word), style=_STYLES.get(word, _TROUBLE))
