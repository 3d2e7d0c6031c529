"""`python -m cache_actors.fetcher_process CONFIG`: the process that pulls for the fetcher."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import msgspec

from cache_actors.actor_process.crash import end_with_any_thread
from cache_actors.actor_process.framing import framed, next_message
from cache_actors.s3.bucket import Bucket
from cache_actors.s3.cleans import Cleans
from cache_actors.s3.errors import BreakerOpen, BucketError, Misconfigured
from cache_actors.s3.installation import claim
from cache_actors.s3.outcome import Outcome
from cache_actors.s3.pull import Puller
from cache_actors.s3.report import BucketReport, CountedRequest, bucket_report
from cache_actors.storage.capacity import Capacity
from cache_actors.storage.files.store import FileStore
from cache_actors.storage.files.temporary import TemporaryFolder
from cache_actors.storage.layout import TEMPORARY, Project, key_at
from cache_actors.storage.trash import has_older

from .protocol import (
    MAX_FLIGHTS,
    CleanRequest,
    FetcherConfig,
    Noticed,
    PullReport,
    PullRequest,
    StoredFile,
    decode_request,
)

if TYPE_CHECKING:
    from concurrent.futures import Future

    from cache_actors.storage.layout import Key, StoredKey

REPORT_SECONDS = 1.0
"""Longest time between two reports, in seconds."""

RETRY_SECONDS = 2.0
"""Pause in seconds before a bucket is asked again that could not be used."""

CLEANS_SECONDS = 10.0
"""Pause in seconds between two searches for projects that other nodes have cleaned."""


class Reporter:
    """Gathers what happens in any thread, and sends it through `channel`."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._happened = threading.Event()
        self._lock = threading.Lock()
        self._next = _nothing()
        self._requests: list[CountedRequest] = []

    def outcome(self, number: int, outcome: Outcome) -> None:
        """Report what request `number` has come to; sent at once, with all else."""
        with self._lock:
            self._next.outcomes.append((number, outcome))
        self._happened.set()

    def stored(self, file: StoredKey) -> None:
        """Report a file that has been stored."""
        with self._lock:
            self._next.stored.append(StoredFile(file.key.place, file.size))

    def noticed(self, what: str, key: Key, reason: str) -> None:
        """Report something wrong."""
        with self._lock:
            self._next.noticed.append(Noticed(what, key.place, reason))

    def requested(self, operation: str, outcome: str, seconds: float) -> None:
        """Report a request to the bucket."""
        with self._lock:
            self._requests.append(CountedRequest(operation, outcome, seconds))

    def told(self, number: int, failure: str | None) -> None:
        """Report that all nodes will hear of a clean, or why they won't."""
        with self._lock:
            self._next.told.append((number, failure))
        self._happened.set()

    def cleaned(self, project: Project) -> None:
        """Report a project that another node has cleaned."""
        with self._lock:
            self._next.cleaned.append((project.account, project.name))
        self._happened.set()

    def keep_reporting(self, server: FetcherServer) -> None:
        """Send reports on `server` until nobody takes them."""
        while True:
            self._happened.wait(REPORT_SECONDS)
            self._happened.clear()
            with self._lock:
                report, self._next = self._next, _nothing()
                requests, self._requests = self._requests, []
            report = msgspec.structs.replace(report, bucket=server.bucket_report(requests))
            try:
                self._channel.sendall(framed(report))
            except OSError:
                return


def _nothing() -> PullReport:
    return PullReport(BucketReport("starting"), [], [], [], [], [])


