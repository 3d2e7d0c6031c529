"""The fetcher's process, with a real S3 server: what it knows before it pulls, what it follows."""

import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cache_actors.cli.dev.seaweed import ACCESS_KEY, SECRET_KEY
from cache_actors.fetcher_process.__main__ import (
    CLEANS_SECONDS,
    RETRY_SECONDS,
    FetcherServer,
    Reporter,
)
from cache_actors.fetcher_process.protocol import FetcherConfig, PullRequest, TellRequest
from cache_actors.s3.config import BucketConfig
from cache_actors.s3.names import SHA256, STORED
from cache_actors.s3.outcome import Outcome
from cache_actors.storage.files.temporary import TemporaryFolder
from cache_actors.storage.known_cleans import known_clean, note_clean
from cache_actors.storage.layout import TEMPORARY, Key, Project
from cache_actors.storage.trash import Removed
from tests.s3.pushes import APP, Disk
from tests.storage.stores import refusing
from tests.support.s3 import FaultProxy, Hold, Refuse, S3Bucket
from tests.support.waiting import eventually

SERVER = "http://tuist.example/"


class Reports(Reporter):
    """What the process reports, kept."""

    def __init__(self) -> None:
        super().__init__(socket.socket())
        self.outcomes: list[Outcome] = []
        self.failures: list[str | None] = []
        self.gone: list[tuple[Project, int]] = []

    def outcome(self, number: int, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def told(self, number: int, failure: str | None) -> None:
        self.failures.append(failure)

    def followed(self, project: Project, gone: Removed) -> None:
        self.gone.append((project, gone.files))


@pytest.fixture
def reports() -> Iterator[Reports]:
    reports = Reports()
    yield reports
    reports._channel.close()


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    (tmp_path / "cas").mkdir()
    return Disk(tmp_path / "cas")


@pytest.fixture
def server(
    disk: Disk,
    s3_bucket: S3Bucket,
    s3_proxy: FaultProxy,
    reports: Reports,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[FetcherServer]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    config = FetcherConfig(
        channel=-1,
        root=str(disk.root),
        durable=False,
        max_bytes=None,
        bucket=BucketConfig(s3_bucket.name, endpoint=s3_proxy.url, path_style=True),
        server_url=SERVER,
        entry_seconds=1e6,
        max_entry_bytes=1000,
    )
    temporary = TemporaryFolder(disk.root / TEMPORARY)
    yield FetcherServer(config, temporary, reports)
    temporary.remove()


def in_background(work: Callable[[], None]) -> None:
    threading.Thread(target=work, daemon=True).start()


def put(bucket: S3Bucket, disk: Disk, content: bytes) -> Key:
    """Put an artifact into the bucket, as another node has stored it now."""
    key = disk.artifact(1, content)
    record = disk.record(key)
    assert record is not None
    about = {SHA256: record.digest.hex(), STORED: str(time.time_ns())}
    bucket.put(f"1/{APP}/cas/{key.id}", content, **about)
    key.path(disk.root).unlink()
    return key


def test_nothing_is_pulled_before_the_cleans_are_known(
    server: FetcherServer, reports: Reports, disk: Disk, s3_bucket: S3Bucket, s3_proxy: FaultProxy
) -> None:
    key = put(s3_bucket, disk, b"bytes")
    s3_bucket.put(f"1/.cleans/{APP}/{time.time_ns()}", b"clean")
    hold = Hold()
    s3_proxy.fault = lambda _, path: hold if "list-type" in path else None
    in_background(lambda: server.take(TellRequest(0)))
    assert hold.reached.wait(60)
    server.take(PullRequest(1, key.place, 0))
    assert reports.outcomes == [Outcome.UNKNOWN]
    hold.gate.set()
    eventually(lambda: reports.failures == [None])
    server.take(PullRequest(2, key.place, 0))
    eventually(lambda: len(reports.outcomes) == 2)
    assert reports.outcomes[1] is Outcome.CLEANED
    put(s3_bucket, disk, b"newer")
    server.take(PullRequest(3, key.place, 0))
    eventually(lambda: len(reports.outcomes) == 3)
    assert reports.outcomes[2] is Outcome.HERE


def test_disk_that_is_full_is_told_as_that(
    server: FetcherServer, disk: Disk, s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_bucket.put(f"1/.cleans/{APP}/{time.time_ns()}", b"clean")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refusing(errno.ENOSPC))
        assert server.look() == RETRY_SECONDS
        report = server.bucket_report([])
        assert report.state == "unreachable"
        assert report.reason == (
            "it is not used, as the disk of this node fails: No space left on device"
        )
    assert server.look() == CLEANS_SECONDS
    assert server.bucket_report([]).state == "ok"


def test_clean_of_a_life_before_is_followed_though_the_bucket_is_down(
    server: FetcherServer, reports: Reports, disk: Disk, s3_proxy: FaultProxy
) -> None:
    s3_proxy.fault = lambda *_: Refuse(503)
    old = disk.artifact(1)
    note_clean(disk.root, APP, old.path(disk.root).stat().st_mtime_ns)
    young = disk.artifact(2)
    os.utime(young.path(disk.root))
    in_background(server.keep_following)
    eventually(lambda: known_clean(disk.root, APP).is_followed)
    assert not old.path(disk.root).exists()
    assert young.path(disk.root).exists()
    eventually(lambda: reports.gone == [(APP, 1)])


def test_clean_of_another_node_is_followed_as_soon_as_it_is_heard_of(
    server: FetcherServer, reports: Reports, disk: Disk, s3_bucket: S3Bucket
) -> None:
    in_background(server.keep_following)
    old = disk.artifact(1)
    s3_bucket.put(f"1/.cleans/{APP}/{time.time_ns()}", b"clean")
    server.take(TellRequest(0))
    eventually(lambda: reports.gone == [(APP, 1)])
    assert not old.path(disk.root).exists()


def test_prefix_that_turns_out_to_be_anothers_is_not_read_any_more(
    server: FetcherServer, reports: Reports, disk: Disk, s3_bucket: S3Bucket
) -> None:
    key = put(s3_bucket, disk, b"bytes")
    server.take(TellRequest(0))
    eventually(lambda: reports.failures == [None])
    s3_bucket.put("1/.installation", b"http://another.example/")
    note_clean(disk.root, APP, 5)
    server.take(TellRequest(1))
    eventually(lambda: len(reports.failures) == 2)
    assert "http://another.example" in str(reports.failures[1])
    assert s3_bucket.names("1/.cleans") == []
    server.take(PullRequest(2, key.place, 0))
    eventually(lambda: reports.outcomes == [Outcome.UNKNOWN])
