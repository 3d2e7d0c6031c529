"""Artifacts: what is uploaded comes back byte for byte, for good, or is not there at all."""

import hashlib
import socket
from collections.abc import Callable

import httpx
import pytest

from tests.support.service import Service
from tests.support.waiting import eventually

from .examples import (
    FRAMINGS,
    MAX_UPLOAD,
    all_at_once,
    artifact_file,
    cas_path,
    every_front,
    expect_error,
    expect_no_artifact,
    expect_stored,
    new_body,
    new_cas_id,
    temporary_bytes,
    upload,
    uploaded,
)
from .raw import AUTHORIZATION, HANDLES, RawConnection, chunk, chunked

pytestmark = every_front

IMMUTABLE = "private, max-age=31536000, immutable"
CHUNKED = "Transfer-Encoding: chunked"

framings = pytest.mark.parametrize("framing", FRAMINGS)


def upload_head(cas_id: str) -> str:
    """The start of a request that uploads."""
    return f"POST {cas_path(cas_id)}?{HANDLES}"


# Retrieving.


@framings
@pytest.mark.parametrize("size", [1, 10 * 1024, 256 * 1024, 256 * 1024 + 1, 2 * 1024 * 1024])
def test_artifact_comes_back_byte_for_byte(client: httpx.Client, size: int, framing: str) -> None:
    body = new_body(size)
    cas_id = uploaded(client, body, framing=framing)
    expect_stored(client, cas_id, body)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_artifact_has_these_headers(client: httpx.Client, method: str) -> None:
    cas_id = uploaded(client, new_body(1234))
    response = client.request(method, cas_path(cas_id))
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/octet-stream"
    assert response.headers["Content-Length"] == "1234"
    assert response.headers["Cache-Control"] == IMMUTABLE
    assert response.headers["Accept-Ranges"] == "bytes"
    assert "Content-Encoding" not in response.headers
    assert "Transfer-Encoding" not in response.headers


def test_head_has_no_body(raw: RawConnection, client: httpx.Client) -> None:
    target = f"{cas_path(uploaded(client, new_body()))}?{HANDLES}"
    head = raw.ask(f"HEAD {target}", AUTHORIZATION)
    assert head.headers["Content-Length"] == "1000"
    # A body would be taken for the next response on this connection.
    assert raw.ask(f"GET {target}", AUTHORIZATION).headers["ETag"] == head.headers["ETag"]


def test_missing_artifact(client: httpx.Client) -> None:
    expect_error(client.get(cas_path(new_cas_id())), 404, "Artifact does not exist")
    expect_error(client.head(cas_path(new_cas_id())), 404)


# Storing.


@framings
def test_answer_to_an_upload_is_empty(client: httpx.Client, framing: str) -> None:
    response = upload(client, new_cas_id(), new_body(), framing)
    assert response.status_code == 204
    assert response.content == b""
    assert "Content-Length" not in response.headers  # RFC 9110, section 8.6
    assert "Transfer-Encoding" not in response.headers


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "application/json"},
        {"Content-Type": "not a type"},
        {"Content-Encoding": "gzip"},
    ],
    ids=lambda headers: next(iter(headers.values())),
)
def test_body_is_stored_as_it_comes(client: httpx.Client, headers: dict[str, str]) -> None:
    body = b"a=1&b=2" + new_body()
    expect_stored(client, uploaded(client, body, headers=headers), body)


@framings
@pytest.mark.parametrize("size", [1000, 1_000_000])
def test_second_upload_is_accepted_and_changes_nothing(
    client: httpx.Client, answering: Service, framing: str, size: int
) -> None:
    first = new_body()
    cas_id = uploaded(client, first)
    file = artifact_file(answering.storage, cas_id)
    before = file.stat()
    assert upload(client, cas_id, new_body(size), framing).status_code == 204
    expect_stored(client, cas_id, first)
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("size", [10 * 1024, 300 * 1024])
def test_one_of_many_uploads_at_once_wins_whole(client: httpx.Client, size: int) -> None:
    cas_id = new_cas_id()
    bodies = [new_body(size + number) for number in range(50)]
    answers = all_at_once(
        lambda number: upload(client, cas_id, bodies[number], FRAMINGS[number % 2]), len(bodies)
    )
    assert [answer.status_code for answer in answers] == [204] * len(bodies)
    winner = client.get(cas_path(cas_id)).content
    assert winner in bodies
    expect_stored(client, cas_id, winner)


