"""`cache-actors evict`: one pass of eviction. The service runs it in a process of its own."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cache_actors.errors import CommandError
from cache_actors.storage.eviction.last_pass import EXIT_RUNNING, EvictionLock, EvictionRunning
from cache_actors.storage.eviction.run import EvictionPass, Limits, ParentGone
from cache_actors.storage.eviction.sweep import ClockStepped

from .format import format_bytes, format_seconds
from .tables import print_table

if TYPE_CHECKING:
    from pathlib import Path

    from cache_actors.storage.eviction.last_pass import PassReport
    from cache_actors.storage.layout import Project

EXIT_INTERRUPTED = 130
"""Exit status of a pass that was interrupted (128 + SIGINT), or whose parent process has ended; all
that it has removed by then had to go."""


class CannotEvict(CommandError):
    """A pass cannot run, or has failed; the message says why."""


def run_evict(
    storage: Path,
    limits: Limits,
    project: Project | None,
    *,
    dry_run: bool,
    require_artifacts: bool,
    as_json: bool,
    parent: int | None,
) -> int:
    """Run one pass of eviction, print its report, and return the exit status.

    Args:
        storage: the storage folder.
        limits: the limits on how full the disk, or the folder, may be.
        project: the only project to evict from; None for all.
        dry_run: whether to report only what would be evicted.
        require_artifacts: whether the service refuses entries whose artifacts are missing; if not,
            artifacts may follow their entry within ten minutes.
        as_json: whether to print JSON rather than text.
        parent: the id of the parent process, with whose end the pass ends; None to ignore it.

    Raises:
        CannotEvict: the folder cannot be read or written, or a file in it belongs to another user,
            or the clock was set during the pass.
    """
    eviction_pass = EvictionPass(
        storage,
        limits,
        project,
        dry_run=dry_run,
        require_artifacts=require_artifacts,
        parent=parent,
    )
    try:
        with nullcontext() if dry_run else EvictionLock(storage) as lock:
            try:
                _run_with_progress(eviction_pass)
            finally:  # also after an interruption: what has gone by then is reported
                report = eviction_pass.report()
                if lock is not None and eviction_pass.scan.complete:  # else totals are unknown
                    lock.record_completed(report)
                if eviction_pass.scan.complete or not dry_run:
                    _print(eviction_pass, report, as_json=as_json, dry_run=dry_run)
    except (KeyboardInterrupt, ParentGone):
        return EXIT_INTERRUPTED
    except EvictionRunning as error:
        click.echo(str(error), err=True)
        return EXIT_RUNNING
    except ClockStepped as error:
        raise CannotEvict(str(error)) from error
    except PermissionError as error:
        raise CannotEvict(
            f"{error.filename or storage} belongs to somebody else: run this as the service's "
            f"user, or give it everything below {storage}"
        ) from error
    except OSError as error:
        raise CannotEvict(
            f"Cannot evict from {error.filename or storage}: {error.strerror}"
        ) from error
    return 0


def _run_with_progress(eviction_pass: EvictionPass) -> None:
    """Run the pass; on a terminal, show a progress bar on standard error meanwhile."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[gone]} gone"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    ) as progress:
        bar = progress.add_task("Looking", total=None, gone="")
        for _ in eviction_pass.run():
            scan, gone = eviction_pass.scan, eviction_pass.removed
            progress.update(
                bar,
                description="Evicting" if scan.complete else "Looking",
                total=(eviction_pass.excess.bytes or None) if scan.complete else scan.folders,
                completed=gone.bytes if scan.complete else scan.folders_done,
                gone=format_bytes(gone.bytes),
            )


def _print(
    eviction_pass: EvictionPass, report: PassReport, *, as_json: bool, dry_run: bool
) -> None:
    if as_json:
        click.echo(msgspec.json.encode(asdict(report) | {"projects": _projects(eviction_pass)}))
        return
    table = Table("project", "artifacts", "bytes", "oldest kept")
    for row in _projects(eviction_pass):
        table.add_row(
            row["project"],
            str(row["artifacts"]),
            format_bytes(row["bytes"]),
            format_seconds(row["oldest_kept_seconds"]),
        )
    print_table(table)
    if report.folders:
        click.echo(f"Empty folders that have gone: {report.folders}")
    what = "Would go, at most" if dry_run else "Gone"
    click.echo(
        f"{what}: {report.artifacts} artifacts and {report.entries} entries, "
        f"{format_bytes(report.bytes)}, in {report.seconds:.1f} s"
    )
    if report.youngest_evicted_seconds is not None:
        click.echo(
            "The most recently used artifact of them was used "
            f"{format_seconds(report.youngest_evicted_seconds)} ago"
        )


def _projects(eviction_pass: EvictionPass) -> list[dict[str, Any]]:
    """The report's rows: the artifacts that are left in each project, the largest project first."""
    return [
        {
            "project": str(project),
            "artifacts": kept.artifacts,
            "bytes": kept.bytes,
            "oldest_kept_seconds": eviction_pass.age(kept.oldest_use),
        }
        for project, kept in sorted(eviction_pass.kept().items(), key=lambda each: -each[1].bytes)
    ]
