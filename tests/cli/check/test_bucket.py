"""What `cache-actors check` says of a bucket: of a real one, and of one with faults."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from cache_actors.cli.check import bucket as module
from cache_actors.cli.check.bucket import check_bucket
from cache_actors.cli.check.result import CheckResult, Verdict
from cache_actors.s3.bucket import Bucket
from cache_actors.s3.installation import ClaimedBucket
from cache_actors.s3.names import SHA256
from cache_actors.settings import Settings, load_settings
from tests.support.s3 import Fault, FaultProxy, Metadata, Refuse, S3Bucket, unhurried

Check = Callable[..., dict[str, CheckResult]]
"""Check the bucket, at an endpoint if not directly; results by their subjects."""


@pytest.fixture
def check(tmp_path: Path, s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> Check:
    def check(endpoint: str | None = None, **more: str) -> dict[str, CheckResult]:
        environment = s3_bucket.settings(endpoint) | {
            "SERVER_URL": "http://tuist.example",
            "CAS_STORAGE_DIR": str(tmp_path),
        }
        for name, value in (environment | more).items():
            monkeypatch.setenv(name, value)
        for kind in Bucket, ClaimedBucket:
            monkeypatch.setattr(module, kind.__name__, partial(kind, connect=unhurried))
        results = list(check_bucket(load_settings()))
        assert len({each.subject for each in results}) == len(results)
        assert all((each.advice is None) == (each.verdict is Verdict.OK) for each in results)
        return {each.subject: each for each in results}

    return check


def broken(results: dict[str, CheckResult]) -> list[str]:
    return [name for name, each in results.items() if each.verdict is Verdict.BROKEN]


def test_without_a_bucket_there_is_nothing_to_check(tmp_path: Path) -> None:
    settings = Settings.model_validate({"server_url": "http://a", "cas_storage_dir": tmp_path})
    assert list(check_bucket(settings)) == []


def test_real_bucket_is_fine_but_for_a_rule_and_has_no_more_in_it(
    check: Check, s3_bucket: S3Bucket
) -> None:
    results = check()
    assert broken(results) == []
    assert results["bucket's lifecycle"].verdict is Verdict.WARNING
    assert "grows for ever" in results["bucket's lifecycle"].text
    assert s3_bucket.names() == ["1/.installation"]
    assert results == check()


def test_another_installation_has_the_prefix(check: Check) -> None:
    check(SERVER_URL="http://first.example")
    results = check()
    assert broken(results) == ["bucket and others"]
    assert "http://first.example" in results["bucket and others"].text
    assert broken(check(S3_PREFIX="another")) == []


@pytest.mark.parametrize(
    ("fault", "methods", "subject", "said"),
    [
        (Refuse(403, "AccessDenied"), {"GET"}, "missing objects", "403"),
        (Refuse(403, "AccessDenied"), {"PUT"}, "bucket", "access is denied"),
        (Refuse(404, "NoSuchBucket"), {"GET", "PUT"}, "bucket", "no such bucket"),
        (Refuse(403, "RequestTimeTooSkewed"), {"GET"}, "bucket", "clock"),
        (Refuse(503, "SlowDown"), {"GET"}, "bucket", "SlowDown"),
        (Metadata(SHA256, None), {"GET"}, "object metadata", "do not come back"),
        (Refuse(204), {"DELETE"}, "bucket and deletes", "still there"),
    ],
)
def test_fault_is_named(
    check: Check, s3_proxy: FaultProxy, fault: Fault, methods: set[str], subject: str, said: str
) -> None:
    s3_proxy.fault = lambda method, _: fault if method in methods else None
    results = check(s3_proxy.url)
    assert broken(results)[0] == subject
    assert said in results[subject].text


def test_storage_without_attributes_is_told(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "has_checksums", lambda _: False)
    assert broken(check()) == ["bucket and attributes"]


@pytest.mark.parametrize(
    ("header", "verdict", "said"),
    [
        (None, Verdict.WARNING, "grows for ever"),
        ("other", Verdict.WARNING, "grows for ever"),
        ('expiry-date="soon", rule-id="a"', Verdict.WARNING, "unknown"),
        ('expiry-date="Fri, 23 Jan 1970 00:00:00 GMT"', Verdict.BROKEN, "after 22 days, and 23"),
        ('expiry-date="Sat, 31 Jan 1970 00:00:00 GMT"', Verdict.OK, "after 30 days"),
    ],
)
def test_rule_has_to_leave_objects_long_enough(
    header: str | None, verdict: Verdict, said: str
) -> None:
    result = module._expiry(header, 0.0, 14.0)
    assert (result.verdict, said in result.text) == (verdict, True), result
