"""What the service leaves on the disk and in its log: tests that look behind the contract.

They use the process and the storage folder of the service itself, whatever stands in front of it.
"""

from __future__ import annotations

import json
import socket
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

import httpx
import pytest

from cache_actors.storage.layout import TEMPORARY
from tests.support.service import Service
from tests.support.waiting import eventually

from .examples import (
    MAX_UPLOAD,
    STORE_PATH,
    artifact_file,
    bearer,
    behind_nginx,
    both_nginx,
    cas_path,
    direct_only,
    every_front,
    expect_entries,
    expect_error,
    expect_json_error,
    expect_no_artifact,
    expect_no_entries,
    expect_stored,
    handles,
    kv_path,
    lines_about,
    new_body,
    new_cas_id,
    new_kv_id,
    shard,
    store,
    stored,
    temporary_bytes,
    upload,
    uploaded,
)
from .facts import LIMITS, NO_PROJECTS, OTHER_PROJECT, OTHER_TOKEN, PROJECT, TOKEN
from .raw import AUTHORIZATION, HANDLES, RawConnection
from .test_identifiers import UPS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cache_actors.cli.dev.tuist import StandInTuist


@pytest.fixture
def storage(service: Service) -> Path:
    """The storage folder."""
    return service.storage


def entries_file(storage: Path, kv_id: str, project: str = PROJECT) -> Path:
    """Where key-value entries lie, by the layout that nginx reads too."""
    return storage / project.lower() / "keyvalue" / shard(kv_id) / f"{kv_id}.json"


def files_below(folder: Path) -> set[Path]:
    """All files below a folder, but for those that are being written."""
    found = {path for path in folder.rglob("*") if path.is_file()}
    return {path for path in found if TEMPORARY not in path.parts}


def mode(path: Path) -> int:
    """The permissions of a file or folder."""
    return stat.S_IMODE(path.stat().st_mode)


# Layout.


@pytest.mark.parametrize("cas_id", ["a", "ab", "abc", "abcd", "x" * 200, "0123456789ABCDEF" * 4])
@pytest.mark.parametrize("project", [PROJECT, OTHER_PROJECT])
def test_artifact_is_where_nginx_looks_for_it(
    client: httpx.Client, storage: Path, cas_id: str, project: str
) -> None:
    body = cas_id.encode() + project.encode()
    assert upload(client, cas_id, body, params=handles(project.upper())).status_code == 204
    assert artifact_file(storage, cas_id, project).read_bytes() == body


@every_front
def test_entries_file_is_the_exact_response(client: httpx.Client, storage: Path) -> None:
    kv_id = stored(client, "YQ==", "é", '"')
    file = entries_file(storage, kv_id)
    assert file.read_bytes() == client.get(kv_path(kv_id)).content


def test_nginx_s_group_may_read_and_nobody_else(client: httpx.Client, storage: Path) -> None:
    large = uploaded(client, new_body(1_000_000))
    for file in (
        artifact_file(storage, uploaded(client, b"small")),
        artifact_file(storage, large),
        entries_file(storage, stored(client, "YQ==")),
    ):
        assert mode(file) == 0o640
        for folder in list(file.parents)[:4]:
            assert mode(folder) == 0o2750


# The disk is the truth.


@every_front
def test_artifact_that_was_removed_is_gone_and_can_be_uploaded_again(
    client: httpx.Client, storage: Path, front: str
) -> None:
    cas_id = uploaded(client, b"first")
    expect_stored(client, cas_id, b"first")
    artifact_file(storage, cas_id).unlink()
    if not behind_nginx(front):
        expect_no_artifact(client, cas_id)
    assert upload(client, cas_id, b"second").status_code == 204
    assert artifact_file(storage, cas_id).read_bytes() == b"second"  # at once
    wait_while_nginx_remembers(client, cas_id, b"first")
    expect_stored(client, cas_id, b"second")
    artifact_file(storage, cas_id).unlink()
    wait_while_nginx_remembers(client, cas_id, b"second")
    expect_no_artifact(client, cas_id)


def wait_while_nginx_remembers(client: httpx.Client, cas_id: str, old: bytes) -> None:
    """Return once the removed artifact is not read any more, which takes nginx up to 2 s."""
    eventually(lambda: client.get(cas_path(cas_id)).content != old)


