"""`cache-actors check`, against real folders, mounts and servers: also whether reads count."""

import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cache_actors.access.tuist import ACCESS, INTROSPECTION, PROJECTS
from cache_actors.cli.dev.tuist import StandInTuist
from cache_actors.cli.main import main
from tests.support.mounts import other_device, remount, require_root, tmpfs
from tests.support.nginx import nginx_before, shared_storage
from tests.support.service import Service, free_port, running_service

Finding = dict[str, Any]
Check = Callable[..., dict[str, Finding]]


def run(*arguments: str, stdin: str | None = None, **environment: str) -> Result:
    return CliRunner().invoke(main, arguments, input=stdin, env=environment)


@pytest.fixture
def check(tmp_path: Path, tuist: StandInTuist) -> Check:
    """Runs the check with good settings but for those given, and returns findings by subject."""
    (tmp_path / "cas").mkdir()
    (tmp_path / "cas").chmod(0o2750)

    def check(*arguments: str, stdin: str | None = None, **environment: str) -> dict[str, Finding]:
        good = {"SERVER_URL": tuist.url, "CAS_STORAGE_DIR": str(tmp_path / "cas")}
        done = run("check", "--json", *arguments, stdin=stdin, **good | environment)
        findings: list[Finding] = json.loads(done.stdout)
        broken = any(finding["verdict"] == "broken" for finding in findings)
        assert done.exit_code == (1 if broken else 0)
        for finding in findings:
            assert finding["verdict"] == "ok" or finding["advice"]
        return {finding["subject"]: finding for finding in findings}

    return check


def test_good_surroundings_are_ok(check: Check, tmp_path: Path) -> None:
    findings = check()
    subjects = "settings", "storage", "storage group", "extended attributes", "Tuist", "clock"
    for subject in subjects:
        assert findings[subject]["verdict"] == "ok", findings[subject]
    assert list((tmp_path / "cas").rglob("*")) == []


def test_missing_storage_is_broken_and_not_made(check: Check, tmp_path: Path) -> None:
    findings = check(CAS_STORAGE_DIR=str(tmp_path / "missing"))
    assert findings["storage"]["verdict"] == "broken"
    assert "No such file" in findings["storage"]["text"]
    assert not (tmp_path / "missing").exists()


def test_other_device_for_temporary_files_is_told(check: Check, tmp_path: Path) -> None:
    with other_device(tmp_path) as elsewhere:
        assert check(TMP_DIR=str(elsewhere))["TMP_DIR"]["verdict"] == "warning"
    assert check(TMP_DIR=str(tmp_path))["TMP_DIR"]["verdict"] == "ok"
    assert check(TMP_DIR=str(tmp_path / "missing"))["TMP_DIR"]["verdict"] == "broken"


def test_disk_that_is_full_or_read_only_is_told(check: Check, tmp_path: Path) -> None:
    with tmpfs(tmp_path / "cas", "size=64k") as folder:
        with suppress(OSError), (folder / "large").open("wb", buffering=0) as large:
            while large.write(bytes(4096)):
                pass
        full = check()
        remount(folder, "ro")
        fixed = check()
    assert full["storage"]["verdict"] == fixed["storage"]["verdict"] == "broken"
    assert full["storage"]["advice"].startswith("Make room")
    assert full["free bytes"]["text"] == "0% are free"
    assert "Mount it for writing" in fixed["storage"]["advice"]


def test_password_in_a_url_is_not_printed(check: Check, tuist: StandInTuist) -> None:
    told = check(SERVER_URL=tuist.url.replace("//", "//someone:secret@"))["settings"]
    assert told["verdict"] == "broken"
    assert "secret" not in str(told)
    assert "//...@127.0.0.1" in told["text"]


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (200, b"<html>Welcome</html>", "answers 200 without a list of projects, not 401"),
        (301, b"", "answers 301, a redirect to https://elsewhere.example, not 401"),
    ],
)
def test_web_server_that_is_no_tuist_is_broken(
    check: Check, status: int, body: bytes, text: str
) -> None:
    head = f"HTTP/1.1 {status} X\r\nLocation: https://elsewhere.example/?token=x\r\n"
    response = f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as threads:
        threads.submit(answer_once, listener, response)
        found = check(SERVER_URL=f"http://127.0.0.1:{listener.getsockname()[1]}")["Tuist"]
    assert found["verdict"] == "broken"
    assert found["text"].endswith(text)


def answer_once(listener: socket.socket, response: bytes) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(response)


def test_server_that_is_no_tuist_is_broken(check: Check, tuist: StandInTuist) -> None:
    silent = check(SERVER_URL=f"http://127.0.0.1:{free_port()}")["Tuist"]
    assert silent["verdict"] == "broken"
    tuist.status = 500
    assert check()["Tuist"]["verdict"] == "broken"


CREDENTIAL = {"TUIST_CLIENT_ID": "cache_1", "TUIST_CLIENT_SECRET": "hush"}


def test_tuist_is_asked_as_the_service_will_ask_it(check: Check, tuist: StandInTuist) -> None:
    tuist.credential = ("cache_1", "hush")
    for settings, paths, told in [
        ({}, [ACCESS], ACCESS),
        (CREDENTIAL, [INTROSPECTION], INTROSPECTION),
    ]:
        tuist.questions.clear()
        found = check(**settings)["Tuist"]
        assert found["verdict"] == "ok"
        assert told in found["text"]
        assert [question.path for question in tuist.questions] == paths


