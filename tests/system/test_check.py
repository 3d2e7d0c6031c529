"""`cache-actors check`, against real folders, mounts and servers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.service import free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cache_actors.dev.tuist import StandInTuist


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cache_actors", *arguments],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def check(tmp_path: Path, tuist: StandInTuist) -> Callable[..., dict[str, dict[str, Any]]]:
    """Runs the check with good settings but for those given, and returns findings by subject."""
    (tmp_path / "cas").mkdir()

    def check(*arguments: str, **environment: str) -> dict[str, dict[str, Any]]:
        good = {"SERVER_URL": tuist.url, "CAS_STORAGE_DIR": str(tmp_path / "cas")}
        done = run("check", "--json", *arguments, **good | environment)
        findings: list[dict[str, Any]] = json.loads(done.stdout)
        broken = any(finding["verdict"] == "broken" for finding in findings)
        assert done.returncode == (1 if broken else 0)
        for finding in findings:
            assert finding["verdict"] == "ok" or finding["advice"]
        return {finding["subject"]: finding for finding in findings}

    return check


def test_good_surroundings_are_ok(
    check: Callable[..., dict[str, dict[str, Any]]], tmp_path: Path
) -> None:
    findings = check()
    for subject in ("settings", "storage", "extended attributes", "Tuist", "clock"):
        assert findings[subject]["verdict"] == "ok", findings[subject]
    assert list((tmp_path / "cas").rglob("*")) == []


def test_every_bad_setting_is_named() -> None:
    done = run("check", SERVER_URL="nonsense", PORT="none")
    assert done.returncode == 1
    assert "SERVER_URL" in done.stdout
    assert "PORT" in done.stdout


def test_missing_storage_is_broken_and_not_made(
    check: Callable[..., dict[str, dict[str, Any]]], tmp_path: Path
) -> None:
    findings = check(CAS_STORAGE_DIR=str(tmp_path / "missing"))
    assert findings["storage"]["verdict"] == "broken"
    assert "No such file" in findings["storage"]["text"]
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize(
    ("option", "verdict", "words"),
    [
        ("strictatime", "ok", "every read"),
        ("relatime", "warning", "once a day"),
        ("noatime", "warning", "do not move"),
    ],
)
def test_access_times_are_tried(
    check: Callable[..., dict[str, dict[str, Any]]],
    tmp_path: Path,
    option: str,
    verdict: str,
    words: str,
) -> None:
    mount_point = tmp_path / "mounted"
    mount_point.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", option, "none", str(mount_point)],  # noqa: S607
        check=False,
        capture_output=True,
    )
    if done.returncode != 0:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("mounting is not allowed")
    try:
        found = check(CAS_STORAGE_DIR=str(mount_point))["access times"]
    finally:
        subprocess.run(["umount", str(mount_point)], check=True)  # noqa: S607
    assert found["verdict"] == verdict
    assert words in found["text"]


def test_other_device_for_temporary_files_is_told(
    check: Callable[..., dict[str, dict[str, Any]]], tmp_path: Path
) -> None:
    assert check(TMP_DIR="/proc")["TMP_DIR"]["verdict"] == "warning"
    assert check(TMP_DIR=str(tmp_path))["TMP_DIR"]["verdict"] == "ok"
    assert check(TMP_DIR=str(tmp_path / "missing"))["TMP_DIR"]["verdict"] == "broken"


def test_socket_folder_is_looked_at(
    check: Callable[..., dict[str, dict[str, Any]]], tmp_path: Path
) -> None:
    folder = tmp_path / "sockets"
    assert check(SOCKET_DIR=str(folder))["socket folder"]["verdict"] == "broken"
    folder.mkdir()
    folder.chmod(0o700)
    assert check(SOCKET_DIR=str(folder))["socket folder"]["verdict"] == "warning"
    folder.chmod(0o2770)
    assert check(SOCKET_DIR=str(folder))["socket folder"]["verdict"] == "ok"


def test_server_that_is_no_tuist_is_broken(
    check: Callable[..., dict[str, dict[str, Any]]], tuist: StandInTuist
) -> None:
    silent = check(SERVER_URL=f"http://127.0.0.1:{free_port()}")["Tuist"]
    assert silent["verdict"] == "broken"
    tuist.status = 500
    assert check()["Tuist"]["verdict"] == "broken"


def test_nginx_configuration_of_another_version_is_broken(
    check: Callable[..., dict[str, dict[str, Any]]], tmp_path: Path
) -> None:
    config = tmp_path / "nginx.conf"
    made = run("nginx-config", "--storage", str(tmp_path), "--runtime", str(tmp_path))
    config.write_text(made.stdout)
    assert check("--nginx-config", str(config))["nginx"]["verdict"] == "ok"
    config.write_text(made.stdout.replace("etag                       on;", ""))
    found = check("--nginx-config", str(config))["nginx"]
    assert found["verdict"] == "broken"
    assert "etag" in found["text"]
