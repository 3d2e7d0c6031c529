"""Who may see the metrics."""

import pytest

from cache_actors.http.metrics import is_on_this_host


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("elsewhere", ["10.0.0.1", "192.168.1.1", "2001:db8::1", "::ffff:10.0.0.1"])
def test_loopback_and_unix_sockets_are_this_host(address: str, elsewhere: str) -> None:
    assert is_on_this_host(None)
    assert is_on_this_host((address, 1234))
    assert not is_on_this_host((elsewhere, 1234))
