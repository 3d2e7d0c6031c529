"""Partitions: several actors of one kind, each responsible for its share of the keys."""

from __future__ import annotations

from typing import TYPE_CHECKING
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cache_actors.supervision import Address


class Partitions:
    """Messages about one key always go to the same actor, so they are handled in order."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._addresses = addresses

    def address(self, key: str) -> Address:
        """Who is responsible for `key`."""
        return self._addresses[crc32(key.encode()) % len(self._addresses)]