class FetcherServer:
    """Pulls what it is asked for, once the bucket is known to be the right one, with its cleans.

    Args:
        config: how.
        temporary: its temporary folder.
        reporter: told what happens.
    """

    def __init__(
        self, config: FetcherConfig, temporary: TemporaryFolder, reporter: Reporter
    ) -> None:
        root = Path(config.root)
        self._config = config
        self._temporary = temporary
        self._reporter = reporter
        self._capacity = Capacity(root, config.max_bytes)
        self._store = FileStore(root, temporary, durable=config.durable, capacity=self._capacity)
        self._cleaning = ThreadPoolExecutor(1, thread_name_prefix="clean")
        self._bucket: Bucket | None = None
        self._failure: BucketError | None = None
        self._cleans: Cleans | None = None
        self._puller: Puller | None = None

    def keep_looking(self) -> None:
        """Open the bucket, as often as it takes, and look for cleans; never returns."""
        while True:
            try:
                self._look()
            except BucketError as error:
                self._failure = error.cause if isinstance(error, BreakerOpen) else error
                time.sleep(RETRY_SECONDS)
            except OSError as error:
                self._failure = Misconfigured(f"the storage cannot be used: {error.strerror}")
                time.sleep(RETRY_SECONDS)
            else:
                self._failure = None
                time.sleep(CLEANS_SECONDS)

    def bucket_report(self, requests: list[CountedRequest]) -> BucketReport:
        """How the bucket is, with the requests since the last report."""
        is_started = self._puller is not None
        return bucket_report(self._bucket, self._failure, requests, is_started=is_started)

    def _look(self) -> None:
        """Open the bucket, if that has not been done, and look for cleans once."""
        bucket = self._bucket = self._bucket or Bucket(
            self._config.bucket, count=self._reporter.requested
        )
        if self._cleans is None:
            claim(bucket, self._config.server_url)
            self._cleans = Cleans(bucket)
        new = self._cleans.refresh()
        if self._puller is None:
            self._puller = self._new_puller(bucket, self._cleans)
        if new:
            self._puller.settle()
        for project, cut in new.items():
            if has_older(self._store.root, project, cut.stored):
                self._reporter.cleaned(project)

    def _new_puller(self, bucket: Bucket, cleans: Cleans) -> Puller:
        return Puller(
            self._store,
            self._temporary,
            bucket,
            cleans,
            entry_seconds=self._config.entry_seconds,
            max_entry_bytes=self._config.max_entry_bytes,
            flights=MAX_FLIGHTS,
            stored=self._reporter.stored,
            noticed=self._reporter.noticed,
        )

    def take(self, request: PullRequest | CleanRequest) -> None:
        """Begin to do what is asked for; the outcome is reported when it is known."""
        if isinstance(request, PullRequest):
            self._pull(request)
        else:
            self._cleaning.submit(self._clean, request)

    def _pull(self, request: PullRequest) -> None:
        key = key_at(PurePath(request.place).parts)
        if self._puller is None or key is None:
            self._reporter.outcome(request.number, Outcome.UNKNOWN)
            return
        self._capacity.note_scan(request.taken)

        def report(flight: Future[Outcome]) -> None:
            self._reporter.outcome(request.number, flight.result())

        self._puller.start(
            key, lambda: self._reporter.outcome(request.number, Outcome.COMING)
        ).add_done_callback(report)

    def _clean(self, request: CleanRequest) -> None:
        """Tell all nodes of a clean, and delete what it takes; the second may fail unnoticed."""
        project = Project(request.account, request.name)
        cleans, puller = self._cleans, self._puller
        if cleans is None or puller is None:
            self._reporter.told(request.number, "the bucket cannot be used")
            return
        try:
            cleans.clean(project)
        except BucketError as error:
            self._reporter.told(request.number, str(error))
            return
        puller.settle()
        self._reporter.told(request.number, None)
        with suppress(BucketError):
            cleans.remove(project)


def run(config: FetcherConfig) -> None:
    """Do what is asked for through the channel until its other end is gone.

    Raises:
        OSError: the storage folder cannot be used.
    """
    end_with_any_thread()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    temporary = TemporaryFolder(Path(config.root) / TEMPORARY)
    with socket.socket(fileno=config.channel) as channel, channel.makefile("rb") as stream:
        reporter = Reporter(channel)
        server = FetcherServer(config, temporary, reporter)
        threading.Thread(target=server.keep_looking, name="look", daemon=True).start()
        threading.Thread(
            target=reporter.keep_reporting, args=[server], name="report", daemon=True
        ).start()
        try:
            while (message := next_message(stream)) is not None:
                server.take(decode_request(message))
        except ConnectionError:
            pass
    temporary.remove()
    os._exit(0)  # requests that are under way would hold up the end of the interpreter


if __name__ == "__main__":
    run(msgspec.json.decode(sys.argv[-1], type=FetcherConfig))
