"""`cache-actors clean`: removes all files of a project, beside a running service or without one."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import click

from cache_actors.errors import CommandError
from cache_actors.s3.bucket import Bucket
from cache_actors.s3.cleans import Cleans
from cache_actors.s3.errors import BucketError
from cache_actors.storage.trash import Removed, clean, empty_trash

from .format import format_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from cache_actors.s3.config import BucketConfig
    from cache_actors.storage.layout import Project

EXIT_INTERRUPTED = 130
"""Exit status: interrupted (128 + SIGINT). Clients no longer see the project; files may remain."""


class CannotClean(CommandError):
    """A project cannot be cleaned; the message says why."""


def _clean_bucket(config: BucketConfig, project: Project) -> None:
    try:
        cleans = Cleans(Bucket(config))
        cleans.clean(project)
        cleans.remove(project)
    except BucketError as error:
        raise CannotClean(
            f"Cannot clean the bucket: {error}. Nothing is cleaned here: it would come back"
        ) from error
    click.echo(f"{project} is gone from the bucket; other nodes follow within seconds")


def run_clean(storage: Path, project: Project, bucket: BucketConfig | None = None) -> int:
    """Hide all files of `project` from clients, empty the trash, and return the exit status.

    The trash has these files then, and what earlier cleans have left; the printed total is of both.
    With a bucket, all other nodes are told first, and what the clean takes is deleted there.

    Raises:
        CannotClean: the files cannot be moved or removed, or nobody can be told.
    """
    if bucket is not None:
        _clean_bucket(bucket, project)
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
