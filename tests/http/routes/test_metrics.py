"""Who may see the metrics."""

from pathlib import Path

import pytest

from cache_actors.cli.dev.tuist import StandInTuist
from cache_actors.http.routes.metrics import is_on_this_host
from cache_actors.http.server import connection
from tests.support.application import running_application


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("elsewhere", ["10.0.0.1", "192.168.1.1", "2001:db8::1", "::ffff:10.0.0.1"])
def test_loopback_and_unix_sockets_are_this_host(address: str, elsewhere: str) -> None:
    assert is_on_this_host(None)
    assert is_on_this_host((address, 1234))
    assert not is_on_this_host((elsewhere, 1234))


@pytest.mark.parametrize(
    ("address", "troubles"), [("127.0.0.1", ["files_not_opened"]), ("192.0.2.1", [])]
)
async def test_what_nginx_could_not_do_is_believed_of_this_host_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, troubles: list[str]
) -> None:
    monkeypatch.setattr(connection, "parse_socket_addr", lambda *_: (address, 1234))
    headers = {"X-Cache-Trouble": "files_not_opened"}
    with StandInTuist() as tuist:
        async with running_application(tmp_path, tuist) as running:
            assert (await running.client.get("/up", headers=headers)).is_success
            assert (await running.client.get("/up")).json()["nginx"]["troubles"] == troubles
