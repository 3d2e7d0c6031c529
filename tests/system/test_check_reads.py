"""`cache-actors check` on real mounts: do reads count, also those of a real nginx?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.support.mounts import remount, require_root, tmpfs
from tests.support.nginx import nginx_before, shared_storage
from tests.support.service import Service, free_port, running_service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cache_actors.dev.tuist import StandInTuist

TOKEN = "token"
OTHER_GROUP = 60_003
PROJECT = "--project=acme/app"


@contextmanager
def site(storage: Path, seen_by_nginx: Path, tuist: StandInTuist) -> Iterator[tuple[Service, str]]:
    """A service and an nginx in front of it, which may see the storage through another mount."""
    with (
        running_service(Service(storage, tuist.url)) as service,
        nginx_before(
            f"127.0.0.1:{service.port}", seen_by_nginx, "wheel", user="root root"
        ) as nginx,
    ):
        yield service, nginx.url


def check(service: Service, *options: str, token: str = TOKEN) -> dict[str, dict[str, Any]]:
    """What is found, by subject."""
    done = subprocess.run(
        [sys.executable, "-m", "cache_actors", "check", "--json", *options],
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
    return {found["subject"]: found for found in json.loads(done.stdout)}


def check_through(service: Service, url: str, token: str = TOKEN) -> dict[str, Any]:
    """What is found of reads through nginx."""
    return check(service, f"--through={url}", PROJECT, token=token)["reads through nginx"]


def test_access_times_are_tried_also_through_nginx(tmp_path: Path, tuist: StandInTuist) -> None:
    with (
        tmpfs(tmp_path / "cas", "strictatime,mode=2750") as storage,
        site(storage, storage, tuist) as (service, url),
    ):
        for option, verdict, words, words_of_nginx in (
            ("strictatime", "ok", "every read", "every one counts"),
            ("relatime", "warning", "once a day", "once a day"),
            ("noatime", "warning", "do not move", "do not count"),
        ):
            remount(storage, option)
            findings = check(service, f"--through={url}", PROJECT)
            direct, by_nginx = findings["access times"], findings["reads through nginx"]
            assert direct["verdict"] == by_nginx["verdict"] == verdict, option
            assert words in direct["text"]
            assert words_of_nginx in by_nginx["text"]
            assert [path for path in storage.rglob("cas/*/*") if path.is_file()] == []


def test_read_only_view_of_nginx_is_noticed(tmp_path: Path, tuist: StandInTuist) -> None:
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
            with site(storage, view, tuist) as (service, url):
                found = check_through(service, url)
        finally:
            subprocess.run(["umount", "--lazy", str(view)], check=True)  # noqa: S607
    assert found["verdict"] == "warning"
    assert "ReadWritePaths" in found["advice"]


def test_refused_token_and_silent_nginx_are_told(tmp_path: Path, tuist: StandInTuist) -> None:
    storage = tmp_path / "cas"
    storage.mkdir()
    with site(storage, storage, tuist) as (service, url):
        refused = check_through(service, url, token="other")
        silent = check_through(service, f"http://127.0.0.1:{free_port()}")
    assert refused["verdict"] == silent["verdict"] == "broken"
    assert "401" in refused["text"]
    assert "no answer" in silent["text"]


def test_what_nginx_may_not_read_is_told_and_not_blamed_on_the_token(tuist: StandInTuist) -> None:
    """To nginx it is a miss, without any error."""
    require_root()
    with shared_storage() as storage:
        service = Service(storage, tuist.url)
        with (
            running_service(service),
            nginx_before(f"127.0.0.1:{service.port}", storage, "wheel") as nginx,
        ):
            assert "count" in check_through(service, nginx.url)["text"]
            os.chown(storage, 0, OTHER_GROUP)
            storage.chmod(0o2750)
            found = check_through(service, nginx.url)
    assert found["verdict"] == "broken"
    assert f"{storage / 'acme'} is not its group's to read" in found["text"]
    assert f"Give it to group {OTHER_GROUP}" in found["advice"]
    assert "token" not in found["advice"].lower()


def test_nginx_whose_user_is_not_in_the_group_is_told(tuist: StandInTuist) -> None:
    require_root()
    with shared_storage() as storage:
        os.chown(storage, 0, OTHER_GROUP)
        storage.chmod(0o2750)
        service = Service(storage, tuist.url)
        with (
            running_service(service),
            nginx_before(f"127.0.0.1:{service.port}", storage, "debian") as nginx,
        ):
            found = check_through(service, nginx.url)
    assert found["verdict"] == "broken"
    assert found["text"] == f"nginx does not find what is stored in {storage}"
    assert f"a member of group {OTHER_GROUP} and restart nginx" in found["advice"]
