"""`cache-actors usage`: bytes stored by each project, and times of their use."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click
import msgspec
from rich.table import Table

from cache_actors.errors import CommandError
from cache_actors.storage.capacity import Capacity
from cache_actors.storage.eviction.scan import Scan

from .format import format_bytes, format_seconds
from .tables import print_table

if TYPE_CHECKING:
    from pathlib import Path

    from cache_actors.storage.eviction.scan import ProjectUsage
    from cache_actors.storage.layout import Project

_SECOND = 1_000_000_000


class CannotLook(CommandError):
    """The storage folder cannot be read; the message says why."""


def run_usage(storage: Path, *, as_json: bool) -> int:
    """Scan the storage folder, print its usage by project, and return the exit status.

    Raises:
        CannotLook: the folder cannot be read.
    """
    scan = Scan(time.time_ns())
    try:
        for _ in scan.run(storage):
            pass
        disk = Capacity(storage).usage()
    except OSError as error:
        where = error.filename or storage
        raise CannotLook(f"Cannot look at {where}: {error.strerror}") from error
    held = sorted(scan.usage.items(), key=lambda each: -each[1].bytes)
    if as_json:
        rows = [_row(scan, project, each) for project, each in held]
        click.echo(msgspec.json.encode({"disk_used_percent": disk.share * 100, "projects": rows}))
        return 0
    table = Table("project", "artifacts", "bytes", "entries", "bytes", "oldest use", "latest use")
    for project, each in held:
        table.add_row(
            str(project),
            str(each.artifacts),
            format_bytes(each.artifact_bytes),
            str(each.entries),
            format_bytes(each.entry_bytes),
            format_seconds(_seconds(scan, each.oldest_use)),
            format_seconds(_seconds(scan, each.latest_use)),
        )
    print_table(table)
    click.echo(f"{format_bytes(scan.bytes)} stored; the disk is {disk.share:.0%} full")
    return 0


def _row(scan: Scan, project: Project, held: ProjectUsage) -> dict[str, object]:
    return {
        "project": str(project),
        "artifacts": held.artifacts,
        "artifact_bytes": held.artifact_bytes,
        "entries": held.entries,
        "entry_bytes": held.entry_bytes,
        "oldest_use_seconds": _seconds(scan, held.oldest_use),
        "latest_use_seconds": _seconds(scan, held.latest_use),
    }


def _seconds(scan: Scan, used: int | None) -> float | None:
    return None if used is None else max(0.0, (scan.now - used) / _SECOND)
