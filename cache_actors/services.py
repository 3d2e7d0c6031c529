"""The services: all that a front of the cache may use, whatever protocol it speaks.

A front is `http/`. It sends messages through these clients, and owns nothing itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .actors.auth_cache import AuthCacheClient
    from .actors.cleaner import CleanerClient
    from .actors.disk_writer import DiskWriterClient
    from .actors.kv_store import KeyValueStoreClient
    from .metrics.recent import Figures
    from .storage.eviction.status import EvictionStatus
    from .storage.health import StorageStatus
    from .supervision import Shares, Status
    from .transfer.artifact_reader import ArtifactReader
    from .transfer.part_uploads import PartUploads


@dataclass(frozen=True, slots=True)
class Services:
    """All that handlers may use: clients of actors, bounds, and the latest figures.

    Attributes:
        memory: what key-value entries on their way in may take together, in bytes.
        since: when the service was started, in `time.monotonic()`.
        status: the supervision tree's own records; with workers, those of all processes.
        metrics: what `/metrics` answers.
        recent: what has been answered lately.
        storage: how writing to the disk has gone lately.
        is_replaced: whether another instance gets the new connections by now.
        eviction: what has been evicted.
        nginx_troubles: what nginx could not do by itself lately.
    """

    auth: AuthCacheClient
    keyvalue: KeyValueStoreClient
    writer: DiskWriterClient
    parts: PartUploads
    reader: ArtifactReader
    cleaner: CleanerClient
    memory: Shares
    since: float
    status: Callable[[], Status]
    metrics: Callable[[], bytes]
    recent: Callable[[], Figures]
    storage: Callable[[], StorageStatus]
    is_replaced: Callable[[], bool]
    eviction: Callable[[], EvictionStatus]
    nginx_troubles: Callable[[], Sequence[str]]