@every_front
def test_entries_that_another_process_changes_are_seen(client: httpx.Client, storage: Path) -> None:
    kv_id = stored(client, "before")
    expect_entries(client, kv_id, "before")
    file = entries_file(storage, kv_id)
    other = file.with_name("other")
    other.write_bytes(b'{"entries":[{"value":"after!"}]}')
    other.rename(file)
    expect_entries(client, kv_id, "after!")
    file.unlink()
    expect_no_entries(client, kv_id)


@every_front
def test_folder_that_was_removed_is_made_again(client: httpx.Client, storage: Path) -> None:
    cas_id, kv_id = uploaded(client, b"first"), stored(client, "first")
    for file in (artifact_file(storage, cas_id), entries_file(storage, kv_id)):
        for neighbour in file.parent.iterdir():
            neighbour.unlink()
        file.parent.rmdir()
    assert upload(client, cas_id, b"second").status_code == 204
    expect_stored(client, cas_id, b"second")
    assert store(client, kv_id, "second").status_code == 204
    expect_entries(client, kv_id, "second")


# Nothing is left behind.


def refuse_all_kinds_of_uploads(client: httpx.Client, base_url: str) -> None:
    """Send uploads that are refused, too large, cut short or broken."""
    path = cas_path("REFUSED")
    for headers in (bearer("unknown"), bearer(OTHER_TOKEN), bearer(NO_PROJECTS)):
        assert upload(client, "REFUSED", new_body(500_000), headers=headers).status_code >= 400
    for framing in ("content-length", "chunked"):
        expect_error(upload(client, "REFUSED", new_body(MAX_UPLOAD + 1), framing), 413)
        expect_error(upload(client, "REFUSED", b"", framing), 400)
    uploaded(client, new_body(1_000_000))
    with RawConnection(base_url) as raw:
        raw.begin(f"POST {path}?{HANDLES}", AUTHORIZATION, "Content-Length: 2000000")
        raw.send(new_body(1_999_999))
    with RawConnection(base_url) as raw:
        raw.begin(f"POST {path}?{HANDLES}", AUTHORIZATION, "Transfer-Encoding: chunked")
        raw.send(b"100000\r\n" + new_body(0x100000) + b"\r\nzz\r\n")
        expect_json_error(raw.response(), 400)


@every_front
def test_refused_uploads_leave_nothing(
    client: httpx.Client, base_url: str, storage: Path, answering: Service
) -> None:
    before = files_below(storage)
    refuse_all_kinds_of_uploads(client, base_url)
    eventually(lambda: temporary_bytes(answering) == 0)
    assert len(files_below(storage) - before) == 1  # the one that was good
    expect_no_artifact(client, "REFUSED")


# No way out.


@both_nginx
@pytest.mark.parametrize("way", UPS.values(), ids=UPS)
def test_no_way_out_of_the_folder_of_a_project(
    base_url: str, client: httpx.Client, service: Service, way: str
) -> None:
    """Whatever lies outside, or there by another name, is not read; nothing is written outside."""
    secret = b"a secret that lies outside"
    name = uploaded(client, secret)
    planted = [service.storage.parent / name, service.storage / "acme" / name]
    for file in planted:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(secret)
    before = files_below(service.storage.parent)
    odd = way.format(name=name, shard=shard(name))
    body = json.dumps({"cas_id": odd, "entries": [{"value": "a"}]}).encode()
    as_handle = f"account_handle={odd}&project_handle=App"
    up_two = f"account_handle=..&project_handle={odd}"
    for method, target in (
        *((method, f"{cas_path(odd)}?{HANDLES}") for method in ("GET", "HEAD", "POST")),
        *((method, f"{kv_path(odd)}?{HANDLES}") for method in ("GET", "PUT")),
        ("PUT", f"{STORE_PATH}?{HANDLES}"),
        *(
            (method, f"{path}?{query}")
            for method, path in (
                ("GET", cas_path(name)),
                ("POST", cas_path(name)),
                ("PUT", STORE_PATH),
            )
            for query in (as_handle, up_two)
        ),
    ):
        with RawConnection(base_url) as raw:
            length = f"Content-Length: {len(body)}"
            answer = raw.ask(f"{method} {target}", AUTHORIZATION, length, body=body)
            assert answer.status_code in {400, 404, 405}
            expect_error(answer, answer.status_code)
    assert files_below(service.storage.parent) - {service.log} == before - {service.log}
    assert [file.read_bytes() for file in planted] == [secret] * len(planted)


