"""Who may see the metrics."""

from __future__ import annotations

import pytest

from cache_actors.http.routes.metrics import is_on_this_host


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"])
def test_loopback_is_this_host(address: str) -> None:
    assert is_on_this_host((address, 1234))


def test_unix_socket_is_on_this_host() -> None:
    assert is_on_this_host(None)


@pytest.mark.parametrize("address", ["10.0.0.1", "192.168.1.1", "2001:db8::1", "::ffff:10.0.0.1"])
def test_other_addresses_are_elsewhere(address: str) -> None:
    assert not is_on_this_host((address, 1234))
