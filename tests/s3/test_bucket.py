"""The bucket over an object store in memory, and what is made of the library's errors."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from obstore.store import MemoryStore

from cache_actors.s3 import bucket as module
from cache_actors.s3.breaker import MAX_FAILURES
from cache_actors.s3.bucket import LARGE_SECONDS, SMALL_SECONDS, Bucket, seconds_for
from cache_actors.s3.config import BucketConfig
from cache_actors.s3.errors import (
    BreakerOpen,
    BucketError,
    Misconfigured,
    Rejected,
    SlowDown,
    Unreachable,
    error_of,
)
from tests.support.waiting import eventually

CONFIG = BucketConfig("builds")


@pytest.fixture
def counted() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def bucket(counted: list[tuple[str, str]]) -> Bucket:
    store = MemoryStore()
    return Bucket(
        CONFIG,
        count=lambda operation, outcome, _: counted.append((operation, outcome)),
        connect=lambda *_: store,
    )


def test_object_comes_back_as_it_was_put(bucket: Bucket) -> None:
    data = bytes(range(256)) * 10_000
    bucket.put("a/b", data, {"sha256": "ab", "stored": "12"})
    found = bucket.get("a/b", seconds_for(len(data)))
    assert found is not None
    assert {"sha256": "ab", "stored": "12"}.items() <= found.metadata.items()
    assert found.size == len(data)
    assert b"".join(found.chunks()) == data


def test_second_put_replaces_the_first(bucket: Bucket) -> None:
    bucket.put("a", b"1", {})
    bucket.put("a", memoryview(b"22"), {})
    found = bucket.get("a")
    assert found is not None
    assert b"".join(found.chunks()) == b"22"


def test_what_is_deleted_or_was_never_there_is_missing(
    bucket: Bucket, counted: list[tuple[str, str]]
) -> None:
    bucket.put("a", b"1", {})
    bucket.delete("a")
    bucket.delete("a")
    assert bucket.get("a") is None
    assert counted[-1] == ("get", "missing")
    assert counted[0] == ("put", "ok")


def test_list_has_what_is_in_a_folder_in_order(bucket: Bucket) -> None:
    for name in ("x/b", "x/a", "x/c/d", "y/a", "xx/a"):
        bucket.put(name, b"12", {})
    found = list(bucket.list("x"))
    assert [(each.name, each.size) for each in found] == [("x/a", 2), ("x/b", 2), ("x/c/d", 2)]


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("status code: 503 Busy: <Code>SlowDown</Code><Message>Less</Message>", SlowDown, "Less"),
        ("status code: 429 Too Many", SlowDown, "429"),
        ("status code: 500 x: <Code>InternalError</Code>", Unreachable, "500 InternalError"),
        ("status code: 403 x: <Code>AccessDenied</Code>", Misconfigured, "access is denied"),
        ("status code: 401 x", Misconfigured, "access is denied"),
        ("status code: 403 x: <Code>RequestTimeTooSkewed</Code>", Misconfigured, "clock"),
        ("status code: 404 x: <Code>NoSuchBucket</Code>", Misconfigured, "no such bucket"),
        ("status code: 400 x: <Code>AuthorizationHeaderMalformed</Code>", Misconfigured, "region"),
        ("Received redirect without LOCATION, incorrectly configured region", Misconfigured, "reg"),
        ("Error performing PUT http://169.254.169.254/latest/api/token", Misconfigured, "credent"),
        ("HTTP error: error sending request ... UnknownIssuer", Misconfigured, "certificate"),
        ("status code: 400 x: <Code>EntityTooLarge</Code>", Rejected, "400 EntityTooLarge"),
        ("status code: 400 x: <Code>RequestTimeout</Code>", Unreachable, "RequestTimeout"),
        ("HTTP error: error sending request ... TimedOut", Unreachable, "no answer in time"),
        ("HTTP error: error sending request ... ConnectError", Unreachable, "no connection"),
        ("HTTP error: request or response body error", Unreachable, "broke off"),
        (
            "Error performing GET http://s3/a/credentials/UnknownIssuer: TimedOut",
            Unreachable,
            "no a",
        ),
        ("status code: 500 x: <Key>acme/credentials</Key>", Unreachable, "500"),
        (
            "Error performing PUT https://s3/b/cas/1 in 1s: error loading credentials",
            Misconfigured,
            "",
        ),
    ],
)
def test_errors_are_told_apart(text: str, kind: type[BucketError], said: str) -> None:
    error = error_of(text)
    assert type(error) is kind
    assert said in str(error)
    assert "\n" not in str(error)


def failing(text: str) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise RuntimeError(text)

    return fail


def test_breaker_refuses_requests_after_failures_and_keeps_the_reason(
    bucket: Bucket, counted: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("obstore.put", failing("status code: 403 x: <Code>AccessDenied</Code>"))
    for _ in range(MAX_FAILURES):
        with pytest.raises(Misconfigured):
            bucket.put("a", b"1", {})
    with pytest.raises(BreakerOpen) as refused:
        bucket.get("a")
    assert isinstance(refused.value.cause, Misconfigured)
    assert counted == [("put", "misconfigured")] * MAX_FAILURES


def test_object_that_is_rejected_says_nothing_of_the_bucket(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("obstore.put", failing("status code: 400 x: <Code>EntityTooLarge</Code>"))
    for _ in range(2 * MAX_FAILURES):
        with pytest.raises(Rejected):
            bucket.put("a", b"1", {})


def test_request_that_does_not_end_is_told(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.put("a", b"1", {})
    answered, sent = threading.Event(), bucket.get("a")

    def hang(*_: object, **__: object) -> None:
        answered.wait(60)

    monkeypatch.setattr("obstore.put", hang)
    assert sent is not None
    for request in (lambda: bucket.put("a", b"1", {}), lambda: list(sent.chunks())):
        monkeypatch.setattr(module, "STUCK_SECONDS", -SMALL_SECONDS)
        monkeypatch.setattr(sent, "_result", Hanging(answered))
        answered.clear()
        thread = threading.Thread(target=request)
        thread.start()
        eventually(bucket.is_stuck)
        answered.set()
        thread.join()
        assert not bucket.is_stuck()
    monkeypatch.undo()
    monkeypatch.setattr("obstore.put", lambda *_, **__: found.append(bucket.is_stuck()))
    found: list[bool] = []
    bucket.put("a", b"1", {})
    assert found == [False]


class Hanging:
    """An answer of which nothing comes until it may."""

    def __init__(self, may: threading.Event) -> None:
        self._may = may

    def stream(self, **_: object) -> Iterator[bytes]:
        self._may.wait(60)
        yield b"1"


def test_missing_bucket_is_no_missing_object(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise FileNotFoundError("status code: 404 Not Found: <Code>NoSuchBucket</Code>")

    monkeypatch.setattr("obstore.get", fail)
    with pytest.raises(Misconfigured):
        bucket.get("a")


def test_larger_requests_may_take_longer_and_of_few_different_times() -> None:
    assert seconds_for(0) == seconds_for(1 << 20) == SMALL_SECONDS
    assert seconds_for(2 << 20) == seconds_for(32 << 20) == LARGE_SECONDS
    assert seconds_for(1 << 30) == 32 * LARGE_SECONDS
    assert len({seconds_for(size) for size in range(0, 5 << 30, 1 << 20)}) == 10


def test_target_tells_buckets_endpoints_and_prefixes_apart() -> None:
    others = [
        BucketConfig("other"),
        BucketConfig("builds", endpoint="http://s3.example"),
        BucketConfig("builds", prefix="a"),
    ]
    assert len({each.target for each in [CONFIG, *others]}) == 4
    assert BucketConfig("builds", region="eu-1", ca_file="/x").target == CONFIG.target