# The log.


@direct_only
def test_each_request_is_one_line_in_the_log(client: httpx.Client, service: Service) -> None:
    """Trap 13: there were more lines than requests. Cured: the service writes its own.

    What nginx answers by itself is in nginx's log.
    """
    request_id = new_cas_id()
    path = cas_path(new_cas_id())
    for method, target in (("POST", path), ("GET", path), ("GET", "/none"), ("DELETE", path)):
        content = b"abc" if method == "POST" else None
        client.request(method, target, headers={"X-Request-ID": request_id}, content=content)
    lines = lines_about(service, request_id, 4)
    assert [(line["method"], line["status"]) for line in lines] == [
        ("POST", 204),
        ("GET", 200),
        ("GET", 404),
        ("DELETE", 405),
    ]
    assert {line["request_id"] for line in lines} == {request_id}


@every_front
def test_client_that_leaves_is_one_quiet_line(raw: RawConnection, answering: Service) -> None:
    """Trap 16: it was an error with a traceback."""
    request_id = new_cas_id()
    request = f"POST {cas_path(new_cas_id())}?{HANDLES}"
    raw.begin(request, AUTHORIZATION, f"X-Request-ID: {request_id}", "Content-Length: 2000000")
    raw.send(new_body(1_000_000))
    eventually(lambda: temporary_bytes(answering) > 0)
    raw.socket.close()
    (line,) = lines_about(answering, request_id, 1)
    assert line["level"] == "info"


@every_front
def test_log_is_json_and_tokens_are_neither_in_it_nor_on_the_disk(
    client: httpx.Client,
    answering: Service,
    changeable_tuist: StandInTuist,
    new_token: Callable[..., str],
) -> None:
    tokens = [TOKEN, OTHER_TOKEN, NO_PROJECTS, new_token(PROJECT), new_token(), "unknown-secret"]
    for token in tokens:
        cas_id = new_cas_id()
        client.post(cas_path(cas_id), content=b"abc", headers=bearer(token))
        client.get(cas_path(cas_id), headers=bearer(token))
        client.get(cas_path("a.b"), headers=bearer(token))
    changeable_tuist.status = 500
    tokens.append(new_token(PROJECT))
    last = new_cas_id()
    client.get(cas_path("A"), headers=bearer(tokens[-1]) | {"X-Request-ID": last})
    lines_about(answering, last, 1)
    texts = [answering.log.read_bytes(), *(f.read_bytes() for f in files_below(answering.storage))]
    assert all(isinstance(json.loads(line), dict) for line in texts[0].splitlines())
    for token in tokens:
        assert not any(token.encode() in text for text in texts)


# Trap 14: a Unix socket.


def somebody_listens(path: Path) -> bool:
    """Whether connections to the Unix socket at `path` are accepted."""
    with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
        probe.connect(str(path))
        return True
    return False


def test_unix_socket_is_open_to_its_group_only(tuist: StandInTuist, tmp_path: Path) -> None:
    """Trap 14: it got the umask's mode, and has no client address. Cured."""
    path = tmp_path / "cache.sock"
    service = Service(tmp_path / "cas", tuist.url, LIMITS | {"SOCKET_PATH": str(path)})
    service.storage.mkdir()
    service.start(wait=False)
    try:
        eventually(lambda: somebody_listens(path))
        assert mode(path) == 0o770
        transport = httpx.HTTPTransport(uds=str(path))
        with httpx.Client(
            transport=transport,
            base_url="http://localhost",
            headers=bearer(TOKEN),
            params=handles(PROJECT),
        ) as client:
            expect_stored(client, uploaded(client, b"abc"), b"abc")
            kv_id = new_kv_id()
            assert store(client, kv_id, "YQ==").status_code == 204
            expect_entries(client, kv_id, "YQ==")
    finally:
        assert service.stop() == 0
