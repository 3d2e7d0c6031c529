"""SeaweedFS, an S3 server in one process, on loopback: for development and tests."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from cache_actors.errors import CommandError
from cache_actors.nginx.process import guarded

if TYPE_CHECKING:
    from collections.abc import Iterator

ACCESS_KEY, SECRET_KEY = "dev-access-key", "dev-secret-key"

START_SECONDS = 60.0
"""Longest time in seconds until it answers."""

_IDENTITY = {
    "name": "dev",
    "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
    "actions": ["Admin", "Read", "List", "Tagging", "Write"],
}


class NoS3Server(CommandError):
    """SeaweedFS is not installed, or does not start; the message says which."""


@dataclass(frozen=True, slots=True)
class SeaweedFs:
    """A running server: its process, its S3 port, and the port of its file server."""

    process: subprocess.Popen[bytes]
    port: int
    filer_port: int

    @property
    def url(self) -> str:
        """Its endpoint."""
        return f"http://127.0.0.1:{self.port}"

    def make_bucket(self, name: str) -> None:
        """Make a bucket, of which the S3 part hears a moment later."""
        folder = f"http://127.0.0.1:{self.filer_port}/buckets/{name}/"
        httpx.post(folder, trust_env=False, timeout=START_SECONDS).raise_for_status()


@contextmanager
def running_seaweed(folder: Path, buckets: int) -> Iterator[SeaweedFs]:
    """Run it for as long as the context lasts, and kill it then: SIGTERM would take it 10 s.

    Args:
        folder: where it keeps what it is given; made if it is missing.
        buckets: number of buckets that there can be; each takes a file of its own.

    Raises:
        NoS3Server: it is not installed, or does not start.
    """
    program = Path(sys.executable).with_name("weed")
    if not program.exists():
        raise NoS3Server("SeaweedFS is not installed: `make run NODES=2` does that")
    folder.mkdir(exist_ok=True)
    (folder / "s3.json").write_text(json.dumps({"identities": [_IDENTITY]}))
    ports = {name: _free_port() for name in ("master", "volume", "filer", "s3")}
    command = [str(program), "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    command += ["-filer", "-s3", f"-s3.config={folder / 's3.json'}"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.volumeSizeLimitMB=64"]
    command += [f"-volume.max={buckets}", "-s3.allowDeleteBucketNotEmpty"]
    for part, port in ports.items():
        command += [f"-{part}.port={port}", f"-{part}.port.grpc={_free_port()}"]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1",  # a file for each bucket, rather than seven
    }
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(  # noqa: S603
            command,
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        ) as process,
        guarded(process.pid, folder),
    ):
        try:
            server = SeaweedFs(process, ports["s3"], ports["filer"])
            _wait_until_started(server)
            yield server
        finally:
            process.kill()


def _wait_until_started(server: SeaweedFs) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _answers(server):
        if server.process.poll() is not None or time.monotonic() > deadline:
            raise NoS3Server("SeaweedFS does not start")
        time.sleep(0.02)


def _answers(server: SeaweedFs) -> bool:
    filer = f"http://127.0.0.1:{server.filer_port}/"
    with suppress(httpx.TransportError):
        answers = [httpx.get(url, trust_env=False) for url in (server.url, filer)]
        return [answer.status_code for answer in answers] == [403, 200]
    return False


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