def test_many_artifacts_at_once(client: httpx.Client) -> None:
    bodies = {new_cas_id(): new_body(20_000) for _ in range(50)}
    ids = list(bodies)
    answers = all_at_once(lambda number: upload(client, ids[number], bodies[ids[number]]), 50)
    assert {answer.status_code for answer in answers} == {204}
    answers = all_at_once(lambda number: client.get(cas_path(ids[number])), 50)
    assert [answer.content for answer in answers] == list(bodies.values())


def test_artifact_is_not_there_until_its_upload_is_complete(
    raw: RawConnection, client: httpx.Client, answering: Service
) -> None:
    cas_id, body = new_cas_id(), new_body(1_000_000)
    raw.begin(upload_head(cas_id), AUTHORIZATION, CHUNKED)
    raw.send(chunk(body))
    eventually(lambda: temporary_bytes(answering) > 500_000)
    expect_no_artifact(client, cas_id)
    raw.send(chunk(b""))
    assert raw.response().status_code == 204
    expect_stored(client, cas_id, body)


# Refusing.


@pytest.mark.parametrize(
    ("headers", "body"),
    [(["Content-Length: 0"], b""), ([CHUNKED], chunked()), ([], b"")],
    ids=["content-length", "chunked", "no framing"],
)
def test_empty_body_is_refused(
    raw: RawConnection, client: httpx.Client, headers: list[str], body: bytes
) -> None:
    cas_id = new_cas_id()
    response = raw.ask(upload_head(cas_id), AUTHORIZATION, *headers, body=body)
    expect_error(response, 400)
    expect_no_artifact(client, cas_id)


@framings
def test_body_of_just_the_limit_is_stored(client: httpx.Client, framing: str) -> None:
    body = new_body(MAX_UPLOAD)
    expect_stored(client, uploaded(client, body, framing=framing), body)


@framings
def test_body_one_byte_over_the_limit_is_refused(client: httpx.Client, framing: str) -> None:
    cas_id = new_cas_id()
    expect_error(upload(client, cas_id, new_body(MAX_UPLOAD + 1), framing), 413)
    expect_no_artifact(client, cas_id)


@framings
@pytest.mark.parametrize("how", ["closed", "half closed", "reset"])
def test_upload_that_is_cut_short_stores_nothing(
    raw: RawConnection, client: httpx.Client, answering: Service, framing: str, how: str
) -> None:
    cas_id, body = new_cas_id(), new_body(600_000)
    header = CHUNKED if framing == "chunked" else f"Content-Length: {len(body)}"
    raw.begin(upload_head(cas_id), AUTHORIZATION, header)
    raw.send(chunk(body[:-1]) if framing == "chunked" else body[:-1])
    eventually(lambda: temporary_bytes(answering) > 0)
    if how == "half closed":
        raw.socket.shutdown(socket.SHUT_WR)
        raw.rest()
    else:
        raw.reset() if how == "reset" else raw.socket.close()
    eventually(lambda: temporary_bytes(answering) == 0)
    expect_no_artifact(client, cas_id)
    assert upload(client, cas_id, body).status_code == 204
    expect_stored(client, cas_id, body)


@framings
@pytest.mark.parametrize("case", [str.lower, str.upper])
def test_body_other_than_its_declared_digest_is_refused(
    client: httpx.Client, case: Callable[[str], str], framing: str
) -> None:
    body, cas_id = new_body(), new_cas_id()
    wrong = {"tuist-checksum-sha256": case(hashlib.sha256(body + b"x").hexdigest())}
    right = {"tuist-checksum-sha256": case(hashlib.sha256(body).hexdigest())}
    expect_error(upload(client, cas_id, body, framing, headers=wrong), 422)
    expect_no_artifact(client, cas_id)
    assert upload(client, cas_id, body, headers=right).status_code == 204
    expect_stored(client, cas_id, body)


@pytest.mark.parametrize("digest", ["", "abc", "g" * 64, "0" * 63, "0" * 65])
def test_malformed_digest_is_refused(client: httpx.Client, digest: str) -> None:
    cas_id = new_cas_id()
    answer = upload(client, cas_id, new_body(), headers={"tuist-checksum-sha256": digest})
    expect_error(answer, 400)
    expect_no_artifact(client, cas_id)
