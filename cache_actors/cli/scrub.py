"""`cache-actors scrub`: one pass over everything stored, which quarantines broken files."""

from __future__ import annotations

import dataclasses
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import click
import msgspec
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from cache_actors.errors import CommandError
from cache_actors.storage.integrity.scrub import Scrub, ScrubLock, ScrubReport, ScrubRunning

if TYPE_CHECKING:
    from pathlib import Path

EXIT_FOUND = 1
"""Exit status: something broken was found."""

EXIT_INTERRUPTED = 130
"""Exit status: interrupted (128 + SIGINT); the report covers the files read until then."""

MEBIBYTE = 1 << 20


class CannotScrub(CommandError):
    """The storage folder cannot be scrubbed; the message says why."""


def run_scrub(storage: Path, rate: float, *, as_json: bool) -> int:
    """Scrub `storage`, print the report, and return the exit status.

    Args:
        storage: the storage folder.
        rate: the highest rate of reading, in MiB per second.
        as_json: whether to print JSON rather than text.

    Raises:
        CannotScrub: the folder cannot be read, or another scrub of it is running.
    """
    scrub = Scrub(storage)
    try:
        with ScrubLock(storage) as lock:
            try:
                _run(scrub, rate * MEBIBYTE)
            finally:  # an interrupted scrub is reported, too
                click.echo(_as_json(scrub.report) if as_json else _as_text(scrub.report))
            with suppress(OSError):  # on a full or read-only disk the next scrub comes earlier
                lock.record_completed()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except ScrubRunning as error:
        raise CannotScrub(str(error)) from error
    except OSError as error:
        raise CannotScrub(f"Cannot scrub {storage}: {error.strerror}") from error
    return EXIT_FOUND if scrub.report.findings else 0


def _run(scrub: Scrub, rate: float) -> None:
    """Run the scrub at `rate` bytes per second at most, with a progress bar."""
    report, cost, begun = scrub.report, 0, time.monotonic()
    with _progress() as progress:
        task = progress.add_task("", total=None, files=0, bytes="")
        for step in scrub.run():
            cost += step
            progress.update(
                task,
                total=report.folders,
                completed=report.folders_done,
                files=report.files,
                bytes=decimal(report.bytes),
            )
            time.sleep(max(0.0, begun + cost / rate - time.monotonic()))


def _progress() -> Progress:
    """A progress bar, shown only on a terminal."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("Scrubbing"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[files]} files, {task.fields[bytes]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not sys.stderr.isatty(),
        transient=True,
    )


def _as_json(report: ScrubReport) -> str:
    return msgspec.json.encode(dataclasses.asdict(report)).decode()


def _as_text(report: ScrubReport) -> str:
    lines = [
        f"{finding.path} {finding.fault.value}; "
        + (f"now {finding.quarantined}" if finding.quarantined else "it could not be moved")
        for finding in report.findings
    ]
    counts = [f"{report.files} files ({decimal(report.bytes)}) checked"]
    counts += [f"{len(report.findings)} broken"]
    counts += [f"{report.unrecorded} without a recorded digest"] if report.unrecorded else []
    counts += [f"{report.skipped} of another user skipped"] if report.skipped else []
    counts += [f"{report.unknown} unknown left alone"] if report.unknown else []
    counts += [] if report.complete else ["not finished"]
    return "\n".join([*lines, ", ".join(counts)])
