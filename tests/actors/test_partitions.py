"""Every key has one actor that is responsible for it, and all share the work."""

from __future__ import annotations

from collections import Counter
from zlib import crc32

import pytest

from cache_actors.actors.partitions import Partitions
from cache_actors.supervision import Mailbox

ADDRESSES = [Mailbox(f"writer_{number}", capacity=1).address for number in range(8)]


def test_a_key_has_one_address_whoever_asks() -> None:
    one, another = Partitions(ADDRESSES), Partitions(list(ADDRESSES))
    for number in range(100):
        assert one.address(f"key {number}") is another.address(f"key {number}")


@pytest.mark.parametrize("key", ["", "/cas/acme/app/cas/00/A", "\N{SNOWMAN}"])
def test_address_follows_from_the_key_alone(key: str) -> None:
    """Not from `hash`, which differs between processes."""
    assert Partitions(ADDRESSES).address(key) is ADDRESSES[crc32(key.encode()) % 8]


def test_keys_that_differ_little_are_shared_evenly() -> None:
    partitions = Partitions(ADDRESSES)
    shares = Counter(partitions.address(f"/cas/acme/app/cas/00/{n:064X}") for n in range(8000))
    assert set(shares) == set(ADDRESSES)
    assert min(shares.values()) > 500


def test_one_address_is_responsible_for_all() -> None:
    assert Partitions(ADDRESSES[:1]).address("any") is ADDRESSES[0]
