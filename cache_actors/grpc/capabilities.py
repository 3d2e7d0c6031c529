"""Capabilities: what the service can do, told as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .digests import SHA256, ZSTD
from .messages_pb2 import (
    ActionCacheUpdateCapabilities,
    CacheCapabilities,
    GetCapabilitiesRequest,
    SemVer,
    ServerCapabilities,
)

if TYPE_CHECKING:
    from .context import CallContext

MAX_BATCH_BYTES = 4_000_000
"""Largest batch that clients are told, in bytes. The service takes more (`GRPC_MAX_CAS_BYTES`), but
what a client with the usual settings can receive is 4 MiB."""

_ABSOLUTE_SYMLINKS_ALLOWED = 2


async def get_capabilities(context: CallContext, _: GetCapabilitiesRequest) -> bytes:
    """`GetCapabilities`."""
    return ServerCapabilities(
        cache_capabilities=CacheCapabilities(
            digest_functions=[SHA256],
            action_cache_update_capabilities=ActionCacheUpdateCapabilities(update_enabled=True),
            max_batch_total_size_bytes=min(MAX_BATCH_BYTES, context.settings.grpc_max_cas_bytes),
            symlink_absolute_path_strategy=_ABSOLUTE_SYMLINKS_ALLOWED,
            supported_compressors=[ZSTD],
            supported_batch_update_compressors=[ZSTD],
            max_cas_blob_size_bytes=context.settings.max_blob_bytes,
        ),
        low_api_version=SemVer(major=2, minor=0),
        high_api_version=SemVer(major=2, minor=3),
    ).SerializeToString()
