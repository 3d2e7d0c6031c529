"""`cache-actors share`, on a real disk and with a real S3 server."""

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cache_actors.cli import share as module
from cache_actors.cli.main import main
from cache_actors.s3.config import BucketConfig
from cache_actors.s3.installation import ClaimedBucket
from cache_actors.s3.names import object_name
from cache_actors.s3.walk import walk_lock
from tests.s3.pushes import APP, Disk
from tests.support.s3 import FaultProxy, Refuse, S3Bucket, unhurried
from tests.support.waiting import eventually

Share = Callable[..., Result]


@pytest.fixture
def disk(tmp_path: Path, s3_bucket: S3Bucket) -> Disk:
    root = tmp_path / "cas"
    root.mkdir()
    return Disk(root, BucketConfig(s3_bucket.name, endpoint=s3_bucket.server.url).target)


@pytest.fixture
def share(disk: Disk, s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> Share:
    def share(*options: str, endpoint: str | None = None, **more: str) -> Result:
        environment = s3_bucket.settings(endpoint) | {
            "SERVER_URL": "http://tuist.example",
            "CAS_STORAGE_DIR": str(disk.root),
        }
        for name, value in (environment | more).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(module, "ClaimedBucket", partial(ClaimedBucket, connect=unhurried))
        return CliRunner().invoke(main, ["share", *options])

    return share


def test_all_that_is_stored_is_put_once_and_again_if_asked_to(
    share: Share, disk: Disk, s3_bucket: S3Bucket
) -> None:
    keys = [disk.artifact(1), disk.artifact(2), disk.entry("0~a", 1)]
    for options, files in [((), 3), ((), 0), (("--wait",), 0), (("--again", "--wait"), 3)]:
        result = share(*options)
        assert (result.exit_code, result.output) == (0, f"Put into the bucket: {files} files\n")
    assert {object_name("", key) for key in keys} < set(s3_bucket.names())
    assert all(map(disk.is_marked, keys))


def test_another_bucket_makes_all_marks_void(share: Share, disk: Disk) -> None:
    disk.artifact(1)
    share()
    assert "1 files" in share(S3_PREFIX="other").output


def test_what_cannot_be_put_is_left_and_told(
    share: Share, disk: Disk, s3_proxy: FaultProxy
) -> None:
    artifact, entry = disk.artifact(1), disk.entry("0~a", 1, 2)
    s3_proxy.fault = lambda _, path: Refuse(400, "EntityTooLarge") if "cas" in path else None
    result = share(endpoint=s3_proxy.url)
    assert result.exit_code == module.EXIT_LEFT
    assert "0 files; left: 2" in result.output
    assert "EntityTooLarge" in result.stderr
    assert not disk.is_marked(artifact)
    assert not disk.is_marked(entry)


def test_it_waits_for_a_bucket_that_is_down_only_if_asked_to(
    share: Share, disk: Disk, s3_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)
    artifact = disk.artifact(1)
    s3_proxy.fault = lambda *_: Refuse(503, "SlowDown")
    result = share(endpoint=s3_proxy.url)
    assert result.exit_code == 2
    assert "SlowDown" in result.stderr

    def recover() -> None:
        eventually(lambda: len(s3_proxy.requests) > 4)
        s3_proxy.fault = lambda *_: None

    recovering = threading.Thread(target=recover)
    recovering.start()
    result = share("--wait", endpoint=s3_proxy.url)
    recovering.join()
    assert result.exit_code == 0
    assert result.stderr.count("is waited for: 503 SlowDown") == 1
    assert disk.is_marked(artifact) is False  # at another endpoint
    assert share().output == "Put into the bucket: 1 files\n"


@pytest.mark.parametrize("when", ["from the start", "later"])
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Refuse(404, "NoSuchBucket"), "there is no such bucket"),
        (Refuse(403, "AccessDenied"), "access is denied"),
    ],
)
def test_it_does_not_wait_for_what_somebody_has_to_change(
    share: Share,
    disk: Disk,
    s3_proxy: FaultProxy,
    monkeypatch: pytest.MonkeyPatch,
    fault: Refuse,
    said: str,
    when: str,
) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)
    artifacts = [disk.artifact(number) for number in range(20)]
    s3_proxy.fault = lambda _, path: fault if when == "from the start" or "/cas" in path else None
    result = share("--wait", endpoint=s3_proxy.url)
    assert result.exit_code == 2
    assert said in result.stderr.splitlines()[-1]
    assert not any(map(disk.is_marked, artifacts))


def test_it_does_not_wait_for_another_installation(share: Share, disk: Disk) -> None:
    disk.artifact(1)
    assert share(SERVER_URL="http://other.example").exit_code == 0
    result = share("--wait")
    assert (result.exit_code, "http://other.example" in result.stderr) == (2, True)


@pytest.mark.parametrize("options", [[], ["--wait"]])
def test_prefix_that_another_installation_takes_meanwhile_is_left_to_it(
    share: Share, disk: Disk, s3_bucket: S3Bucket, s3_proxy: FaultProxy, options: list[str]
) -> None:
    disk.artifact(1)

    def take(_method: str, path: str) -> None:
        if "/cas" in path:
            s3_bucket.put("1/.installation", b"http://other.example/")

    s3_proxy.fault = take
    result = share(*options, endpoint=s3_proxy.url)
    assert (result.exit_code, "http://other.example" in result.stderr) == (2, True)


def test_it_does_not_wait_for_what_the_bucket_never_takes(
    share: Share, disk: Disk, s3_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)
    disk.artifact(1)
    s3_proxy.fault = lambda _, path: Refuse(400, "EntityTooLarge") if "/cas" in path else None
    result = share("--wait", endpoint=s3_proxy.url)
    assert (result.exit_code, "0 files; left: 1" in result.output) == (module.EXIT_LEFT, True)


def test_another_one_is_running(share: Share, disk: Disk) -> None:
    with walk_lock(disk.root):
        assert share().exit_code == module.EXIT_RUNNING


def test_without_a_bucket_it_cannot_run(share: Share) -> None:
    result = share(S3_BUCKET="")
    assert (result.exit_code, result.stderr) == (2, "S3_BUCKET is not set\n")


def test_bucket_of_another_installation_is_left_alone(
    share: Share, disk: Disk, s3_bucket: S3Bucket
) -> None:
    artifact = disk.artifact(1)
    s3_bucket.put("1/.installation", b"http://first.example/")
    result = share()
    assert result.exit_code == 2
    assert "http://first.example" in result.stderr
    assert s3_bucket.names() == ["1/.installation"]
    assert not disk.is_marked(artifact)


def test_what_another_node_has_cleaned_is_not_put(
    share: Share, disk: Disk, s3_bucket: S3Bucket
) -> None:
    old = disk.artifact(1)
    s3_bucket.put(f"1/.cleans/{APP}/{old.path(disk.root).stat().st_mtime_ns}", b"clean")
    disk.artifact(2)
    assert "Put into the bucket: 1 files" in share().output
    assert object_name("", old) not in s3_bucket.names()
