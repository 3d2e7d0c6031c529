"""`python -m cache_actors.replicator_process CONFIG`: the process that pushes into the bucket.

It ends when its parent does, or closes the socket. What is announced by then has a few seconds to
get to the bucket: so the next instance need not look for it, whose first walk may be over.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import msgspec

from cache_actors.actor_process.crash import end_with_any_thread
from cache_actors.actor_process.framing import framed, next_message
from cache_actors.s3.cleans import exchange_cleans, exchange_cleans_in_turn
from cache_actors.s3.errors import BreakerOpen, BucketError, Misconfigured
from cache_actors.s3.installation import ClaimedBucket
from cache_actors.s3.push import Pushed
from cache_actors.s3.replication import Backlog, Finished, Replication
from cache_actors.s3.report import BucketReport, CountedRequest, bucket_report, failed_disk
from cache_actors.s3.walk import Unshared
from cache_actors.storage.layout import key_at

from .protocol import (
    Announcement,
    FinishedFile,
    ReplicatorConfig,
    Report,
    decode_announcement,
)

if TYPE_CHECKING:
    from collections.abc import Callable

LOOK_SECONDS = 60.0
"""Pause in seconds between two looks at the claim on the prefix, and at the cleans of nodes."""

REPORT_SECONDS = 1.0
"""Longest time between two reports."""

GATHER_SECONDS = 0.02
"""Time for which what happens is gathered for one report."""

DRAIN_SECONDS = 3.0
"""Time for what has been announced to get to the bucket after the parent has left."""

RETRY_SECONDS = 2.0
"""Pause before a bucket is tried again that could not be used; it doubles each time."""

MAX_RETRY_SECONDS = 60.0
"""Longest such pause."""


class Reporter:
    """Gathers what happens in any thread, and sends it through `channel`."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._happened = threading.Event()
        self._lock = threading.Lock()
        self._finished: list[FinishedFile] = []
        self._requests: list[CountedRequest] = []
        self._troubles: list[str] = []

    def finished(self, file: Finished) -> None:
        """Report a file that is finished with."""
        place, is_shared = file.key.place, file.outcome is Pushed.DONE
        with self._lock:
            self._finished.append(FinishedFile(place, is_shared, file.reason, file.lag))
        self._happened.set()

    def requested(self, operation: str, outcome: str, seconds: float) -> None:
        """Report a request to the bucket."""
        with self._lock:
            self._requests.append(CountedRequest(operation, outcome, seconds))
        self._happened.set()

    def trouble(self, line: str) -> None:
        """Report what else has gone wrong."""
        with self._lock:
            self._troubles.append(line)
        self._happened.set()

    def keep_reporting(self, server: ReplicatorServer) -> None:
        """Send reports on `server` until nobody takes them."""
        while True:
            self._happened.clear()
            try:
                self._channel.sendall(framed(self._report(server)))
            except OSError:
                return
            self._happened.wait(REPORT_SECONDS)
            time.sleep(GATHER_SECONDS)

    def _report(self, server: ReplicatorServer) -> Report:
        with self._lock:
            finished, self._finished = self._finished, []
            requests, self._requests = self._requests, []
            troubles, self._troubles = self._troubles, []
        bucket, held = server.bucket_report(requests), server.backlog()
        return Report(bucket, held.files, held.bytes, held.oldest, finished, troubles)


