"""The services: the interface between the actors and a front of the cache, such as `http/`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .actors.auth_cache import AuthCacheClient
    from .actors.cleaner import CleanerClient
    from .actors.disk_writer import DiskWriterClient
    from .actors.fetcher import FetcherClient
    from .actors.kv_store import KeyValueStoreClient
    from .metrics.recent import Figures
    from .s3.status import SharedStatus
    from .storage.eviction.status import EvictionStatus
    from .storage.health import StorageStatus
    from .supervision import Shares, Status
    from .transfer.artifact_reader import ArtifactReader
    from .transfer.part_uploads import PartUploads


@dataclass(frozen=True, slots=True)
class Services:
    """The clients of actors, limits and figures that request handlers may use.

    Attributes:
        auth: client of the actor that authorises requests.
        keyvalue: client of the actor that stores entries and actions.
        writer: client of the disk writer, which stores artifacts and blobs.
        parts: uploads of modules, which come in parts.
        reader: opens artifacts for reading.
        cleaner: client of the actor that takes away all that is stored of a project.
        fetcher: client of the actor that looks in the bucket; None without one.
        entry_memory: shares of the memory for key-value entries that are being received, in bytes.
        call_memory: shares of the memory for messages of calls by gRPC, in bytes.
        since: start of the service, in `time.monotonic()`.
        status: status of the supervision tree; with workers, of the trees of all processes.
        metrics: body of `/metrics`, in Prometheus's text format.
        recent: figures of the last five minutes, for `/up`.
        storage: state of the disk, by the latest writes and probes, and its free room.
        is_replaced: whether another instance gets the new connections.
        eviction: how full the disk is, what this process has evicted, and the last pass of any.
        shared: status of the bucket; None without one.
        nginx_troubles: names of recent troubles with nginx, for `/up`.
    """

    auth: AuthCacheClient
    keyvalue: KeyValueStoreClient
    writer: DiskWriterClient
    parts: PartUploads
    reader: ArtifactReader
    cleaner: CleanerClient
    fetcher: FetcherClient | None
    entry_memory: Shares
    call_memory: Shares
    since: float
    status: Callable[[], Status]
    metrics: Callable[[], bytes]
    recent: Callable[[], Figures]
    storage: Callable[[], StorageStatus]
    is_replaced: Callable[[], bool]
    eviction: Callable[[], EvictionStatus]
    shared: Callable[[], SharedStatus | None]
    nginx_troubles: Callable[[], Sequence[str]]
