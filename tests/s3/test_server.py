"""The S3 server that tests use, and the proxy that breaks its answers, through our own client."""

from collections.abc import Callable
from threading import Thread

import pytest

from cache_actors.cli.dev.seaweed import ACCESS_KEY, SECRET_KEY
from cache_actors.s3.bucket import Bucket
from cache_actors.s3.config import BucketConfig
from cache_actors.s3.errors import BucketError, Misconfigured, Rejected, SlowDown, Unreachable
from tests.support.s3 import (
    Cut,
    Fault,
    FaultProxy,
    Garble,
    Hold,
    Metadata,
    Refuse,
    Reset,
    S3Bucket,
    S3Server,
    Silence,
)

BYTES = bytes(range(256)) * 300


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)


@pytest.fixture
def through_proxy(s3_bucket: S3Bucket, s3_proxy: FaultProxy) -> Bucket:
    config = BucketConfig(s3_bucket.name, endpoint=s3_proxy.url, path_style=True)
    return Bucket(config)


def fails_with(fault: Fault) -> Callable[[str, str], Fault]:
    return lambda _method, _path: fault


def test_server_stores_lists_and_deletes_what_our_client_puts(s3_bucket: S3Bucket) -> None:
    ours = Bucket(BucketConfig(s3_bucket.name, endpoint=s3_bucket.server.url, path_style=True))
    ours.put("a/b", BYTES, {"sha256": "ab"})
    found = ours.get("a/b")
    assert found is not None
    assert b"".join(found.chunks()) == BYTES == s3_bucket.get("a/b")
    assert found.metadata["sha256"] == "ab"
    assert [each.name for each in ours.list("a")] == ["a/b"] == s3_bucket.names()
    ours.delete("a/b")
    assert ours.get("a/b") is None


def test_each_bucket_begins_empty(s3_server: S3Server) -> None:
    with s3_server.new_bucket() as one, s3_server.new_bucket() as other:
        one.put("a", b"1")
        assert (one.names(), other.names()) == (["a"], [])


def test_key_that_the_server_does_not_know_is_refused(
    s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    ours = Bucket(BucketConfig(s3_bucket.name, endpoint=s3_bucket.server.url, path_style=True))
    with pytest.raises(Misconfigured):
        ours.get("a")


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Refuse(403, "AccessDenied"), Misconfigured),
        (Refuse(404, "NoSuchBucket"), Misconfigured),
        (Refuse(400, "InvalidArgument"), Rejected),
        (Refuse(500, "InternalError"), Unreachable),
        (Refuse(503, "SlowDown"), SlowDown),
        (Reset(), Unreachable),
        (Cut(1000), Unreachable),
    ],
    ids=["403", "no bucket", "400", "500", "slow down", "reset", "cut"],
)
def test_proxy_breaks_answers(
    s3_bucket: S3Bucket,
    s3_proxy: FaultProxy,
    through_proxy: Bucket,
    fault: Fault,
    error: type[BucketError],
) -> None:
    s3_bucket.put("a", BYTES)
    s3_proxy.fault = fails_with(fault)
    with pytest.raises(error):
        _read(through_proxy)
    s3_proxy.fault = lambda _method, _path: None
    assert _read(through_proxy) == (BYTES, None)
    assert s3_proxy.asked("/a") == 2


def test_proxy_changes_bytes_and_metadata(
    s3_bucket: S3Bucket, s3_proxy: FaultProxy, through_proxy: Bucket
) -> None:
    s3_bucket.put("a", BYTES, stored="12")
    assert _read(through_proxy) == (BYTES, "12")
    s3_proxy.fault = fails_with(Garble())
    data, _ = _read(through_proxy)
    assert len(data) == len(BYTES)
    assert data != BYTES
    s3_proxy.fault = fails_with(Metadata("stored", "another"))
    assert _read(through_proxy) == (BYTES, "another")
    s3_proxy.fault = fails_with(Metadata("stored", None))
    assert _read(through_proxy) == (BYTES, None)


@pytest.mark.parametrize("silent", ["proxy", "server"])
def test_no_answer_ends_with_the_clients_time_out(
    s3_bucket: S3Bucket, s3_proxy: FaultProxy, through_proxy: Bucket, silent: str
) -> None:
    if silent == "proxy":
        s3_proxy.fault = fails_with(Silence())
        with pytest.raises(Unreachable):
            through_proxy.get("a", 0.5)
        return
    with s3_bucket.server.stopped(), pytest.raises(Unreachable):
        through_proxy.get("a", 0.5)
    assert through_proxy.get("a") is None


def test_held_request_is_passed_on_when_it_is_let_go(
    s3_bucket: S3Bucket, s3_proxy: FaultProxy, through_proxy: Bucket
) -> None:
    s3_bucket.put("a", BYTES)
    hold = Hold()
    s3_proxy.fault = lambda _method, path: hold if path.endswith("/a") else None
    found: list[tuple[bytes, str | None]] = []
    reader = Thread(target=lambda: found.append(_read(through_proxy, 60)))
    reader.start()
    assert hold.reached.wait(60)
    assert through_proxy.get("b") is None
    assert not found
    hold.gate.set()
    reader.join(60)
    assert found == [(BYTES, None)]


def _read(bucket: Bucket, seconds: float = 5) -> tuple[bytes, str | None]:
    found = bucket.get("a", seconds)
    assert found is not None
    return b"".join(found.chunks()), found.metadata.get("stored")
