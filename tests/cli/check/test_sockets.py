"""The folder of sockets, and the link that nginx connects to."""

import errno
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from cache_actors.cli.check import sockets as sockets_module
from cache_actors.cli.check.result import CheckResult, Verdict
from cache_actors.cli.check.sockets import check_sockets
from cache_actors.runtime.listen_socket import CannotListen, bind
from cache_actors.settings import Settings


@pytest.fixture
def sockets(tmp_path: Path) -> Path:
    folder = tmp_path / "sockets"
    folder.mkdir()
    folder.chmod(0o2770)
    return folder


def settings(**where: Any) -> Settings:
    return Settings(server_url="http://tuist", **where)


def findings(**where: Any) -> dict[str, CheckResult]:
    return {finding.subject: finding for finding in check_sockets(settings(**where))}


def test_folder_is_looked_at_if_there_are_to_be_sockets(sockets: Path) -> None:
    assert "socket folder" not in findings()  # with a port
    assert {found.verdict for found in findings(socket_dir=sockets).values()} == {Verdict.OK}
    missing = findings(socket_dir=sockets / "missing")
    assert missing["socket folder"].verdict is Verdict.BROKEN


@pytest.mark.parametrize(
    ("mode", "words"), [(0o2700, "closed to its group"), (0o770, "does not give sockets its group")]
)
def test_folder_that_nginx_may_not_use_is_told(sockets: Path, mode: int, words: str) -> None:
    sockets.chmod(mode)
    for where in {"socket_dir": sockets}, {"socket_path": sockets / "cache.sock"}:
        found = findings(**where)["socket folder"]
        assert found.verdict is Verdict.WARNING
        assert words in found.text


@pytest.mark.parametrize("in_folder", ["", "/0123456789ab.sock"], ids=["path", "folder"])
@pytest.mark.parametrize("length", [107, 108])
def test_path_that_is_too_long_for_a_socket_is_broken(
    sockets: Path, length: int, in_folder: str
) -> None:
    """By the same length as `serve` finds."""
    path = sockets / ("x" * (length - len(f"{sockets}/{in_folder}")))
    if in_folder:
        path.mkdir()
    where = {"socket_dir" if in_folder else "socket_path": path}
    assert ("socket path" in findings(**where)) == (length > 107)
    if length > 107:
        with pytest.raises(CannotListen, match="too long"):
            bind(settings(**where))
    else:
        bind(settings(**where)).close()


def test_link_is_followed(sockets: Path) -> None:
    (sockets / "current.sock").symlink_to("one.sock")
    dangling = findings(socket_dir=sockets)["current.sock"]
    assert dangling.verdict is Verdict.WARNING
    assert "one.sock, where nobody listens" in dangling.text
    with socket.socket(socket.AF_UNIX) as instance:
        instance.bind(str(sockets / "one.sock"))
        instance.listen()
        assert findings(socket_dir=sockets)["current.sock"].verdict is Verdict.OK
    assert findings(socket_dir=sockets)["current.sock"].verdict is Verdict.WARNING


def test_what_is_in_the_way_of_the_link_is_broken(sockets: Path) -> None:
    (sockets / "current.sock").mkdir()
    assert findings(socket_dir=sockets)["current.sock"].verdict is Verdict.BROKEN


def test_folder_is_tried_by_making_what_a_service_makes_and_nothing_is_left(
    sockets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not every file system has sockets, and not every one has links."""
    assert findings(socket_dir=sockets)["socket folder"].verdict is Verdict.OK
    assert list(sockets.iterdir()) == []

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    for thing in "symlink", "replace":
        with monkeypatch.context() as patch:
            patch.setattr(os, thing, refuse)
            found = findings(socket_dir=sockets)["socket folder"]
        assert found.verdict is Verdict.BROKEN
        assert "cannot have sockets and links: Operation not supported" in found.text
        assert list(sockets.iterdir()) == []


def test_port_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = findings(port=port)["port"]
        assert found.verdict is Verdict.WARNING
        assert f"port {port} of 127.0.0.1 is taken by process {os.getpid()} (" in found.text
        for command, verdict in (
            ("/srv/cache-actors/bin/cache-actors serve", Verdict.OK),
            ("cache-actors dev", Verdict.OK),
            ("python3 -m cache_actors.workers {}", Verdict.OK),
            ("/srv/cache-actors/bin/python3 -m http.server", Verdict.WARNING),
        ):
            holder = f"process 7 ({command})"
            monkeypatch.setattr(sockets_module, "listener_at", lambda *_, it=holder: it)
            assert findings(port=port)["port"].verdict is verdict
    free = findings(port=port)["port"]
    assert (free.verdict, free.advice) == (Verdict.OK, None)
    elsewhere = findings(port=port, bind="192.0.2.1")["port"]
    assert elsewhere.verdict is Verdict.BROKEN
    assert elsewhere.advice is not None
    assert "BIND" in elsewhere.advice
