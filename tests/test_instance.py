"""Where the instance of an environment listens."""

import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cache_actors.instance import BadAddress, NoAnswer, instance_at, own_instance

NOBODY = 65534


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for sockets, which anybody may look into, with two instances and a dead one."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cache-actors-")))
        folder.chmod(0o755)
        for number, name in enumerate(("old", "new", "dead")):
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(str(folder / f"{name}.sock"))
            if name != "dead":
                listener.listen()
            os.utime(folder / f"{name}.sock", (number, number))
        (folder / "current.sock").symlink_to("old.sock")
        yield folder


@pytest.mark.parametrize(
    ("environment", "where"),
    [
        ({}, "http://127.0.0.1:4000/up"),
        ({"PORT": "", "BIND": "", "SOCKET_PATH": "", "SOCKET_DIR": ""}, "http://127.0.0.1:4000/up"),
        ({"PORT": "81", "BIND": "::1"}, "http://[::1]:81/up"),
        ({"PORT": "81", "SOCKET_PATH": "/run/cache.sock"}, "/run/cache.sock"),
    ],
)
def test_environment_says_where(environment: dict[str, str], where: str) -> None:
    assert str(own_instance(environment)) == where


def test_environment_that_says_nothing_clear_is_refused() -> None:
    for port in ("0", "65536", "x", "-1"):
        with pytest.raises(BadAddress, match=r"PORT is .* allowed: a whole number from 1 to 65535"):
            own_instance({"PORT": port})
    with pytest.raises(BadAddress, match="both set"):
        own_instance({"SOCKET_PATH": "/a", "SOCKET_DIR": "/b"})


def test_newest_living_instance_of_a_folder_is_asked(folder: Path) -> None:
    assert own_instance({"SOCKET_DIR": str(folder)}).socket == folder / "new.sock"


def test_folder_without_an_instance(folder: Path) -> None:
    empty = folder / "empty"
    with pytest.raises(NoAnswer, match=r"empty: No such file"):
        own_instance({"SOCKET_DIR": str(empty)})
    empty.mkdir()
    with pytest.raises(NoAnswer, match="No instance listens in"):
        own_instance({"SOCKET_DIR": str(empty)})


def test_who_may_not_ask_is_told_so(folder: Path) -> None:
    for path in folder.glob("*.sock"):
        path.chmod(0o000)
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        with pytest.raises(NoAnswer, match=r"\.sock: Permission denied"):
            own_instance({"SOCKET_DIR": str(folder)})
    finally:
        if user == 0:
            os.seteuid(user)


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("https://cache.example.com", "https://cache.example.com:443/up"),
        ("http://cache.example.com:8080/", "http://cache.example.com:8080/up"),
        ("http://[::1]:81/up", "http://[::1]:81/up"),
        (
            "http://user:secret@cache.example.com/cache/up?x#y",
            "http://cache.example.com:80/cache/up",
        ),
    ],
)
def test_url_says_where(url: str, where: str) -> None:
    assert str(instance_at(url)) == where


@pytest.mark.parametrize(
    "url", ["", "cache.example.com", "ftp://a", "http://", "http://a:b", "http://["]
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(BadAddress):
        instance_at(url)


def test_somebody_who_speaks_another_language() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            with server.accept()[0] as client:
                client.recv(1024)
                client.sendall(b"220 mail.example.com\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(NoAnswer, match="gives no answer: 220 mail"):
            instance_at(f"http://127.0.0.1:{server.getsockname()[1]}").ask()
        thread.join()
