"""`cache-actors clean` with a bucket: other nodes are told first, or nothing is changed."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cache_actors.cli.main import main
from cache_actors.storage.known_cleans import known_clean
from cache_actors.storage.layout import SHARE
from tests.support.s3 import FaultProxy, Refuse, S3Bucket
from tests.support.stored import APP, Stored

Clean = Callable[..., Result]

CLAIM = "1/.installation"
SERVER = "http://tuist.example/"


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    (tmp_path / "cas").mkdir()
    stored = Stored(tmp_path / "cas")
    stored.entry("a", 1)
    stored.artifact(1)
    return stored


@pytest.fixture
def clean(stored: Stored, s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> Clean:
    def clean(endpoint: str | None = None) -> Result:
        environment = s3_bucket.settings(endpoint) | {
            "SERVER_URL": SERVER,
            "CAS_STORAGE_DIR": str(stored.root),
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return CliRunner().invoke(main, ["clean", f"--project={APP}"])

    return clean


def snapshot(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_clean_is_told_to_all_nodes_and_noted_here(
    clean: Clean, stored: Stored, s3_bucket: S3Bucket
) -> None:
    s3_bucket.put(f"1/{APP}/cas/old", b"bytes")
    result = clean()
    assert result.exit_code == 0, result.output
    assert "is gone from the bucket" in result.output
    assert not APP.path(stored.root).exists()
    when = known_clean(stored.root, APP).time
    assert s3_bucket.names() == sorted([f"1/.cleans/{APP}/{when}", CLAIM, f"1/{APP}/cas/old"]), (
        "nothing is deleted by its name"
    )


def test_clean_wants_the_settings_of_a_bucket_that_there_is(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAS_STORAGE_DIR", str(stored.root))
    (stored.root / SHARE).mkdir()
    result = CliRunner().invoke(main, ["clean", f"--project={APP}"])
    assert result.exit_code == 2
    assert "set S3_BUCKET" in result.output
    assert APP.path(stored.root).exists()


def test_bucket_of_another_installation_is_left_alone_and_so_is_the_disk(
    clean: Clean, stored: Stored, s3_bucket: S3Bucket
) -> None:
    s3_bucket.put(CLAIM, b"http://first.example/")
    s3_bucket.put(f"1/{APP}/cas/theirs", b"bytes")
    objects, files = s3_bucket.names(), snapshot(stored.root)
    result = clean()
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert "http://first.example" in line
    assert "Nothing is cleaned here" in line
    assert s3_bucket.names() == objects
    assert snapshot(stored.root) == files


def test_bucket_that_cannot_be_told_leaves_the_disk_as_it_is(
    clean: Clean, stored: Stored, s3_proxy: FaultProxy
) -> None:
    s3_proxy.fault = lambda method, _: Refuse(503) if method == "PUT" else None
    files = snapshot(stored.root)
    result = clean(s3_proxy.url)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert snapshot(stored.root) == files
