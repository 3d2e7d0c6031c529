"""`cache-actors check --through`: do nginx's reads count? Tried on real mounts and a real nginx."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from cache_actors.dev.tuist import StandInTuist
from tests.support.mounts import require_root, tmpfs
from tests.support.nginx import nginx_before
from tests.support.service import Service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TOKEN = "token"
PROJECT = "--project=acme/app"


@contextmanager
def site(storage: Path, seen_by_nginx: Path) -> Iterator[tuple[Service, str]]:
    """A service and an nginx in front of it, which may see the storage through another mount."""
    with StandInTuist({TOKEN: ["acme/app"]}) as tuist:
        service = Service(storage, tuist.url)
        service.start()
        try:
            with nginx_before(
                f"127.0.0.1:{service.port}", seen_by_nginx, "wheel", user="root root"
            ) as nginx:
                yield service, nginx.url
        finally:
            service.stop()


def check_through(service: Service, url: str, token: str = TOKEN) -> dict[str, Any]:
    """What the check finds of reads through nginx."""
    done = subprocess.run(
        [sys.executable, "-m", "cache_actors", "check", "--json", f"--through={url}", PROJECT],
        env={
            "PATH": os.environ["PATH"],
            "SERVER_URL": service.server_url,
            "CAS_STORAGE_DIR": str(service.storage),
            "CACHE_TOKEN": token,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    findings: list[dict[str, Any]] = json.loads(done.stdout)
    [found] = [each for each in findings if each["subject"] == "reads through nginx"]
    return found


@pytest.mark.parametrize(
    ("option", "verdict", "words"),
    [
        ("strictatime", "ok", "every one counts"),
        ("relatime", "warning", "once a day"),
        ("noatime", "warning", "do not count"),
    ],
)
def test_access_times_are_tried_through_nginx(
    tmp_path: Path, option: str, verdict: str, words: str
) -> None:
    with tmpfs(tmp_path / "cas", option) as storage, site(storage, storage) as (service, url):
        found = check_through(service, url)
        assert found["verdict"] == verdict
        assert words in found["text"]
        assert [path for path in storage.rglob("cas/*/*") if path.is_file()] == []


def test_read_only_view_of_nginx_is_noticed(tmp_path: Path) -> None:
    require_root()
    view = tmp_path / "view"
    view.mkdir()
    with tmpfs(tmp_path / "cas", "strictatime") as storage:
        subprocess.run(["mount", "--bind", str(storage), str(view)], check=True)  # noqa: S607
        try:
            subprocess.run(
                ["mount", "-o", "remount,bind,ro", str(view)],  # noqa: S607
                check=True,
            )
            with site(storage, view) as (service, url):
                found = check_through(service, url)
        finally:
            subprocess.run(["umount", "--lazy", str(view)], check=True)  # noqa: S607
    assert found["verdict"] == "warning"
    assert "ReadWritePaths" in found["advice"]


def test_refused_token_and_silent_nginx_are_told(tmp_path: Path) -> None:
    storage = tmp_path / "cas"
    storage.mkdir()
    with site(storage, storage) as (service, url):
        refused = check_through(service, url, token="other")
        silent = check_through(service, "http://127.0.0.1:9")
    assert refused["verdict"] == silent["verdict"] == "broken"
    assert "401" in refused["text"]
    assert "no answer" in silent["text"]
