"""Modules: uploaded in parts, in any order, and read in one piece; half of one is nothing."""

import hashlib
import unicodedata
from collections.abc import Iterable
from typing import Any
from uuid import uuid4

import httpx
import pytest

from cache_actors.kinds import MAX_PART_BYTES
from tests.support.service import Service

from .examples import (
    all_at_once,
    bearer,
    behind_nginx,
    both_nginx,
    every_front,
    expect_error,
    handles,
    new_body,
)
from .facts import NO_PROJECTS, OTHER_PROJECT, PROJECT

MODULE = "/api/cache/module"
UNKNOWN = "6f2cbb8e-6f5d-4c0c-9a52-1f7a1f6f3a55"
NEW_CLIENT = {"x-tuist-cli-version": "4.202.0"}


def new_module(name: str = "App.xcframework.zip", **more: str) -> dict[str, str]:
    """What names a module that nobody has stored."""
    return {"hash": uuid4().hex, "name": name, **more}


def query(module: dict[str, str], project: str = PROJECT) -> dict[str, str]:
    return handles(project) | module


def path_of(module: dict[str, str]) -> str:
    return f"{MODULE}/{module['hash']}"


def read(client: httpx.Client, module: dict[str, str], **headers: str) -> httpx.Response:
    return client.get(path_of(module), params=query(module), headers=headers)


def start(client: httpx.Client, module: dict[str, str]) -> str:
    """The id of a new upload."""
    answer = client.post(f"{MODULE}/start", params=query(module))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["upload_id"])


def send(
    client: httpx.Client, upload: str, number: Any, body: bytes, **headers: str
) -> httpx.Response:
    """Send a part."""
    where = handles(PROJECT) | {"upload_id": upload, "part_number": str(number)}
    return client.post(f"{MODULE}/part", params=where, content=body, headers=headers)


def complete(
    client: httpx.Client, upload: str, numbers: Iterable[int], **more: Any
) -> httpx.Response:
    """Have the parts become the module."""
    where = handles(PROJECT) | {"upload_id": upload}
    content = {"parts": list(numbers), **more}
    return client.post(f"{MODULE}/complete", params=where, json=content)


def stored(client: httpx.Client, module: dict[str, str], body: bytes = b"bytes") -> None:
    """Store a module of one part."""
    upload = start(client, module)
    assert send(client, upload, 1, body).status_code == 204
    assert complete(client, upload, [1]).status_code == 204


# What works.


@every_front
def test_parts_in_any_order_and_twice_become_the_module(client: httpx.Client) -> None:
    module = new_module()
    parts = [new_body(MAX_PART_BYTES), new_body(MAX_PART_BYTES), new_body(1000)]
    upload = start(client, module)
    assert send(client, upload, 3, new_body(2000)).status_code == 204
    for number in 3, 1, 2, 1:
        assert send(client, upload, number, parts[number - 1]).status_code == 204
    assert read(client, module).status_code == 404
    digest = hashlib.sha256(b"".join(parts)).hexdigest()
    for _ in range(2):
        assert complete(client, upload, [1, 2, 3], checksum_sha256=digest).status_code == 204
    answer = read(client, module)
    assert answer.status_code == 200
    assert answer.content == b"".join(parts)
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Cache-Control"] == "private, max-age=31536000, immutable"
    resumed = {"Range": f"bytes={MAX_PART_BYTES}-", "If-Range": answer.headers["ETag"]}
    rest = read(client, module, **resumed)
    assert (rest.status_code, rest.content) == (206, b"".join(parts[1:]))


@both_nginx
@pytest.mark.parametrize(
    ("headers", "status"), [({"Range": "bytes=99-"}, 416), ({"If-Match": '"other"'}, 412)], ids=str
)
def test_read_that_cannot_be_is_an_error_clients_can_read(
    client: httpx.Client, headers: dict[str, str], status: int
) -> None:
    module = new_module()
    stored(client, module)
    answer = read(client, module, **headers)
    # nginx has added the artifact's own line before it finds out that there is no such range.
    answer.headers["Cache-Control"] = answer.headers.get_list("Cache-Control")[-1]
    expect_error(answer, status)


@pytest.mark.parametrize("sizes", [(5, 300_000, 1), (300_000, MAX_PART_BYTES), (1,)], ids=str)
def test_parts_of_any_size_leave_no_gaps(client: httpx.Client, sizes: tuple[int, ...]) -> None:
    module, parts = new_module(), [new_body(size) for size in sizes]
    upload = start(client, module)
    for number, part in enumerate(parts, 1):
        assert send(client, upload, number, part).status_code == 204
    assert complete(client, upload, range(1, len(parts) + 1)).status_code == 204
    assert read(client, module).content == b"".join(parts)


