"""Uploads of 25 MiB, one at a time, straight from memory."""

import os
import time
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import BinaryIO

from cache_actors.kinds import Kind
from cache_actors.storage.layout import Key

from .contestants import Contestant
from .failure import BenchmarkFailed
from .names import PROJECT, TOKEN, artifact_id, payload
from .results import Turn
from .summary import latency_of
from .tags import new_tag

MEBIBYTES = 25
TIMEOUT = 60.0


@dataclass(frozen=True)
class LargeUploads:
    """A contestant that is sent large artifacts, each a new one.

    The kernel sends the body from a file in memory, so that the sender takes next to nothing of
    the cores. What has been stored is removed after each turn, as it would fill the disk.

    Attributes:
        case: what it is called.
        contestant: who is asked.
        synced: whether each file is synced once it is answered, for a contestant that does not do
            so itself.
    """

    case: str
    contestant: Contestant
    synced: bool = False

    def turn(self, seconds: float) -> Turn:
        """Send one after the other for a while.

        Raises:
            BenchmarkFailed: one was refused.
        """
        tag, files, took = new_tag(), list[Path](), list[float]()
        host, port = self.contestant.address()
        with (
            os.fdopen(os.memfd_create("body"), "w+b") as body,
            closing(HTTPConnection(host, port, timeout=TIMEOUT)) as connection,
        ):
            body.write(payload(MEBIBYTES << 20))
            body.flush()
            cpu, began, own = self.contestant.cpu_seconds(), time.monotonic(), time.process_time()
            while time.monotonic() - began < seconds:
                before = time.monotonic()
                files.append(self._send(connection, body, artifact_id(tag, len(files))))
                took.append(time.monotonic() - before)
            own, lasted = time.process_time() - own, time.monotonic() - began
            after = self.contestant.cpu_seconds()
        for file in files:
            file.unlink()
        self.contestant.tidy()
        latency = latency_of(took)
        return Turn(
            rate=len(files) / lasted,
            p50_ms=latency.p50_ms,
            p99_ms=latency.p99_ms,
            cpu_us={part: (after[part] - cpu[part]) / len(files) * 1e6 for part in after},
            wrk_busy=own / lasted,
            shares=[],
        )

    def _send(self, connection: HTTPConnection, body: BinaryIO, artifact: str) -> Path:
        """Store an artifact, and return the file that it is in."""
        api = self.contestant.api
        path = api.path.replace("{id}", artifact).replace("{shard}", artifact[2:4])
        connection.putrequest(api.method, path)
        connection.putheader("Authorization", f"Bearer {TOKEN}")
        connection.putheader("X-Request-ID", "large")
        connection.putheader("Content-Type", "application/octet-stream")
        connection.putheader("Content-Length", str(MEBIBYTES << 20))
        connection.endheaders()
        connection.sock.sendfile(body, 0)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status not in (201, 204):
            raise BenchmarkFailed(f"{self.contestant.name}: {answer.status} {content[:200]!r}")
        file = Key(PROJECT, Kind.CAS, artifact).path(self.contestant.storage)
        if self.synced:
            for each in (file, file.parent):
                _sync(each)
        return file


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
