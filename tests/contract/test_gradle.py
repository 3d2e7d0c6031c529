"""Gradle's outputs: stored once, by a key; each status is one that Gradle's client knows."""

import hashlib
import secrets
import socket

import httpx
import pytest

from cache_actors.storage.layout import shard
from tests.support.service import Service

from .examples import (
    bearer,
    behind_nginx,
    both_nginx,
    every_front,
    expect_error,
    gradle_path,
    handles,
    new_body,
)
from .facts import LIMITS, NO_PROJECTS, OTHER_PROJECT, PROJECT
from .raw import AUTHORIZATION, HANDLES, RawConnection

LIMIT = int(LIMITS["MAX_GRADLE_BYTES"])


def new_path() -> str:
    """The path of a key such as Gradle computes."""
    return gradle_path(secrets.token_hex(16))


@every_front
@pytest.mark.parametrize("size", [1, 300_000, LIMIT])
def test_output_is_created_once_and_comes_back(client: httpx.Client, size: int) -> None:
    path, body = new_path(), new_body(size)
    assert client.get(path).status_code == 404
    assert client.put(path, content=body).status_code == 201
    assert client.put(path, content=new_body(size)).status_code == 200
    answer = client.get(path)
    assert (answer.status_code, answer.content) == (200, body)
    assert answer.headers["Content-Type"] == "application/octet-stream"
    part = client.get(path, headers={"Range": "bytes=0-0", "If-Range": answer.headers["ETag"]})
    assert (part.status_code, part.content) == (206, body[:1])
    head = client.head(path)
    assert (head.status_code, head.headers["Content-Length"]) == (200, str(size))


def test_output_lies_where_nginx_reads_it(client: httpx.Client, service: Service) -> None:
    path = new_path()
    client.put(path, content=b"output")
    key = path.rpartition("/")[2]
    folder = service.storage / PROJECT.lower() / "gradle"
    assert (folder / shard(key) / key).read_bytes() == b"output"


def test_output_of_another_project_is_another(client: httpx.Client) -> None:
    path = new_path()
    client.put(path, content=b"output")
    assert client.get(path, params=handles(OTHER_PROJECT)).status_code == 404


def test_output_is_refused_to_those_who_may_not_see_the_project(stranger: httpx.Client) -> None:
    for method in "GET", "PUT":
        for headers, status in ({}, 401), (bearer(NO_PROJECTS), 403):
            answer = stranger.request(
                method, new_path(), content=b"output", params=handles(PROJECT), headers=headers
            )
            expect_error(answer, status)


@both_nginx
def test_output_that_is_too_large_is_413(client: httpx.Client) -> None:
    path = new_path()
    expect_error(client.put(path, content=new_body(LIMIT + 1)), 413)
    assert client.get(path).status_code == 404


@both_nginx
def test_upload_of_unknown_length_is_422(client: httpx.Client, front: str) -> None:
    """nginx finds out the length of a short one that has come whole, and announces it."""
    path = new_path()
    answer = client.put(path, content=iter([b"output"]))
    if answer.status_code == 201:
        assert behind_nginx(front)
    else:
        expect_error(answer, 422, "Content-Length is missing")
        assert client.get(path).status_code == 404


def test_empty_output_is_400(client: httpx.Client) -> None:
    expect_error(client.put(new_path(), content=b""), 400)


@both_nginx
def test_upload_that_is_cut_short_stores_nothing(
    raw: RawConnection, client: httpx.Client, front: str
) -> None:
    path = new_path()
    raw.begin(f"PUT {path}?{HANDLES}", AUTHORIZATION, "Content-Length: 100")
    raw.send(b"less")
    raw.socket.shutdown(socket.SHUT_WR)
    if behind_nginx(front):
        raw.rest()
    else:
        expect_error(raw.response(), 400)
    assert client.get(path).status_code == 404


@pytest.mark.parametrize("key", ["", "..", "a%2Fb", "a%00", "a" * 201, "%C3%A4"], ids=ascii)
def test_key_may_not_be_this(client: httpx.Client, key: str) -> None:
    for method in "GET", "PUT":
        url = httpx.URL(f"{client.base_url}/api/cache/gradle/x").copy_with(
            raw_path=f"{gradle_path(key)}?{HANDLES}".encode()
        )
        answer = client.request(method, url, content=b"output" if method == "PUT" else None)
        assert answer.status_code in {400, 404}
        expect_error(answer, answer.status_code)


def test_declared_digest_is_verified_and_told(client: httpx.Client, front: str) -> None:
    body = new_body()
    digest = hashlib.sha256(body).hexdigest()
    path = new_path()
    expect_error(client.put(path, content=body, headers={"tuist-checksum-sha256": "0" * 64}), 422)
    stored = client.put(path, content=body, headers={"tuist-checksum-sha256": digest})
    assert stored.status_code == 201
    if not behind_nginx(front):
        assert client.get(path).headers["tuist-checksum-sha256"] == digest


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_other_methods_are_405(client: httpx.Client, method: str) -> None:
    expect_error(client.request(method, new_path()), 405)
