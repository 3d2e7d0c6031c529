"""`cache-actors clean`: removes all files of a project, beside a running service or without one."""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING

import click

from cache_actors.errors import CommandError
from cache_actors.s3.cleans import put_marker
from cache_actors.s3.errors import BucketError
from cache_actors.s3.installation import ClaimedBucket
from cache_actors.storage.known_cleans import note_clean
from cache_actors.storage.layout import SHARE
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


def _tell_nodes(storage: Path, project: Project, config: BucketConfig, server_url: str) -> None:
    """Tell all nodes of a clean now, and note it here, so that nothing comes back from the bucket.

    Raises:
        CannotClean: nobody can be told, or nobody may; nothing has changed.
        OSError: the storage cannot be used.
    """
    storage.stat()
    try:
        bucket = ClaimedBucket(config, server_url)
        bucket.claim()
        when = time.time_ns()
        put_marker(bucket, project, when)
    except BucketError as error:
        raise CannotClean(f"Cannot clean the bucket: {error}. Nothing is cleaned here") from error
    note_clean(storage, project, when)
    click.echo(f"{project} is gone from the bucket; other nodes follow within seconds")


def run_clean(
    storage: Path, project: Project, bucket: BucketConfig | None = None, server_url: str = ""
) -> int:
    """Hide all files of `project` from clients, empty the trash, and return the exit status.

    The trash has these files then, and what earlier cleans have left; the printed total is of both.

    Args:
        storage: the storage folder.
        project: the project.
        bucket: the bucket that the node shares with others, which are told first; None for none.
        server_url: URL of the Tuist server that the bucket has to be for.

    Raises:
        CannotClean: the files cannot be moved or removed, or nobody can be told.
    """
    if bucket is None and (storage / SHARE).exists():
        raise CannotClean(
            "The service has a bucket, from which all would come back: set S3_BUCKET and what "
            f"belongs to it, as there. If it has none any more, remove {storage / SHARE} first"
        )
    try:
        if bucket is not None:
            _tell_nodes(storage, project, bucket, server_url)
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