def test_older_tuist_is_told(check: Check, tuist: StandInTuist) -> None:
    tuist.paths = frozenset({PROJECTS})
    findings = check(**CREDENTIAL)
    assert findings["Tuist"]["verdict"] == "ok"
    assert PROJECTS in findings["Tuist"]["text"]
    assert findings["introspection"]["verdict"] == "warning"
    tuist.paths = frozenset()
    assert check()["Tuist"]["verdict"] == "broken"


def test_credential_that_tuist_refuses_is_broken_and_not_printed(
    check: Check, tuist: StandInTuist
) -> None:
    tuist.credential = ("cache_1", "another")
    found = check(**CREDENTIAL)["Tuist"]
    assert found["verdict"] == "broken"
    assert "TUIST_CLIENT_ID" in found["advice"]
    assert "hush" not in str(found)


@pytest.mark.parametrize(
    ("settings", "verdict"),
    [({}, "warning"), ({"TUIST_TOKEN_SECRET": "hush"}, "ok"), (CREDENTIAL, "ok")],
    ids=str,
)
def test_whether_cache_tokens_can_be_verified_is_told(
    check: Check, settings: dict[str, str], verdict: str
) -> None:
    assert check(**settings)["cache tokens"]["verdict"] == verdict


def test_nginx_configuration_comes_from_a_file_or_from_standard_input(
    check: Check, tmp_path: Path
) -> None:
    config = tmp_path / "nginx.conf"
    made = run("nginx-config", "--storage", str(tmp_path), "--runtime", str(tmp_path)).stdout
    config.write_text(made)
    assert check("--nginx-config", str(config))["nginx"]["verdict"] == "ok"
    assert check("--nginx-config", "-", stdin=made)["nginx"]["verdict"] == "ok"
    assert check("--nginx-config", "-", stdin="events {}")["nginx"]["verdict"] == "broken"
    missing = check("--nginx-config", "/nowhere/nginx.conf")
    assert (missing["nginx"]["verdict"], missing["storage"]["verdict"]) == ("broken", "ok")


def test_every_bad_setting_is_named_and_nginx_is_looked_at_even_so() -> None:
    done = run("check", "--nginx-config", "/nowhere/nginx.conf", SERVER_URL="nonsense", PORT="none")
    assert done.exit_code == 1
    for told in "SERVER_URL is", "PORT is", "/nowhere/nginx.conf cannot be read":
        assert told in done.stdout


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


def found_by(
    service: Service, *options: str, token: str = TOKEN, **environment: str
) -> dict[str, dict[str, Any]]:
    """What is found, by subject."""
    done = run(
        "check",
        "--json",
        *options,
        SERVER_URL=service.server_url,
        CAS_STORAGE_DIR=str(service.storage),
        CACHE_TOKEN=token,
        **environment,
    )
    return {found["subject"]: found for found in json.loads(done.stdout)}


def reads_found_by(service: Service, url: str, token: str = TOKEN) -> dict[str, Any]:
    """What is found of reads through nginx."""
    return found_by(service, f"--through={url}", PROJECT, token=token)["reads through nginx"]


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
            findings = found_by(service, f"--through={url}", PROJECT)
            direct, by_nginx = findings["access times"], findings["reads through nginx"]
            assert direct["verdict"] == by_nginx["verdict"] == verdict, option
            assert words in direct["text"]
            assert words_of_nginx in by_nginx["text"]
            assert [path for path in storage.rglob("cas/*/*") if path.is_file()] == []
        refused = reads_found_by(service, url, token="other")
        silent = reads_found_by(service, f"http://127.0.0.1:{free_port()}")
    assert refused["verdict"] == silent["verdict"] == "broken"
    assert "401" in refused["text"]
    assert "no answer" in silent["text"]


def test_running_nginx_that_refuses_what_the_service_takes_is_noticed(
    tuist: StandInTuist,
) -> None:
    with shared_storage() as storage, site(storage, storage, tuist) as (service, url):
        taken = found_by(service, f"--through={url}", PROJECT)["uploads through nginx"]
        larger = found_by(service, f"--through={url}", PROJECT, MAX_UPLOAD_BYTES="268435456")
        refused = larger["uploads through nginx"]
    assert (taken["verdict"], refused["verdict"]) == ("ok", "broken")
    assert "268,435,456" in refused["text"]
    assert "client_max_body_size 268435456;" in refused["advice"]


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
                found = reads_found_by(service, url)
        finally:
            subprocess.run(["umount", "--lazy", str(view)], check=True)  # noqa: S607
    assert found["verdict"] == "warning"
    assert "ReadWritePaths" in found["advice"]


def test_what_nginx_may_not_read_is_told_and_not_blamed_on_the_token(tuist: StandInTuist) -> None:
    """To nginx it is a miss, without any error."""
    require_root()
    with shared_storage() as storage:
        service = Service(storage, tuist.url)
        with (
            running_service(service),
            nginx_before(f"127.0.0.1:{service.port}", storage, "wheel") as nginx,
        ):
            assert "count" in reads_found_by(service, nginx.url)["text"]
            os.chown(storage, 0, OTHER_GROUP)
            storage.chmod(0o2750)
            found = reads_found_by(service, nginx.url)
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
            found = reads_found_by(service, nginx.url)
    assert found["verdict"] == "broken"
    assert found["text"] == f"nginx does not find what is stored in {storage}"
    assert f"a member of group {OTHER_GROUP} and restart nginx" in found["advice"]
