"""`python -m cache_actors.fetcher_process CONFIG`: the process that pulls for the fetcher."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import msgspec

from cache_actors.actor_process.framing import framed, next_message
from cache_actors.s3.bucket import Bucket
from cache_actors.s3.errors import BucketError
from cache_actors.s3.installation import claim
from cache_actors.s3.outcome import Outcome
from cache_actors.s3.pull import Puller
from cache_actors.storage.capacity import Capacity
from cache_actors.storage.files.store import FileStore
from cache_actors.storage.files.temporary import TemporaryFolder
from cache_actors.storage.layout import TEMPORARY, key_at

from .protocol import (
    MAX_FLIGHTS,
    CountedRequest,
    FetcherConfig,
    Noticed,
    PullReport,
    StoredFile,
    decode_request,
)

if TYPE_CHECKING:
    from concurrent.futures import Future

    from cache_actors.storage.layout import Key, StoredKey

    from .protocol import PullRequest

RETRY_SECONDS = 2.0
"""Pause in seconds before a bucket is opened again that could not be used."""


class Reporter:
    """Gathers what happens in any thread, and sends it through `channel`."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._happened = threading.Event()
        self._lock = threading.Lock()
        self._next = PullReport([], [], [], [])

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
            self._next.requests.append(CountedRequest(operation, outcome, seconds))

    def keep_reporting(self) -> None:
        """Send reports until nobody takes them."""
        while True:
            self._happened.wait()
            self._happened.clear()
            with self._lock:
                report, self._next = self._next, PullReport([], [], [], [])
            try:
                self._channel.sendall(framed(report))
            except OSError:
                return


class FetcherServer:
    """Pulls what it is asked for, once the bucket is known to be the right one.

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
        self._puller: Puller | None = None

    def open(self) -> None:
        """Open the bucket, as often as it takes; blocks."""
        while self._puller is None:
            try:
                bucket = Bucket(self._config.bucket, count=self._reporter.requested)
                claim(bucket, self._config.server_url)
            except BucketError:  # the replicator tells why
                time.sleep(RETRY_SECONDS)
            else:
                self._puller = Puller(
                    self._store,
                    self._temporary,
                    bucket,
                    entry_seconds=self._config.entry_seconds,
                    max_entry_bytes=self._config.max_entry_bytes,
                    flights=MAX_FLIGHTS,
                    stored=self._reporter.stored,
                    noticed=self._reporter.noticed,
                )

    def pull(self, request: PullRequest) -> None:
        """Begin to pull, and report the outcome when it is known."""
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


def run(config: FetcherConfig) -> None:
    """Pull what is asked for through the channel until its other end is gone.

    Raises:
        OSError: the storage folder cannot be used.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    temporary = TemporaryFolder(Path(config.root) / TEMPORARY)
    with socket.socket(fileno=config.channel) as channel, channel.makefile("rb") as stream:
        reporter = Reporter(channel)
        server = FetcherServer(config, temporary, reporter)
        for work in (server.open, reporter.keep_reporting):
            threading.Thread(target=work, name=work.__name__, daemon=True).start()
        try:
            while (message := next_message(stream)) is not None:
                server.pull(decode_request(message))
        except ConnectionError:
            pass
    temporary.remove()
    os._exit(0)  # requests that are under way would hold up the end of the interpreter


if __name__ == "__main__":
    run(msgspec.json.decode(sys.argv[-1], type=FetcherConfig))
