"""The application: its supervision tree, and the parts that the tree keeps running."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Protocol

import trio

from .access.tuist import tuist_api
from .actors.auth_cache import AuthCache, AuthCacheClient
from .actors.cleaner import Cleaner, CleanerClient
from .actors.disk_writer import DiskWriter, DiskWriterClient
from .actors.evictor import Evictor, EvictorClient
from .actors.fetcher import Fetcher, FetcherClient
from .actors.housekeeper import Housekeeper
from .actors.kv_store import KeyValueStore, KeyValueStoreClient
from .actors.nginx_counter import NginxCounter
from .actors.replicator import Replicator, ReplicatorClient
from .actors.scrubber import Scrubber
from .fetcher_process.protocol import FetcherConfig
from .grpc.action_cache import MAX_REFERENCES
from .grpc.front import GrpcFront
from .http.app import CacheApp
from .http.server.listener import Listener
from .kinds import Kind
from .metrics.registry import Metrics
from .replicator_process.protocol import ReplicatorConfig
from .s3.config import bucket_config
from .s3.status import SharedMonitor
from .services import Services
from .storage.actions import packed_size
from .storage.capacity import Capacity
from .storage.eviction.run import Limits
from .storage.eviction.status import EvictionMonitor
from .storage.files.store import FileStore
from .storage.files.temporary import TemporaryFolder
from .storage.files.unfinished import UnfinishedUploads
from .storage.layout import TEMPORARY
from .supervision import (
    ChildSpec,
    Mailbox,
    Shares,
    Supervisor,
    Turns,
    actor_child,
    supervisor_child,
)
from .transfer.artifact_reader import ArtifactReader
from .transfer.part_uploads import PartUploads
from .writer_process.client import ArtifactWriterProcess, EntryWriterProcess

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from structlog.typing import FilteringBoundLogger

    from .metrics.recent import History
    from .runtime.listen_socket import ConnectionSource
    from .s3.status import SharedStatus
    from .settings import Settings
    from .storage.layout import StoredKey
    from .storage.recovery import Recovered
    from .supervision import Started, Status

TRANSFER_THREADS = 16
"""Largest number of threads in which uploads are written and artifacts are looked for and read."""

MEBIBYTE = 1024 * 1024

UPLOADS_BYTES = 32 * MEBIBYTE
"""Memory for all small uploads together, in bytes; a single client may have a quarter of it."""

ENTRIES_BYTES = 16 * MEBIBYTE
"""Memory for all key-value entries that are being received, in bytes, or that of eight entries of
the largest size if it is more. It is separate from that of uploads, which may be slow."""

MESSAGES_BYTES = 64 * MEBIBYTE
"""Memory for all messages of calls by gRPC, in bytes, or that of four of the largest size if it is
more: those that are being received, with what is done with them, and batches of blobs that are
sent."""

COMMITTED_BYTES = 8 * MEBIBYTE
"""Memory for entries that have been received and wait for the key-value store, in bytes."""

RECENT_ENTRIES_BYTES = 64 * MEBIBYTE
"""Memory for the most recently used key-value entries, in bytes."""

ACTOR_SHUTDOWN = 10.0
"""Longest stop of an actor or of another task beside the listener, in seconds."""

LISTENER_SHUTDOWN = 32.0
"""Longest stop of the listener, in seconds; requests in flight have 30 of them. The limit for the
whole process is `MAX_STOP_SECONDS`."""


class Peers(Protocol):
    """The other processes of the same service, for answers about all of them.

    In each method `own` is the value of this process.
    """

    @property
    def workers(self) -> int:
        """The number of processes that answer requests."""

    def tree(self, own: Status) -> Status:
        """The supervision tree of the whole service."""

    def is_replaced(self, own: bool) -> bool:
        """Whether another instance gets the new connections."""

    def metrics(self, own: bytes) -> bytes:
        """The metrics of the whole service."""

    def histories(self) -> list[History]:
        """The recent requests of the other processes."""

    def nginx_troubles(self, own: tuple[str, ...]) -> tuple[str, ...]:
        """Names of recent troubles with nginx that any process has seen."""

    def shared(self, own: SharedStatus) -> SharedStatus:
        """The status of the bucket for the whole service."""


class NoPeers:
    """The `Peers` of a service with a single process."""

    workers = 1

    def tree(self, own: Status) -> Status:
        """The supervision tree of this process."""
        return own

    def is_replaced(self, own: bool) -> bool:
        """Whether another instance gets the new connections."""
        return own

    def metrics(self, own: bytes) -> bytes:
        """The metrics of this process."""
        return own

    def histories(self) -> list[History]:
        """An empty list, as there are no other processes."""
        return []

    def nginx_troubles(self, own: tuple[str, ...]) -> tuple[str, ...]:
        """Names of recent troubles with nginx that this process has seen."""
        return own

    def shared(self, own: SharedStatus) -> SharedStatus:
        """The status of the bucket for this process."""
        return own


class Application:
    """The service in one process, with its supervision tree.

    Attributes:
        metrics: the metrics of this process.
        supervisor: the root of the tree.

    Args:
        settings: the service's settings.
        source: the source of connections.
        log: the log of this process.
        peers: the other processes of the service, if it has several.
        since: start of the service, in `time.monotonic()`; by default now.

    Raises:
        OSError: the storage folder or a temporary folder cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        source: ConnectionSource,
        log: FilteringBoundLogger,
        peers: Peers | None = None,
        since: float | None = None,
    ) -> None:
        self._settings = settings
        self._source = source
        self._log = log
        self._peers = peers or NoPeers()
        self._since = time.monotonic() if since is None else since
        self._evictions = EvictionMonitor()
        self._bucket = bucket_config(settings)
        self._shared = None if self._bucket is None else SharedMonitor()
        self.metrics = Metrics(
            lambda: self.supervisor.status(),
            lambda: self._store.health.status(),
            self._evictions.status,
            None if self._shared is None else self._shared.status,
        )
        storage = settings.cas_storage_dir
        storage.mkdir(parents=True, exist_ok=True)
        self._temporary = TemporaryFolder(storage / TEMPORARY)
        self._uploads = TemporaryFolder(settings.tmp_dir) if settings.tmp_dir else self._temporary
        self._capacity = Capacity(storage, settings.storage_max_bytes)
        self._store = FileStore(
            storage,
            self._temporary,
            durable=settings.durability == "fsync",
            capacity=self._capacity,
            synced=self.metrics.synced,
        )
        self._unfinished = UnfinishedUploads(self._store, self._temporary)
        self._disk_threads = trio.CapacityLimiter(2)  # one for each actor that commits
        self._background_threads = trio.CapacityLimiter(4)  # shared by those that maintain the disk
        self._transfer_threads = trio.CapacityLimiter(TRANSFER_THREADS)
        self._artifacts = Mailbox("disk_writer", capacity=256, max_weight=4 * MEBIBYTE, prompt=True)
        self._entries = Mailbox("kv_store", capacity=4096, max_weight=COMMITTED_BYTES, prompt=True)
        self._decisions = Mailbox("auth_cache", capacity=4096)
        self._stored = Mailbox("evictor", capacity=1024, prompt=True)
        self._cleans = Mailbox("cleaner", capacity=64)
        self._unshared = Mailbox("replicator", capacity=1024)
        self._missing = Mailbox("fetcher", capacity=4096, prompt=True)
        self._evictor_client = EvictorClient(self._stored.address)
        self._replicator_client = self._new_replicator_client()
        services = self._services(source)
        calls = GrpcFront(services, settings, self.metrics, log)
        self._app = CacheApp(services, settings, self.metrics, log, calls)
        self._listener = Listener(self._app, source)
        self.supervisor = self._tree()

    def _tree(self) -> Supervisor:
        """The supervision tree, in start order. It stops in reverse, so that requests end first."""
        housekeeper = Housekeeper(
            self._store,
            [self._temporary, self._uploads],
            self._unfinished,
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
        nginx_counter = NginxCounter(
            self._settings.nginx_log,
            self.metrics,
            lambda: not self._source.is_replaced(),
            self._background_threads,
            self._log.warning,
        )
        listener = ChildSpec("listener", self._listener.run, shutdown=LISTENER_SHUTDOWN)
        return self._supervisor(
            "cache_actors",
            actor_child(self._artifacts, self._disk_writer, shutdown=ACTOR_SHUTDOWN),
            actor_child(self._entries, self._key_value_store, shutdown=ACTOR_SHUTDOWN),
            actor_child(self._decisions, self._auth_cache, shutdown=ACTOR_SHUTDOWN),
            ChildSpec("housekeeper", housekeeper.run, shutdown=ACTOR_SHUTDOWN),
            ChildSpec("scrubber", scrubber.run, shutdown=ACTOR_SHUTDOWN),
            actor_child(self._stored, self._evictor, shutdown=ACTOR_SHUTDOWN),
            actor_child(self._cleans, self._cleaner, shutdown=ACTOR_SHUTDOWN),
            *self._replication(),
            *self._fetching(),
            ChildSpec("nginx_counter", nginx_counter.run, shutdown=ACTOR_SHUTDOWN),
            supervisor_child(
                self._supervisor("http", listener, max_restarts=100), shutdown=LISTENER_SHUTDOWN
            ),
        )

    def _supervisor(self, name: str, *children: ChildSpec, max_restarts: int = 20) -> Supervisor:
        return Supervisor(
            name, children, max_restarts=max_restarts, max_seconds=10, log=self._log.error
        )

    def _disk_writer(self) -> DiskWriter:
        return DiskWriter(
            ArtifactWriterProcess(
                self._store,
                self.metrics.synced,
                require_artifacts=self._settings.kv_require_artifacts,
                recovered=self._log_recovery,
            ),
            self._store,
            self._announce,
            self._disk_threads,
            self.metrics,
        )

    def _key_value_store(self) -> KeyValueStore:
        return KeyValueStore(
            self._store,
            EntryWriterProcess(
                self._store,
                self.metrics.synced,
                require_artifacts=self._settings.kv_require_artifacts,
                recovered=self._log_recovery,
            ),
            self._announce,
            RECENT_ENTRIES_BYTES,
            self._disk_threads,
            self.metrics,
        )

    def _log_recovery(self, recovered: Recovered, when: str) -> None:
        level = self._log.error if recovered.failed else self._log.warning
        level("recovered", when=when, **dataclasses.asdict(recovered))

    async def _announce(self, stored: Sequence[StoredKey]) -> None:
        """Report stored artifacts and entries to the actors that follow them."""
        await self._evictor_client.stored(stored)
        if self._replicator_client is not None:
            await self._replicator_client.stored(stored)

    def _new_replicator_client(self) -> ReplicatorClient | None:
        if self._shared is None:
            return None
        return ReplicatorClient(
            self._unshared.address,
            self._shared,
            entries=self._settings.s3_entries,
            wait=self._settings.s3_wait,
        )

    def _replication(self) -> Iterator[ChildSpec]:
        """The replicator, if there is a bucket."""
        bucket, shared, settings = self._bucket, self._shared, self._settings
        if bucket is None or shared is None:
            return

        def config(channel: int) -> ReplicatorConfig:
            return ReplicatorConfig(
                channel,
                str(self._store.root),
                bucket,
                str(settings.server_url),
                settings.s3_concurrency,
                settings.s3_entries,
            )

        def replicator() -> Replicator:
            return Replicator(config, shared, self.metrics, self._log.warning)

        yield actor_child(self._unshared, replicator, shutdown=ACTOR_SHUTDOWN)

    def _fetching(self) -> Iterator[ChildSpec]:
        """The fetcher, if there is a bucket."""
        bucket, shared, settings = self._bucket, self._shared, self._settings
        if bucket is None or shared is None:
            return

        def config(channel: int) -> FetcherConfig:
            return FetcherConfig(
                channel=channel,
                root=str(self._store.root),
                durable=self._store.durable,
                max_bytes=settings.storage_max_bytes,
                bucket=bucket,
                server_url=str(settings.server_url),
                entry_seconds=settings.s3_entry_days * 86_400,
                max_entry_bytes=max(
                    settings.largest(Kind.KEYVALUE),
                    packed_size(MAX_REFERENCES, settings.largest(Kind.ACTION)),
                ),
            )

        def fetcher() -> Fetcher:
            announce = self._evictor_client.stored
            return Fetcher(
                config, self._capacity, announce, shared, self.metrics, self._log.warning
            )

        yield actor_child(self._missing, fetcher, shutdown=ACTOR_SHUTDOWN)

    def _new_fetcher_client(self) -> FetcherClient | None:
        if self._bucket is None:
            return None
        return FetcherClient(
            self._missing.address,
            self._settings.s3_lookup_budget,
            self.metrics,
            entries=self._settings.s3_entries,
        )

    def shared_status(self) -> SharedStatus | None:
        """The status of the bucket for this process; None without one."""
        return None if self._shared is None else self._shared.status()

    def _status_of_bucket(self) -> SharedStatus | None:
        own = self.shared_status()
        return None if own is None else self._peers.shared(own)

    def _evictor(self) -> Evictor:
        limits = Limits(
            self._settings.disk_high_watermark_percent / 100,
            self._settings.disk_target_percent / 100,
            self._settings.storage_max_bytes,
            None if self._bucket is None else self._bucket.target,
            self._settings.s3_entries,
        )
        return Evictor(
            self._store.root,
            limits,
            self._capacity,
            self._evictions,
            self._background_threads,
            self._log.warning,
            (self._shared or SharedMonitor()).note_dropped,
        )

    def _cleaner(self) -> Cleaner:
        return Cleaner(
            self._store,
            self.metrics,
            self._background_threads,
            self._log.warning,
            is_shared=self._bucket is not None,
        )

    def _auth_cache(self) -> AuthCache:
        return AuthCache(
            lambda: tuist_api(self._settings),
            self.metrics,
            self._log.warning,
            success_ttl=self._settings.auth_success_ttl,
            failure_ttl=self._settings.auth_failure_ttl,
            stale_ttl=self._settings.auth_stale_ttl,
            connections=self._settings.tuist_connections,
        )

    def _services(self, source: ConnectionSource) -> Services:
        """The services for request handlers: clients of actors and figures, never actors."""
        secret = self._settings.secret_key_base.get_secret_value().encode(errors="surrogateescape")
        shared = self._replicator_client.shared if self._replicator_client else None
        writer = DiskWriterClient(
            self._artifacts.address,
            self._store,
            self._uploads,
            Shares(UPLOADS_BYTES),
            self._transfer_threads,
            self.metrics,
            Turns(self._peers.workers),
            shared,
        )
        entries = KeyValueStoreClient(
            self._entries.address, self._store.root, Turns(self._peers.workers), shared
        )
        return Services(
            auth=AuthCacheClient(self._decisions.address, secret),
            keyvalue=entries,
            writer=writer,
            parts=PartUploads(self._unfinished, self._store, writer, self._transfer_threads),
            reader=ArtifactReader(self._store, self._transfer_threads),
            cleaner=CleanerClient(self._cleans.address),
            fetcher=self._new_fetcher_client(),
            entry_memory=Shares(max(ENTRIES_BYTES, 8 * self._settings.largest(Kind.KEYVALUE))),
            call_memory=Shares(max(MESSAGES_BYTES, 4 * self._settings.grpc_max_cas_bytes)),
            since=self._since,
            status=lambda: self._peers.tree(self.supervisor.status()),
            metrics=lambda: self._peers.metrics(self.metrics.render()),
            recent=lambda: self.metrics.recent.figures(self._peers.histories()),
            storage=self._store.health.status,
            is_replaced=lambda: self._peers.is_replaced(source.is_replaced()),
            eviction=self._evictions.status,
            shared=self._status_of_bucket,
            nginx_troubles=lambda: self._peers.nginx_troubles(self.metrics.nginx_troubles()),
        )

    async def run(self, stop: trio.Event, started: Started) -> None:
        """Run until `stop` is set and the tree has stopped in order.

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
