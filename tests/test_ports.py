"""Who has taken a port is told."""

import os
import socket
from pathlib import Path

import pytest

from cache_actors.ports import listener_at, process_named


@pytest.mark.parametrize(
    ("bound", "asked"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "0.0.0.0"),
     ("::1", "::1"), ("::", "127.0.0.1"), ("::ffff:127.0.0.1", "127.0.0.1")],
)  # fmt: skip
def test_process_that_listens_is_named(bound: str, asked: str) -> None:
    family = socket.AF_INET6 if ":" in bound else socket.AF_INET
    with socket.socket(family) as taken:
        taken.bind((bound, 0))
        taken.listen()
        assert listener_at(asked, taken.getsockname()[1]) == process_named(os.getpid())


def test_listener_at_another_address_is_not_meant() -> None:
    with socket.create_server(("127.0.0.2", 0)) as other:
        assert listener_at("127.0.0.1", other.getsockname()[1]) == "somebody"


def test_process_that_may_not_be_looked_at_is_told_by_its_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(_path: Path) -> None:
        raise PermissionError

    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(Path, "iterdir", refused)
        told = listener_at("127.0.0.1", taken.getsockname()[1])
    assert told == f"a process of user {os.geteuid()}"


def test_process_that_is_gone_has_its_number_only() -> None:
    assert process_named(2**31 - 1) == f"process {2**31 - 1}"
