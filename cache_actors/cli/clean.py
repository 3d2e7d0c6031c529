"""`cache-actors clean`: removes all files of a project, beside a running service or without one."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import click

from cache_actors.errors import CommandError
from cache_actors.storage.trash import Removed, clean, empty_trash

from .format import format_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from cache_actors.storage.layout import Project

EXIT_INTERRUPTED = 130
"""Exit status: interrupted (128 + SIGINT). Clients no longer see the project; files may remain."""


class CannotClean(CommandError):
    """A project cannot be cleaned; the message says why."""


def run_clean(storage: Path, project: Project) -> int:
    """Hide all files of `project` from clients, empty the trash, and return the exit status.

    The trash has these files then, and what earlier cleans have left; the printed total is of both.

    Raises:
        CannotClean: the files cannot be moved or removed.
    """
    try:
        if not clean(storage, project):
            click.echo(f"Nothing is stored of {project}")
            return 0
        click.echo(f"{project} is gone; its files are being removed")
        gone = sum(empty_trash(storage), Removed())
    except KeyboardInterrupt:
        click.echo("Interrupted: a running service, or the next clean, removes the rest", err=True)
        return EXIT_INTERRUPTED
    except PermissionError as error:
        raise CannotClean(
            f"{error.filename or storage} belongs to somebody else: run this as the service's user"
        ) from error
    except OSError as error:
        where = error.filename or storage
        is_mount = error.errno == errno.EXDEV
        advice = "; try `cache-actors evict --project`" if is_mount else ""
        raise CannotClean(f"Cannot clean {where}: {error.strerror}{advice}") from error
    click.echo(f"Removed from the trash: {gone.files} files, {format_bytes(gone.bytes)}")
    return 0
