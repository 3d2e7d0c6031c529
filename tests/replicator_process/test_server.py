"""The replicator's process: whose prefix it is, and what was cleaned, before anything is put."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache_actors.replicator_process import __main__ as module
from cache_actors.replicator_process.__main__ import ReplicatorServer, Reporter
from cache_actors.replicator_process.protocol import ReplicatorConfig
from cache_actors.s3.bucket import Bucket
from cache_actors.s3.cleans import put_marker
from cache_actors.s3.installation import claim_name
from tests.s3.pushes import APP, CONFIG, SERVER, Disk, WatchedBucket
from tests.support.waiting import eventually


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    (tmp_path / "cas").mkdir()
    return Disk(tmp_path / "cas")


@pytest.fixture
def bucket() -> WatchedBucket:
    return WatchedBucket()


@pytest.fixture
def server(
    disk: Disk, bucket: WatchedBucket, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ReplicatorServer]:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    with socket.socket() as channel:
        config = ReplicatorConfig(-1, str(disk.root), CONFIG, SERVER, 2, True)
        server = ReplicatorServer(config, Reporter(channel))
        server._bucket = bucket
        yield server
        server.stop()


def state(server: ReplicatorServer) -> tuple[str, str | None]:
    """What it reports of the bucket."""
    report = server.bucket_report([])
    return report.state, report.reason


def start(server: ReplicatorServer) -> None:
    for work in server.run, server.keep_looking:
        threading.Thread(target=work, daemon=True).start()


def test_what_another_node_has_cleaned_is_never_put(
    server: ReplicatorServer, disk: Disk, bucket: WatchedBucket
) -> None:
    old, young = disk.artifact(1), disk.artifact(2)
    put_marker(bucket, APP, time.time_ns())
    os.utime(young.path(disk.root), (time.time() + 1, time.time() + 1))
    bucket.puts.clear()
    start(server)
    eventually(lambda: bucket.pushed() == [young])
    assert not disk.is_marked(old)
    assert state(server) == ("ok", None)


def test_prefix_that_another_installation_has_got_since_is_told_and_left_alone(
    server: ReplicatorServer, disk: Disk, bucket: WatchedBucket
) -> None:
    start(server)
    eventually(lambda: state(server) == ("ok", None))
    Bucket.put(bucket, claim_name(CONFIG.prefix), b"http://another.example/", {})
    eventually(lambda: state(server)[0] == "misconfigured")
    assert "http://another.example/" in str(state(server)[1])
    bucket.puts.clear()
    disk.artifact(1)
    server._replication.walk()  # type: ignore[union-attr]
    assert bucket.puts == []
    Bucket.delete(bucket, claim_name(CONFIG.prefix))
    eventually(lambda: state(server) == ("ok", None))
