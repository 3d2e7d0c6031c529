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
from cache_actors.s3.cleans import exchange_cleans, exchange_cleans_in_turn
from cache_actors.s3.errors import BreakerOpen, BucketError, Misconfigured
from cache_actors.s3.installation import ClaimedBucket
from cache_actors.s3.outcome import Outcome
from cache_actors.s3.pull import Puller
from cache_actors.s3.report import BucketReport, CountedRequest, bucket_report, failed_disk
from cache_actors.storage.capacity import Capacity
from cache_actors.storage.files.store import FileStore
from cache_actors.storage.files.temporary import TemporaryFolder
from cache_actors.storage.follow_clean import follow_clean
from cache_actors.storage.known_cleans import known_cleans
from cache_actors.storage.layout import TEMPORARY, key_at
from cache_actors.storage.trash import Removed

from .protocol import (
    MAX_FLIGHTS,
    FetcherConfig,
    FollowedClean,
    Noticed,
    PullReport,
    PullRequest,
    StoredFile,
    TellRequest,
    decode_request,
)

if TYPE_CHECKING:
    from concurrent.futures import Future

    from cache_actors.storage.layout import Key, Project, StoredKey

REPORT_SECONDS = 1.0
"""Longest time between two reports, in seconds."""

RETRY_SECONDS = 2.0
"""Pause in seconds before a bucket is asked again that could not be used."""

CLEANS_SECONDS = 10.0
"""Pause in seconds between two searches for projects that other nodes have cleaned."""

NICENESS = 10
"""Niceness of the thread that follows their cleans."""


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
        """Report that all nodes will hear of cleans, or why they won't now."""
        with self._lock:
            self._next.told.append((number, failure))
        self._happened.set()

    def followed(self, project: Project, gone: Removed) -> None:
        """Report what has been removed of a project that another node has cleaned."""
        with self._lock:
            self._next.followed.append(
                FollowedClean(project.account, project.name, gone.files, gone.bytes)
            )
        self._happened.set()

    def trouble(self, line: str) -> None:
        """Report what has gone wrong with cleans."""
        with self._lock:
            self._next.troubles.append(line)
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
    return PullReport(BucketReport("starting"), [], [], [], [], [], [])


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
        self._telling = ThreadPoolExecutor(1, thread_name_prefix="tell")
        self._bucket: ClaimedBucket | None = None
        self._failure: BucketError | None = None
        self._opening = threading.Lock()
        self._exchanged = threading.Event()
        self._puller: Puller | None = None

    def keep_looking(self) -> None:
        """Open the bucket, as often as it takes, and look for cleans; never returns."""
        while True:
            time.sleep(self.look())

    def look(self) -> float:
        """Open the bucket, look for cleans, and return the seconds until the next time."""
        try:
            self._look(in_turn=self._puller is not None)
        except BucketError as error:
            cause = error.cause if isinstance(error, BreakerOpen) else error
            is_lasting = self._puller is None or isinstance(cause, Misconfigured)
            self._failure = cause if is_lasting else None  # the breaker tells of an outage
        except OSError as error:
            self._failure = failed_disk(error)
        else:
            self._failure = None
            return CLEANS_SECONDS
        return RETRY_SECONDS

    def bucket_report(self, requests: list[CountedRequest]) -> BucketReport:
        """How the bucket is, with the requests since the last report."""
        is_started = self._puller is not None
        return bucket_report(self._bucket, self._failure, requests, is_started=is_started)

    def _look(self, *, in_turn: bool = False) -> None:
        """Open the bucket, if that has not been done, and exchange cleans with it once.

        Nothing is pulled before that has succeeded. In turn, another process may have done it.
        """
        with self._opening:
            bucket = self._bucket = self._bucket or ClaimedBucket(
                self._config.bucket, self._config.server_url, count=self._reporter.requested
            )
        bucket.claim()
        root, durable = self._store.root, self._store.durable
        if in_turn:
            exchange_cleans_in_turn(bucket, root, CLEANS_SECONDS - 1, durable=durable)
        else:
            exchange_cleans(bucket, root, durable=durable)
        self._exchanged.set()
        with self._opening:
            if self._puller is None:
                self._puller = self._new_puller(bucket)

    def keep_following(self) -> None:
        """Follow the cleans that are noted here, also those of a life before; never returns."""
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while True:
            self._exchanged.clear()
            try:
                for project, clean in known_cleans(self._store.root).items():
                    if not clean.is_followed:
                        self._follow(project, clean.time)
            except OSError as error:
                self._reporter.trouble(f"cannot follow a clean: {error.strerror}")
            self._exchanged.wait(CLEANS_SECONDS)

    def _follow(self, project: Project, when: int) -> None:
        """Follow a clean, resting as long as each step took, so that other disk access goes on."""
        gone = Removed()
        try:
            steps = follow_clean(self._store.root, project, when, durable=self._store.durable)
            while True:
                began = time.monotonic()
                if (removed := next(steps, None)) is None:
                    return
                gone += removed
                time.sleep(time.monotonic() - began)
        finally:
            if gone.files:
                self._reporter.followed(project, gone)

    def _new_puller(self, bucket: ClaimedBucket) -> Puller:
        return Puller(
            self._store,
            self._temporary,
            bucket,
            entry_seconds=self._config.entry_seconds,
            max_entry_bytes=self._config.max_entry_bytes,
            flights=MAX_FLIGHTS,
            stored=self._reporter.stored,
            noticed=self._reporter.noticed,
        )

    def take(self, request: PullRequest | TellRequest) -> None:
        """Begin to do what is asked for; the outcome is reported when it is known."""
        if isinstance(request, PullRequest):
            self._pull(request)
        else:
            self._telling.submit(self._tell, request)

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

    def _tell(self, request: TellRequest) -> None:
        """Tell all nodes of the cleans that this one knows of."""
        failure = None
        try:
            self._look()
        except BucketError as error:
            failure = str(error)
        except OSError as error:
            failure = error.strerror or type(error).__name__
        self._reporter.told(request.number, failure)


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
        threading.Thread(target=server.keep_following, name="follow", daemon=True).start()
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
