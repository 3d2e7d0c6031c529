"""`cache-actors share`: puts all that is stored into the bucket, with or without a service."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from cache_actors.errors import CommandError
from cache_actors.s3.cleans import exchange_cleans
from cache_actors.s3.config import bucket_config
from cache_actors.s3.errors import BreakerOpen, BucketError, Misconfigured
from cache_actors.s3.installation import ClaimedBucket
from cache_actors.s3.push import Pushed
from cache_actors.s3.replication import Finished, Replication
from cache_actors.s3.walk import WalkRunning

if TYPE_CHECKING:
    from collections.abc import Callable

    from cache_actors.settings import Settings

EXIT_LEFT = 1
"""Exit status: some files could not be put."""

EXIT_RUNNING = 3
"""Exit status: another process walks through the storage."""

EXIT_INTERRUPTED = 130
"""Exit status: interrupted (128 + SIGINT). What was put by then is marked."""

IN_VAIN = 3
"""Number of walks in a row after which a run that waits gives up what is left: they have put
nothing, although the bucket was there."""

RETRY_SECONDS = 2.0
"""Pause before what is left is tried again, in seconds."""

LOOK_SECONDS = 60.0
"""Pause in seconds between two looks at the claim on the prefix, and at the cleans of nodes."""


class CannotShare(CommandError):
    """Nothing can be put into the bucket; the message says why."""


def run_share(settings: Settings, *, wait: bool, again: bool) -> int:
    """Put what is not in the bucket there, print how many files, and return the exit status.

    Args:
        settings: the service's settings.
        wait: whether to go on until all is there that can be put, also while the bucket is down.
        again: whether to put all files, also those that are marked as being there.

    Raises:
        CannotShare: there is no bucket, it cannot be used, or the storage cannot be read.
    """
    config = bucket_config(settings)
    if config is None:
        raise CannotShare("S3_BUCKET is not set")
    share = _Share(settings, wait=wait)
    again_before = time.time() if again else None
    try:
        bucket = ClaimedBucket(config, str(settings.server_url))
        replication = Replication(
            settings.cas_storage_dir,
            bucket,
            concurrency=settings.s3_concurrency,
            entries=settings.s3_entries,
            finished=share.finished,
            log=share.say,
            waits=share.waits,
        )
        share.open(bucket)
        replication.start()
        threading.Thread(target=share.keep_looking, args=[bucket], daemon=True).start()
        left = share.walk(replication, bucket, again_before)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except WalkRunning as error:
        click.echo(str(error), err=True)
        return EXIT_RUNNING
    except BucketError as error:
        raise CannotShare(f"The bucket cannot be used: {error}") from error
    except OSError as error:
        where = error.filename or settings.cas_storage_dir
        raise CannotShare(f"Cannot read {where}: {error.strerror}") from error
    finally:
        share.ended.set()
    click.echo(f"Put into the bucket: {share.done} files" + (f"; left: {left}" if left else ""))
    return EXIT_LEFT if left else 0


class _Share:
    """One run of the command.

    If it waits it ends when nothing is left, or nothing that is left can be put, or somebody has to
    change something.

    Attributes:
        done: number of files that were put.
        ended: set when it is over.
    """

    def __init__(self, settings: Settings, *, wait: bool) -> None:
        self.done = 0
        self.ended = threading.Event()
        self._settings = settings
        self._wait = wait
        self._reasons: Counter[str] = Counter()
        self._is_down = False  # and that has been said
        self._misconfigured: Misconfigured | None = None
        self._stop: Callable[[], None] = lambda: None

    def finished(self, file: Finished) -> None:
        """Count a file, and say why one is left; each reason once."""
        if file.outcome is Pushed.DONE:
            self.done += 1
            self._is_down = False
        if file.reason is not None and self._reasons[file.reason] == 0:
            self._reasons[file.reason] += 1
            self.say(f"{file.key.place}: {file.reason}")

    def say(self, line: str) -> None:
        """Print a line about something that has gone wrong."""
        click.echo(line, err=True)

    def waits(self, error: BucketError) -> bool:
        """Whether to wait while the bucket cannot be asked because of `error`; if so, say it."""
        if isinstance(error, Misconfigured):
            if self._wait:
                self._misconfigured = error
                self._stop()
            return False
        if self._wait and not self._is_down:
            self._is_down = True
            self.say(f"The bucket cannot be used, and is waited for: {error}")
        return self._wait

    def open(self, bucket: ClaimedBucket) -> None:
        """Claim the prefix, and look for cleans; if it waits, until the bucket answers.

        Raises:
            BucketError: it cannot be claimed, or is down and not waited for.
        """
        while True:
            try:
                bucket.claim()
                return exchange_cleans(bucket, self._settings.cas_storage_dir)
            except BucketError as error:
                if not self.waits(error.cause if isinstance(error, BreakerOpen) else error):
                    raise
            time.sleep(RETRY_SECONDS)

    def keep_looking(self, bucket: ClaimedBucket) -> None:
        """Look at the claim and at cleans every minute, until it is over."""
        while not self.ended.wait(LOOK_SECONDS):
            self._look(bucket)

    def _look(self, bucket: ClaimedBucket) -> None:
        """Stop if the prefix has become another installation's; note cleans of other nodes.

        Of a bucket or a disk that fails those who put tell.
        """
        try:
            with suppress(OSError):
                bucket.claim()
                exchange_cleans(bucket, self._settings.cas_storage_dir)
        except Misconfigured as error:
            self._misconfigured = error
            self._stop()
        except BucketError:
            pass

    def walk(
        self, replication: Replication, bucket: ClaimedBucket, again_before: float | None
    ) -> int:
        """Walk once or, if it waits, as often as it takes; return the number of files left.

        Raises:
            Misconfigured: somebody has to change something, or the prefix is another's by now.
            WalkRunning: another process walks, and is not waited for.
            OSError: the disk failed.
        """
        in_vain, self._stop = 0, replication.stop
        while True:
            before, self._is_down = self.done, False
            try:
                left = replication.walk(again_before)
            except WalkRunning:
                if not self._wait:
                    raise
            else:
                self._look(bucket)
                if self._misconfigured is not None:
                    raise self._misconfigured
                if left == 0 or not self._wait:
                    return left
                in_vain = 0 if self._is_down or self.done > before else in_vain + 1
                if in_vain == IN_VAIN:
                    return left
            time.sleep(RETRY_SECONDS)
