"""The picture of an answer in a terminal: a few lines, and the tree as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from .words import in_bytes, in_figures, in_percent, in_time, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from .answer import Eviction, Health, Part, Recent, Storage

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

_COLUMNS = ("", "state", "restarts", "mailbox", "waiting", "up", "last error")
_NUMBERS = {"restarts", "mailbox", "waiting", "up"}

_LINES = ("├── ", "└── ", "│   ", "    ")
_PLAIN_LINES = ("|-- ", "`-- ", "|   ", "    ")
"""What leads to a child and to the last one, and what is below either of them."""


def view(health: Health, *, only_ascii: bool = False) -> RenderableType:
    """All that is known, for rich to print.

    Args:
        health: the answer.
        only_ascii: whether the terminal has no other characters.
    """
    return Group(*_summary(health), Text(), _tree(health, _PLAIN_LINES if only_ascii else _LINES))


def _summary(health: Health) -> Iterator[Text]:
    about = [f"version {health.version}"] if health.version else []
    about += [f"up for {in_time(health.uptime_seconds)}"] if health.uptime_seconds else []
    yield _line(_styled(health.status), ", ".join(about))
    if health.recent:
        yield _line(_traffic(health.recent))
    if health.storage:
        yield _line("Storage", _styled(health.storage.state), _room(health.storage))
    if health.nginx and health.nginx.troubles:
        troubles = ", ".join(printable(each.replace("_", " ")) for each in health.nginx.troubles)
        yield _line("nginx:", Text(troubles, style=_TROUBLE))
    if health.eviction:
        yield _line(_evicted(health.eviction))


def _traffic(recent: Recent) -> str:
    def now(series: tuple[float | None, ...]) -> float | None:
        return series[-1] if series else None

    return (
        f"{in_figures(now(recent.requests_per_second))} requests/s, "
        f"{in_percent(now(recent.hit_rate))} hits, "
        f"latency {in_figures(now(recent.latency_ms_p50))} ms (p50), "
        f"{in_figures(now(recent.latency_ms_p95))} ms (p95), "
        f"{in_figures(now(recent.errors_per_second))} errors/s"
    )


def _room(storage: Storage) -> str:
    since = [f"for {in_time(storage.seconds)}"] if storage.seconds is not None else []
    reason = [printable(storage.reason)] if storage.reason else []
    free = [f"{in_bytes(storage.free_bytes)} free"] if storage.free_bytes is not None else []
    free += [f"{storage.free_inodes:,} inodes free"] if storage.free_inodes is not None else []
    return ", ".join([*since, *reason, *free])


def _evicted(eviction: Eviction) -> str:
    used = None if eviction.used_percent is None else eviction.used_percent / 100
    last = eviction.last_pass
    if last is None:
        return f"{in_percent(used)} used, nothing evicted yet"
    youngest = last.youngest_evicted_seconds
    what = [f"{last.artifacts} artifacts", f"{last.entries} entries", in_bytes(last.bytes)]
    what += [] if youngest is None else [f"the youngest unused for {in_time(youngest)}"]
    return (
        f"{in_percent(used)} used, last eviction {in_time(last.ended_seconds_ago)} ago: "
        + ", ".join(what)
    )


def _tree(health: Health, lines: tuple[str, ...]) -> Table:
    rows = list(_rows(health.tree, lines)) if health.tree else []
    for worker in health.workers:
        answers = Text() if worker.tree else Text("no answer", style=_TROUBLE)
        rows += [_row(Text()), _row(Text(printable(worker.name), style="bold"), answers)]
        rows += _rows(worker.tree, lines) if worker.tree else []
    table = Table(box=None, pad_edge=False, header_style="dim")
    told = [any(row[index].plain for row in rows) for index in range(len(_COLUMNS))]
    for column, is_told in zip(_COLUMNS, told, strict=True):
        if is_told:
            table.add_column(
                column, justify="right" if column in _NUMBERS else "left", no_wrap=True
            )
    for row in rows:
        table.add_row(*(cell for cell, is_told in zip(row, told, strict=True) if is_told))
    return table


def _rows(
    part: Part, lines: tuple[str, ...], to_here: str = "", to_below: str = ""
) -> Iterator[list[Text]]:
    """A row for `part` and one for each part below, with lines that lead there."""
    child, last_child, beside, below = lines
    yield [
        Text(to_here, style="dim").append(printable(part.name), style="not dim"),
        _styled("stuck" if part.stuck else part.state),
        Text(in_figures(part.restarts), style="yellow" if part.restarts else ""),
        Text("" if part.mailbox_depth is None else in_figures(part.mailbox_depth)),
        Text(in_time(part.oldest_message_seconds) if part.oldest_message_seconds else ""),
        Text("" if part.uptime_seconds is None else in_time(part.uptime_seconds)),
        Text(printable(part.last_error or "")),
    ]
    for other in part.children[:-1]:
        yield from _rows(other, lines, to_below + child, to_below + beside)
    for last in part.children[-1:]:
        yield from _rows(last, lines, to_below + last_child, to_below + below)


def _row(*cells: Text) -> list[Text]:
    """A row that begins with these cells."""
    return [*cells, *[Text()] * (len(_COLUMNS) - len(cells))]


def _line(*parts: str | Text) -> Text:
    return Text(" ").join(part if isinstance(part, Text) else Text(part) for part in parts)


def _styled(word: str) -> Text:
    return Text(printable(word), style=_STYLES.get(word, _TROUBLE))
