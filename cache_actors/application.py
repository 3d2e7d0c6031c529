"""The application: its supervision tree, and the parts that the tree keeps running."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import trio

from .actors.artifact_reader import ArtifactReader
from .actors.auth_cache import AuthCache, AuthCacheClient
from .actors.disk_writer import DiskWriter, DiskWriterClient
from .actors.housekeeper import Housekeeper
from .actors.kv_store import KeyValueStore, KeyValueStoreClient
from .actors.partitions import Partitions
from .actors.scrubber import Scrubber
from .actors.tuist_api import TuistApi
from .http.app import CacheApp, Services
from .http.listener import Listener
from .storage.files import FileStore
from .storage.layout import TEMPORARY
from .storage.temporary import TemporaryFolder
from .supervision import (
    Budget,
    ChildSpec,
    Mailbox,
    Supervisor,
    actor_child,
    supervisor_child,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import FilteringBoundLogger

    from .http.endpoint import Endpoint
    from .settings import Settings
    from .supervision import Started, Status

WRITERS = 8
STREAM_THREADS = 16
MEBIBYTE = 1024 * 1024

UPLOADS_BYTES = 16 * MEBIBYTE
"""What all small uploads together may take in memory."""

ENTRIES_BYTES = 8 * MEBIBYTE
"""What all key-value entries on their way in may take, apart so that slow uploads don't hurt."""

RECENT_ENTRIES_BYTES = 64 * MEBIBYTE
"""What the key-value entries used last may take in memory."""

ACTOR_SHUTDOWN = 10.0
LISTENER_SHUTDOWN = 32.0
"""Seconds. Requests in flight have 30, which is the listener's own limit. The process has a limit
of its own for all of these together."""


class Application:
    """The service at one endpoint.

    Args:
        settings: what it runs with.
        endpoint: where it listens.
        log: where it logs.
        whole_tree: makes the tree that `/up` shows of this application's own; for workers.
        since: when the service was started, in `time.monotonic()`; now, if it is not said.

    Raises:
        OSError: the storage folder or the temporary one cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        endpoint: Endpoint,
        log: FilteringBoundLogger,
        *,
        whole_tree: Callable[[Status], Status] = lambda own_tree: own_tree,
        since: float | None = None,
    ) -> None:
        self._settings = settings
        self._log = log
        self._whole_tree = whole_tree
        self._since = time.monotonic() if since is None else since
        storage = settings.cas_storage_dir
        storage.mkdir(parents=True, exist_ok=True)
        self._temporary = TemporaryFolder(storage / TEMPORARY)
        self._uploads = TemporaryFolder(settings.tmp_dir) if settings.tmp_dir else self._temporary
        self._store = FileStore(storage, self._temporary, durable=settings.durability == "fsync")
        self._disk_threads = trio.CapacityLimiter(WRITERS + 1)  # one for each actor that needs one
        self._background_threads = trio.CapacityLimiter(2)  # the housekeeper's, the scrubber's
        self._stream_threads = trio.CapacityLimiter(STREAM_THREADS)
        self._writers = [
            Mailbox(f"disk_writer_{number}", capacity=256, max_weight=4 * MEBIBYTE)
            for number in range(WRITERS)
        ]
        self._entries = Mailbox("kv_store", capacity=4096, max_weight=ENTRIES_BYTES)
        self._decisions = Mailbox("auth_cache", capacity=4096)
        self._app = CacheApp(self._services(), settings, log)
        self._listener = Listener(self._app, endpoint)
        self.supervisor = self._tree()

    def _tree(self) -> Supervisor:
        """The supervision tree, in start order. It stops in reverse: requests end first."""
        writers = [
            actor_child(mailbox, self._disk_writer, shutdown=ACTOR_SHUTDOWN)
            for mailbox in self._writers
        ]
        housekeeper = Housekeeper(
            self._store,
            [self._temporary, self._uploads],
            self._background_threads,
            self._log.warning,
        )
        scrubber = Scrubber(
            self._store.root,
            self._settings.scrub_interval,
            self._settings.scrub_rate,
            self._background_threads,
            self._log.warning,
        )
        listener = ChildSpec("listener", self._listener.run, shutdown=LISTENER_SHUTDOWN)
        return self._supervisor(
            "cache_actors",
            supervisor_child(
                self._supervisor("disk_writers", *writers), shutdown=WRITERS * ACTOR_SHUTDOWN
            ),
            actor_child(self._entries, self._key_value_store, shutdown=ACTOR_SHUTDOWN),
            actor_child(self._decisions, self._auth_cache, shutdown=ACTOR_SHUTDOWN),
            ChildSpec("housekeeper", housekeeper.run, shutdown=ACTOR_SHUTDOWN),
            ChildSpec("scrubber", scrubber.run, shutdown=ACTOR_SHUTDOWN),
            supervisor_child(
                self._supervisor("http", listener, max_restarts=100), shutdown=LISTENER_SHUTDOWN
            ),
        )

    def _supervisor(self, name: str, *children: ChildSpec, max_restarts: int = 20) -> Supervisor:
        return Supervisor(
            name, children, max_restarts=max_restarts, max_seconds=10, log=self._log.error
        )

    def _disk_writer(self) -> DiskWriter:
        return DiskWriter(self._store, self._disk_threads)

    def _key_value_store(self) -> KeyValueStore:
        return KeyValueStore(self._store, RECENT_ENTRIES_BYTES, self._disk_threads)

    def _auth_cache(self) -> AuthCache:
        return AuthCache(
            lambda: TuistApi(str(self._settings.server_url)),
            success_ttl=self._settings.auth_success_ttl,
            failure_ttl=self._settings.auth_failure_ttl,
            stale_ttl=self._settings.auth_stale_ttl,
        )

    def _services(self) -> Services:
        """What handlers may use: clients, no actors."""
        secret = self._settings.secret_key_base.get_secret_value().encode(errors="surrogateescape")
        return Services(
            auth=AuthCacheClient(self._decisions.address, secret),
            keyvalue=KeyValueStoreClient(self._entries.address, self._store.root),
            writer=DiskWriterClient(
                Partitions([mailbox.address for mailbox in self._writers]),
                self._store,
                self._uploads,
                Budget(UPLOADS_BYTES),
                self._stream_threads,
            ),
            reader=ArtifactReader(self._store, self._stream_threads),
            memory=Budget(ENTRIES_BYTES),
            since=self._since,
            status=lambda: self._whole_tree(self.supervisor.status()),
            storage=self._store.health.status,
        )

    async def run(self, stop: trio.Event, started: Started) -> None:
        """Run until `stop` is set and everything has come to its end in order.

        Raises:
            RestartIntensityError: the tree has given up.
        """
        try:
            await self.supervisor.run(stop, started)
        finally:
            self.supervisor.abandon()
            self._temporary.remove()
            if self._uploads is not self._temporary:
                self._uploads.remove()
