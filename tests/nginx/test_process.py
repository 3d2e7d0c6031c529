"""nginx as a child process that does not start."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from cache_actors.nginx.process import NginxFailed
from tests.support.nginx import nginx_before

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("which", ["wheel", "debian"])
def test_taken_port_is_told_in_one_line(tmp_path: Path, which: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            pytest.raises(NginxFailed) as failed,
            nginx_before("127.0.0.1:1", tmp_path, which, listen=listen),
        ):
            pytest.fail("it started")
    told = str(failed.value)
    assert told.startswith(f"{listen} is taken by process {os.getpid()} ("), told
    assert told.endswith("): end that, or set PORT to another port")