class ReplicatorServer:
    """Pushes what is announced, and what walks find, once the bucket is known to be the right one.

    Args:
        config: how.
        reporter: told what happens.
    """

    def __init__(self, config: ReplicatorConfig, reporter: Reporter) -> None:
        self._config = config
        self._reporter = reporter
        self._bucket: ClaimedBucket | None = None
        self._replication: Replication | None = None
        self._failure: BucketError | None = None
        self._is_started = False
        self._stop = threading.Event()

    def run(self) -> None:
        """Open the bucket, as often as it takes, and walk until it is stopped; blocks."""
        pause = RETRY_SECONDS
        while not self._try(self._start):
            if self._stop.wait(pause):
                return
            pause = min(2 * pause, MAX_RETRY_SECONDS)
        if self._replication is not None:
            self._replication.keep_walking()

    def open(self) -> None:
        """Open the bucket, if that can be done, so that no announcement is lost."""
        self._try(self._open)

    def _try(self, action: Callable[[], None]) -> bool:
        """Whether `action` has succeeded; if not, the reason is the state's."""
        try:
            action()
        except BucketError as error:
            self._failure = error.cause if isinstance(error, BreakerOpen) else error
            return False
        except OSError as error:
            self._failure = failed_disk(error)
            return False
        self._failure = None
        return True

    def _open(self) -> None:
        config = self._config
        bucket = self._bucket = self._bucket or ClaimedBucket(
            config.bucket, config.server_url, count=self._reporter.requested
        )
        self._replication = self._replication or Replication(
            Path(config.root),
            bucket,
            concurrency=config.concurrency,
            entries=config.entries,
            finished=self._reporter.finished,
            log=self._reporter.trouble,
        )

    def _start(self) -> None:
        self._open()
        self._look(exchange_cleans)
        if self._replication is not None:
            self._replication.start()
            self._is_started = True

    def keep_looking(self) -> None:
        """Look at the claim and at cleans, once it is started up, until it is stopped.

        Of a bucket that cannot be asked just then the breaker tells.
        """
        while not self._stop.wait(LOOK_SECONDS):
            if not self._is_started:
                continue
            try:
                self._look(partial(exchange_cleans_in_turn, seconds=LOOK_SECONDS))
            except Misconfigured as error:
                self._failure = error
            except BucketError:
                pass
            except OSError as error:
                self._reporter.trouble(f"cannot note a clean: {error.strerror}")
            else:
                self._failure = None

    def _look(self, exchange: Callable[[ClaimedBucket, Path], None]) -> None:
        """Claim the prefix, or find out who has it, and `exchange` cleans with the bucket.

        So nothing is put beside another installation's objects, and nothing that a clean takes.
        """
        if self._bucket is not None:
            self._bucket.claim()
            exchange(self._bucket, Path(self._config.root))

    def announce(self, announcement: Announcement) -> None:
        """Push files that have been stored; until it is started up, a walk finds them later."""
        keys = [(key_at(PurePath(each.place).parts), each.size) for each in announcement.files]
        files = [Unshared(key, size) for key, size in keys if key is not None]
        if self._replication is None:
            for file in files:
                self._reporter.finished(Finished(file.key, None, None, None))
            return
        self._replication.announce(files)
        if not announcement.complete:
            self._replication.walk_soon()

    def bucket_report(self, requests: list[CountedRequest]) -> BucketReport:
        """How the bucket is, with the requests since the last report."""
        return bucket_report(self._bucket, self._failure, requests, is_started=self._is_started)

    def backlog(self) -> Backlog:
        """What is not in the bucket yet."""
        return Backlog() if self._replication is None else self._replication.backlog()

    def stop(self) -> None:
        """Stop, after `DRAIN_SECONDS` at the latest."""
        self._stop.set()
        if self._replication is not None and self._is_started:
            self._replication.stop(DRAIN_SECONDS)


def run(config: ReplicatorConfig) -> None:
    """Push what comes through the channel until its other end is gone."""
    end_with_any_thread()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=config.channel) as channel, channel.makefile("rb") as stream:
        reporter = Reporter(channel)
        server = ReplicatorServer(config, reporter)
        server.open()
        threading.Thread(target=server.run, name="walk", daemon=True).start()
        threading.Thread(target=server.keep_looking, name="look", daemon=True).start()
        threading.Thread(
            target=reporter.keep_reporting, args=[server], name="report", daemon=True
        ).start()
        try:
            while (message := next_message(stream)) is not None:
                server.announce(decode_announcement(message))
        except ConnectionError:
            pass
        server.stop()
    os._exit(0)  # requests that are under way would hold up the end of the interpreter


if __name__ == "__main__":
    run(msgspec.json.decode(sys.argv[-1], type=ReplicatorConfig))