@every_front
def test_head_says_whether_a_module_is_stored(client: httpx.Client) -> None:
    module = new_module()
    head = client.head(path_of(module), params=query(module))
    assert head.status_code == 404
    stored(client, module)
    head = client.head(path_of(module), params=query(module))
    assert (head.status_code, head.content) == (204, b"")


def test_start_of_what_is_stored_says_so_as_the_client_knows_it(client: httpx.Client) -> None:
    module = new_module()
    stored(client, module)
    old = client.post(f"{MODULE}/start", params=query(module))
    assert (old.status_code, old.json()) == (200, {"upload_id": None})
    new = client.post(f"{MODULE}/start", params=query(module), headers=NEW_CLIENT)
    assert (new.status_code, new.content) == (204, b"")


@both_nginx
@pytest.mark.parametrize("name", ["A pp.zip", "Büro.zip", "名.zip", "a" * 1000, "a%2Fb", "+&=?#"])
def test_name_may_be_this(client: httpx.Client, name: str) -> None:
    module = new_module(name)
    stored(client, module, name.encode())
    assert read(client, module).content == name.encode()
    assert read(client, module | {"name": "other"}).status_code == 404
    assert read(client, module | {"cache_category": "tests"}).status_code == 404
    assert read(client, module | {"cache_category": "builds"}).status_code == 200


def test_both_forms_of_a_name_are_the_same(client: httpx.Client) -> None:
    module = new_module(unicodedata.normalize("NFD", "Büro.zip"))
    stored(client, module)
    composed = module | {"name": unicodedata.normalize("NFC", "Büro.zip")}
    assert read(client, composed).content == b"bytes"


def test_two_uploads_of_one_module_store_the_first(client: httpx.Client) -> None:
    module = new_module()
    first, second = start(client, module), start(client, module)
    for upload, body in (first, b"first"), (second, b"second"):
        assert send(client, upload, 1, body).status_code == 204
    for upload in first, second:
        assert complete(client, upload, [1]).status_code == 204
    assert read(client, module).content == b"first"


def test_complete_twice_at_once_is_the_same_twice(client: httpx.Client) -> None:
    module = new_module()
    upload = start(client, module)
    assert send(client, upload, 1, b"bytes").status_code == 204
    statuses = all_at_once(lambda _: complete(client, upload, [1]).status_code, 4)
    assert statuses == [204] * 4
    assert read(client, module).content == b"bytes"


def test_module_of_another_project_is_another(client: httpx.Client) -> None:
    module = new_module()
    stored(client, module)
    assert client.get(path_of(module), params=query(module, OTHER_PROJECT)).status_code == 404


# What is refused.


@both_nginx
@pytest.mark.parametrize("parameter", ["hash", "name", "cache_category"])
@pytest.mark.parametrize("value", ["", ".", "..", "a/b", "a\\b", "a\0b", "a" * 1001])
def test_name_may_not_be_this(client: httpx.Client, parameter: str, value: str) -> None:
    module = new_module() | {parameter: value}
    expect_error(client.post(f"{MODULE}/start", params=query(module)), 400)
    expect_error(client.get(f"{MODULE}/x", params=query(module)), 400)


@pytest.mark.parametrize("lacking", ["hash", "name"])
def test_module_has_to_be_named_whole_and_once(client: httpx.Client, lacking: str) -> None:
    module = new_module()
    twice = query(module) | {lacking: [module[lacking], "again"]}
    expect_error(client.post(f"{MODULE}/start", params=twice), 400)
    del module[lacking]
    expect_error(client.post(f"{MODULE}/start", params=query(module)), 400)
    bad = f"account_handle=acme&project_handle=app&hash=a&name=%FF&{lacking}x=1"
    expect_error(client.post(f"{MODULE}/start?{bad}", params=None), 400)


@pytest.mark.parametrize("number", ["", "0", "-1", "1.5", "9223372036854775808", "10001", "٣", "a"])
def test_number_of_a_part_may_not_be_this(client: httpx.Client, number: str) -> None:
    expect_error(send(client, start(client, new_module()), number, b"part"), 400)


@both_nginx
@pytest.mark.parametrize("upload", ["", "nonsense", "../..", UNKNOWN])
def test_unknown_upload_is_404(client: httpx.Client, upload: str) -> None:
    expect_error(send(client, upload, 1, b"part"), 404)
    expect_error(complete(client, upload, [1]), 404)


def test_upload_of_another_project_is_unknown(client: httpx.Client) -> None:
    upload = start(client, new_module())
    where = handles(OTHER_PROJECT) | {"upload_id": upload}
    part = client.post(f"{MODULE}/part", params=where | {"part_number": "1"}, content=b"part")
    expect_error(part, 404)
    expect_error(client.post(f"{MODULE}/complete", params=where, json={"parts": [1]}), 404)


