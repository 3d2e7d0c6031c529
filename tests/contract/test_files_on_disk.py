"""What the service leaves on the disk: tests that look behind the contract.

They use the process and the storage folder of the service itself, whatever stands in front of it.
Where files lie, and who may read them, is in `tests/storage`.
"""

import json
from pathlib import Path

import httpx
import pytest

from cache_actors.storage.layout import LOGS, TEMPORARY, TRASH, shard
from tests.support.folders import files_below
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
    every_front,
    expect_entries,
    expect_error,
    expect_no_artifact,
    expect_no_entries,
    expect_stored,
    kv_path,
    new_body,
    stored,
    temporary_bytes,
    upload,
    uploaded,
)
from .facts import NO_PROJECTS, OTHER_TOKEN, PROJECT
from .raw import AUTHORIZATION, HANDLES, RawConnection


def entries_file(storage: Path, kv_id: str, project: str = PROJECT) -> Path:
    """Where key-value entries lie, by the layout that nginx reads too."""
    return storage / project.lower() / "keyvalue" / shard(kv_id) / f"{kv_id}.json"


def stored_below(folder: Path) -> set[Path]:
    """All files below a folder, but for those that are being written, or removed."""
    found = set(files_below(folder))
    return {path for path in found if not {LOGS, TEMPORARY, TRASH}.intersection(path.parts)}


@every_front
def test_artifact_that_was_removed_is_gone_and_can_be_uploaded_again(
    client: httpx.Client, service: Service, front: str
) -> None:
    cas_id = uploaded(client, b"first")
    expect_stored(client, cas_id, b"first")
    artifact_file(service.storage, cas_id).unlink()
    if not behind_nginx(front):
        expect_no_artifact(client, cas_id)
    assert upload(client, cas_id, b"second").status_code == 204
    assert artifact_file(service.storage, cas_id).read_bytes() == b"second"  # at once
    wait_while_nginx_remembers(client, cas_id, b"first")
    expect_stored(client, cas_id, b"second")
    artifact_file(service.storage, cas_id).unlink()
    wait_while_nginx_remembers(client, cas_id, b"second")
    expect_no_artifact(client, cas_id)


def wait_while_nginx_remembers(client: httpx.Client, cas_id: str, old: bytes) -> None:
    """Return once the removed artifact is not read any more, which takes nginx up to 2 s."""
    eventually(lambda: client.get(cas_path(cas_id)).content != old)


@every_front
def test_entries_that_another_process_changes_are_seen(
    client: httpx.Client, service: Service
) -> None:
    kv_id = stored(client, "before")
    expect_entries(client, kv_id, "before")
    file = entries_file(service.storage, kv_id)
    other = file.with_name("other")
    other.write_bytes(b'{"entries":[{"value":"after!"}]}')
    other.rename(file)
    expect_entries(client, kv_id, "after!")
    file.unlink()
    expect_no_entries(client, kv_id)


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
        expect_error(raw.response(), 400)


@every_front
def test_refused_uploads_leave_nothing(
    client: httpx.Client, base_url: str, answering: Service
) -> None:
    before = stored_below(answering.storage)
    refuse_all_kinds_of_uploads(client, base_url)
    eventually(lambda: temporary_bytes(answering) == 0)
    assert len(stored_below(answering.storage) - before) == 1  # the one that was good
    expect_no_artifact(client, "REFUSED")


UPS = {
    "plain": "../{name}",
    "plain, far": "../../../../../../../../{name}",
    "one dot": ".",
    "one dot, encoded": "%2e",
    "dots": "..",
    "dots and a slash": "../",
    "encoded slash": "..%2F{name}",
    "encoded dots": "%2e%2e/{name}",
    "all encoded": "%2e%2e%2f%2e%2e%2f{name}",
    "encoded twice": "%252e%252e%252f{name}",
    "overlong UTF-8": "..%c0%af{name}",
    "backslash": "..%5C{name}",
    "inside": "AAAA%2F..%2F{name}",
    "absolute": "%2Fetc%2Fpasswd",
    "absolute, plain": "/etc/passwd",
    "through the folder of another kind": "..%2F..%2Fcas%2F{shard}%2F{name}",
    "cut with nul": "..%2F..%2Fcas%2F{shard}%2F{name}%00",
}
"""Ways out of a project's folder, or to a file in it by another name."""


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
    before = stored_below(service.storage.parent)
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
    assert stored_below(service.storage.parent) - {service.log} == before - {service.log}
    assert [file.read_bytes() for file in planted] == [secret] * len(planted)