@both_nginx
def test_part_that_is_too_large_is_413(client: httpx.Client) -> None:
    upload = start(client, new_module())
    expect_error(send(client, upload, 1, new_body(MAX_PART_BYTES + 1)), 413)
    expect_error(complete(client, upload, [1]), 400)


def test_empty_part_is_400(client: httpx.Client) -> None:
    expect_error(send(client, start(client, new_module()), 1, b""), 400)


@pytest.mark.parametrize("parts", [[], [1], [2], [1, 2, 3], [1, 1, 2], [0, 1, 2], [1, 2, 10**30]])
def test_parts_that_do_not_match_are_400(client: httpx.Client, parts: list[int]) -> None:
    module = new_module()
    upload = start(client, module)
    for number in 1, 2:
        assert send(client, upload, number, b"part").status_code == 204
    expect_error(complete(client, upload, parts), 400)
    assert complete(client, upload, [2, 1]).status_code == 204
    assert read(client, module).content == b"partpart"


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"parts": 1}', b'{"parts": ["1"]}', b'{"parts": [1.5]}', b"\xff"]
)
def test_completion_may_not_be_this(client: httpx.Client, body: bytes) -> None:
    where = handles(PROJECT) | {"upload_id": start(client, new_module())}
    expect_error(client.post(f"{MODULE}/complete", params=where, content=body), 400)


def test_wrong_digest_is_422_and_stores_nothing(client: httpx.Client) -> None:
    module = new_module()
    upload = start(client, module)
    wrong = {"tuist-checksum-sha256": "0" * 64}
    expect_error(send(client, upload, 1, b"part", **wrong), 422)
    expect_error(complete(client, upload, [1]), 400)
    assert send(client, upload, 1, b"part").status_code == 204
    expect_error(complete(client, upload, [1], checksum_sha256="0" * 64), 422)
    expect_error(complete(client, upload, [1], checksum_sha256="none"), 400)
    assert read(client, module).status_code == 404
    digest = hashlib.sha256(b"part").hexdigest()
    assert complete(client, upload, [1], checksum_sha256=digest).status_code == 204


def test_parts_stay_though_the_digest_is_wrong(client: httpx.Client) -> None:
    module = new_module()
    upload = start(client, module)
    for number in 1, 2, 3:
        assert send(client, upload, number, b"%d" % number).status_code == 204
    expect_error(complete(client, upload, [1, 2, 3], checksum_sha256="0" * 64), 422)
    assert send(client, upload, 2, b"two").status_code == 204
    digest = hashlib.sha256(b"1two3").hexdigest()
    assert complete(client, upload, [1, 2, 3], checksum_sha256=digest).status_code == 204
    assert read(client, module).content == b"1two3"


def test_upload_is_completed_again_only_as_it_was(client: httpx.Client) -> None:
    upload = start(client, new_module())
    for number in 1, 2:
        assert send(client, upload, number, b"part").status_code == 204
    for _ in range(2):
        assert complete(client, upload, [1, 2]).status_code == 204
    expect_error(complete(client, upload, [1]), 400)
    expect_error(complete(client, upload, [1, 2], checksum_sha256="0" * 64), 422)
    digest = hashlib.sha256(b"partpart").hexdigest()
    assert complete(client, upload, [2, 1], checksum_sha256=digest).status_code == 204


def test_part_of_what_is_complete_is_404(client: httpx.Client) -> None:
    upload = start(client, new_module())
    assert send(client, upload, 1, b"part").status_code == 204
    assert complete(client, upload, [1]).status_code == 204
    expect_error(send(client, upload, 2, b"part"), 404)


@both_nginx
def test_module_is_refused_to_those_who_may_not_see_the_project(stranger: httpx.Client) -> None:
    module = new_module()
    for method, path in ("GET", path_of(module)), ("POST", f"{MODULE}/start"):
        for headers, status in ({}, 401), (bearer(NO_PROJECTS), 403):
            answer = stranger.request(method, path, params=query(module), headers=headers)
            expect_error(answer, status)


def test_chunked_protocol_is_not_offered(client: httpx.Client) -> None:
    expect_error(client.get("/api/cache/chunks/capabilities"), 404)


# What nginx does.


@both_nginx
def test_bytes_are_sent_by_nginx(client: httpx.Client, front: str, service: Service) -> None:
    module = new_module()
    stored(client, module)
    answer = client.get(path_of(module), params=query(module))
    assert answer.content == b"bytes"
    assert "X-Accel-Redirect" not in answer.headers
    if behind_nginx(front):
        service.wait_for_log(path_of(module))
        (line,) = [each for each in service.logged("request") if each["path"] == path_of(module)]
        assert line["bytes_out"] == 0
