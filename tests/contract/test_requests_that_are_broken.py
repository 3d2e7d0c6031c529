"""Requests that no decent client sends: each gets an answer in JSON, and harms nobody."""

import json
from collections.abc import Callable
from contextlib import suppress

import httpx
import pytest

from .examples import (
    MAX_UPLOAD,
    STORE_PATH,
    bearer,
    behind_nginx,
    both_nginx,
    cas_path,
    every_front,
    expect_error,
    expect_no_artifact,
    expect_stored,
    handles,
    is_sane,
    kv_path,
    new_body,
    new_cas_id,
    upload,
    uploaded,
)
from .facts import PROJECT, TOKEN
from .raw import AUTHORIZATION, HANDLES, RawConnection, chunked

CHUNKED = "Transfer-Encoding: chunked"

# Paths and methods.


UNKNOWN_PATHS = """
/ /api /api/cache /api/cache/ /api/cache/cas /api/cache/other/A /API/cache/cas/A /Up /up/ /up/x
/_auth_cas/ /_auth_cas/x /static/x /favicon.ico /robots.txt /.env /%00 /%0A /%C3%A9 /%FF
/index.html?account_handle=Acme&project_handle=App
"""


@both_nginx
@pytest.mark.parametrize("path", UNKNOWN_PATHS.split())
def test_unknown_path_is_unknown_to_every_method(
    client: httpx.Client, front: str, path: str
) -> None:
    status = 400 if path == "/%00" and behind_nginx(front) else 404  # nginx takes no NUL anywhere
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"):
        expect_error(client.request(method, path), status)


ALLOWED = {
    cas_path("A"): {"GET", "HEAD", "POST"},
    kv_path("A"): {"GET", "HEAD", "PUT"},
    STORE_PATH: {"PUT"},
    "/up": {"GET", "HEAD"},
    "/ready": {"GET", "HEAD"},
    "/metrics": {"GET", "HEAD"},
    "/_auth_cas": {"GET", "HEAD"},
}
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "BREW"]


@both_nginx
@pytest.mark.parametrize(
    ("path", "method"),
    [
        (path, method)
        for path, allowed in ALLOWED.items()
        for method in METHODS
        if method not in allowed
    ],
)
def test_other_methods_on_a_known_path(
    raw: RawConnection, front: str, path: str, method: str
) -> None:
    answer = raw.ask(f"{method} {path}?{HANDLES}", AUTHORIZATION, "Content-Length: 0")
    hidden = path in {"/metrics", "/_auth_cas"} and behind_nginx(front) and method != "TRACE"
    expect_error(answer, 404 if hidden else 405)
    if hidden:
        return
    if method == "TRACE" and behind_nginx(front):
        return  # nginx refuses it everywhere, before it knows what the path allows
    assert {name.strip() for name in answer.headers["Allow"].split(",")} == ALLOWED[path]


@every_front
def test_order_of_checks(stranger: httpx.Client) -> None:
    """Path, method, handles and id, authorisation, operation."""
    good, bad = handles(PROJECT), {"account_handle": "a.b", "project_handle": ""}
    unknown = bearer("unknown")
    expect_error(stranger.get("/api/cache", params=bad), 404)
    expect_error(stranger.delete(cas_path("a.b"), params=bad), 405)
    expect_error(stranger.get(cas_path("a.b"), params=good), 400)
    expect_error(stranger.get(cas_path("A"), params=bad), 400)
    expect_error(stranger.post(cas_path("a.b"), params=good, headers=unknown), 400)
    expect_error(stranger.post(cas_path("A"), params=good, headers=unknown), 401)
    expect_error(stranger.post(cas_path("A"), params=good, headers=bearer(TOKEN)), 400)
    expect_error(stranger.put(STORE_PATH, params=bad, content=b"{"), 400)
    expect_error(stranger.put(STORE_PATH, params=good, content=b"{"), 401)


@both_nginx
def test_too_large_without_access_is_refused_for_want_of_access(
    stranger: httpx.Client, front: str
) -> None:
    """nginx refuses what is announced as too large before it asks for a decision."""
    response = upload(stranger, "A", new_body(MAX_UPLOAD + 1), params=handles(PROJECT))
    expect_error(response, 413 if behind_nginx(front) else 401)
    response = upload(stranger, "A", new_body(MAX_UPLOAD + 1), "chunked", params=handles(PROJECT))
    expect_error(response, 401)


# Request ids.


def test_sane_request_id_comes_back(stranger: httpx.Client) -> None:
    for sent in ("a", "build/4711", "~!@#$%^&*()[]{}|;:'\",.<>?`\\", "x" * 200):
        assert stranger.get("/up", headers={"X-Request-ID": sent}).headers["X-Request-ID"] == sent


@pytest.mark.parametrize("sent", ["", "x" * 201, "two words", "tab\there", "é", '{"a": 1}'])
def test_odd_request_id_is_replaced(raw: RawConnection, sent: str) -> None:
    ids = [raw.ask("GET /up", f"X-Request-ID: {sent}").headers["X-Request-ID"] for _ in range(2)]
    assert all(map(is_sane, ids))
    assert len({sent, *ids}) == 3


@every_front
def test_every_response_carries_the_request_id(client: httpx.Client) -> None:
    path = cas_path(uploaded(client, b"abc"))
    responses: dict[int, httpx.Response] = {}
    for method, url, headers in (
        ("GET", path, {}),
        ("POST", path, {}),
        ("GET", path, {"Range": "bytes=0-0"}),
        ("GET", path, {"If-None-Match": "*"}),
        ("GET", cas_path("a.b"), {}),
        ("GET", path, bearer("unknown")),
        ("GET", path, {"If-Match": '"a"'}),
        ("GET", path, {"Range": "bytes=9-"}),
        ("GET", path + "X", {}),
        ("DELETE", path, {}),
        ("HEAD", path, {}),
    ):
        content = b"x" if method == "POST" else None
        response = client.request(
            method, url, headers={"X-Request-ID": "one/two"} | headers, content=content
        )
        assert response.headers.get_list("X-Request-ID") == ["one/two"]
        responses[response.status_code] = response
    assert sorted(responses) == [200, 204, 206, 304, 400, 401, 404, 405, 412, 416]


# Not quite HTTP.

HOST = "Host: localhost"

MALFORMED = {
    "garbage": "GARBAGE\r\n\r\n",
    "only spaces": "   \r\n\r\n",
    "binary": "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "no version": f"GET /up\r\n{HOST}\r\n\r\n",
    "no target": f"GET HTTP/1.1\r\n{HOST}\r\n\r\n",
    "spaces in the target": f"GET /up /up HTTP/1.1\r\n{HOST}\r\n\r\n",
    "bare bytes in the target": f"GET /up?\xe9 HTTP/1.1\r\n{HOST}\r\n\r\n",
    "nul in the target": f"GET /u\0p HTTP/1.1\r\n{HOST}\r\n\r\n",
    "target without a slash": f"GET up HTTP/1.1\r\n{HOST}\r\n\r\n",
    "odd version": f"GET /up HTTP/one\r\n{HOST}\r\n\r\n",
    "no host": "GET /up HTTP/1.1\r\n\r\n",
    "two hosts": f"GET /up HTTP/1.1\r\n{HOST}\r\nHost: other\r\n\r\n",
    "space before the colon": f"GET /up HTTP/1.1\r\n{HOST}\r\nX-A : b\r\n\r\n",
    "space in a name": f"GET /up HTTP/1.1\r\n{HOST}\r\nX A: b\r\n\r\n",
    "no colon": f"GET /up HTTP/1.1\r\n{HOST}\r\nnonsense\r\n\r\n",
    "nameless header": f"GET /up HTTP/1.1\r\n{HOST}\r\n: b\r\n\r\n",
    "nul in a value": f"GET /up HTTP/1.1\r\n{HOST}\r\nX-A: b\0c\r\n\r\n",
    "bare CR in a value": f"GET /up HTTP/1.1\r\n{HOST}\r\nX-A: b\rX-C: d\r\n\r\n",
    "negative length": f"POST /up HTTP/1.1\r\n{HOST}\r\nContent-Length: -1\r\n\r\n",
    "length that is no number": f"POST /up HTTP/1.1\r\n{HOST}\r\nContent-Length: ten\r\n\r\n",
    "length in hexadecimal": f"POST /up HTTP/1.1\r\n{HOST}\r\nContent-Length: 0x1\r\n\r\n",
    "signed length": f"POST /up HTTP/1.1\r\n{HOST}\r\nContent-Length: +1\r\n\r\n",
    "huge length": f"POST /up HTTP/1.1\r\n{HOST}\r\nContent-Length: {'9' * 30}\r\n\r\n",
    "two lengths": f"POST /up HTTP/1.1\r\n{HOST}\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
}


NGINX_TAKES = {"no version", "bare bytes in the target", "no colon"}
"""Of those, what nginx makes a request of."""


@both_nginx
@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_request_is_refused(raw: RawConnection, front: str, name: str) -> None:
    if name in NGINX_TAKES and behind_nginx(front):
        expect_what_nginx_makes_of(raw, name)
        return
    raw.send(MALFORMED[name].encode("latin-1"))
    expect_error(raw.response(), 400)
    assert raw.is_over()


def expect_what_nginx_makes_of(raw: RawConnection, name: str) -> None:
    """Check what becomes of a request that nginx is less strict about than the service."""
    raw.send(MALFORMED[name].encode("latin-1"))
    if name == "no version":  # HTTP/0.9: the answer is its body, and then the end
        assert json.loads(raw.rest())["status"] == "up"
    elif name == "no colon":  # the line is skipped
        assert raw.response().json()["status"] == "up"
    else:  # well formed to nginx, so refused by the service, while nginx's connection goes on
        expect_error(raw.response(), 400)
        assert raw.ask("GET /up").status_code == 200


@both_nginx
def test_http_0_9_opens_nothing(
    connect: Callable[[], RawConnection], client: httpx.Client, front: str
) -> None:
    """A request without a version has no headers, so no token, whatever follows."""
    path = cas_path(uploaded(client, b"stored"))
    for lines in ("", f"\r\n{AUTHORIZATION}\r\n"):
        raw = connect()
        raw.send(f"GET {path}?{HANDLES}\r\n{lines}\r\n".encode())
        if behind_nginx(front):
            assert json.loads(raw.rest()) == {"message": "Missing Authorization header"}
        else:
            expect_error(raw.response(), 400)


@both_nginx
@pytest.mark.parametrize("version", ["1.0", "1.2", "0.9", "2.0", "9.9"])
def test_http_1_0_is_answered_and_other_versions_are_refused(
    raw: RawConnection, front: str, version: str
) -> None:
    raw.send(f"GET /up HTTP/{version}\r\n{HOST}\r\n\r\n".encode())
    answer = raw.response()
    if version == "1.0":
        assert answer.status_code == 200
        assert raw.is_over()
        return
    if version == "1.2" and behind_nginx(front):  # by its major version, as 1.1
        assert answer.json()["status"] == "up"
        assert raw.ask("GET /up").status_code == 200
        return
    expect_error(answer, answer.status_code)
    assert answer.status_code in {400, 505}
    assert raw.is_over()


BOMBS = {
    "one long value": f"X-A: {'a' * 20_000}\r\n",
    "one long name": f"{'X' * 20_000}: a\r\n",
    "many headers": "".join(f"X-{number}: {'a' * 90}\r\n" for number in range(200)),
    "very many empty headers": "".join(f"X{number}:\r\n" for number in range(5_000)),
    "long authorization": f"Authorization: Bearer {'a' * 20_000}\r\n",
    "a megabyte": f"X-A: {'a' * 1_000_000}\r\n",
    "without end": f"X-A: {'a' * 100_000}",
}


@both_nginx
@pytest.mark.parametrize("name", BOMBS)
def test_header_bomb_is_refused(raw: RawConnection, front: str, name: str) -> None:
    with suppress(ConnectionResetError, BrokenPipeError):  # refused before it was all sent
        raw.send(f"GET /up HTTP/1.1\r\n{HOST}\r\n{BOMBS[name]}\r\n".encode())
    expect_error(raw.response(), 431)
    if name == "many headers" and behind_nginx(front):
        # Below nginx's own limit (4 times 8 KiB): the service refuses, nginx's connection goes on.
        assert raw.ask("GET /up").status_code == 200
    else:
        assert raw.is_over()


def test_long_target_is_refused(raw: RawConnection) -> None:
    raw.send(f"GET /up?{'a' * 20_000} HTTP/1.1\r\n{HOST}\r\n\r\n".encode())
    answer = raw.response()
    expect_error(answer, answer.status_code)
    assert answer.status_code in {414, 431}


def test_headers_of_some_kilobytes_are_fine(stranger: httpx.Client) -> None:
    headers = {f"X-{number}": "a" * 1_000 for number in range(7)}
    assert stranger.get("/up", headers=headers).status_code == 200


# Bodies that are not framed as they should be.

BAD_FRAMING = {
    "bad chunk size": ([CHUNKED], b"zz\r\nabc\r\n0\r\n\r\n"),
    "negative chunk size": ([CHUNKED], b"-1\r\nabc\r\n0\r\n\r\n"),
    "huge chunk size": ([CHUNKED], b"f" * 30 + b"\r\nabc\r\n0\r\n\r\n"),
    "chunk longer than its size": ([CHUNKED], b"1\r\nabc\r\n0\r\n\r\n"),
    "bad second chunk": ([CHUNKED], b"3\r\nabc\r\nzz\r\n0\r\n\r\n"),
    "other coding": (["Transfer-Encoding: gzip"], b"abc"),
    "other coding before": (["Transfer-Encoding: gzip, chunked"], chunked(b"abc")),
    "chunked twice": (["Transfer-Encoding: chunked, chunked"], chunked(b"abc")),
    "two codings": ([CHUNKED, "Transfer-Encoding: identity"], chunked(b"abc")),
}


@every_front
@pytest.mark.parametrize(("headers", "body"), BAD_FRAMING.values(), ids=BAD_FRAMING)
def test_badly_framed_upload_stores_nothing(
    raw: RawConnection, client: httpx.Client, headers: list[str], body: bytes
) -> None:
    cas_id = new_cas_id()
    request = f"POST {cas_path(cas_id)}?{HANDLES}"
    raw.begin(request, AUTHORIZATION, "X-Request-ID: one/two", *headers)
    raw.send(body)
    answer = raw.response()
    expect_error(answer, answer.status_code)
    assert answer.status_code in {400, 501}
    if headers == [CHUNKED]:  # by then it is known to be a request
        assert answer.headers["X-Request-ID"] == "one/two"
    assert raw.is_over()
    expect_no_artifact(client, cas_id)


ODD_FRAMING = {
    "upper case": ("Transfer-Encoding: CHUNKED", chunked(b"ab", b"c")),
    "extensions and trailers": (CHUNKED, b"3;name=value\r\nabc\r\n0\r\nX-Trailer: a\r\n\r\n"),
}


@every_front
@pytest.mark.parametrize(("header", "body"), ODD_FRAMING.values(), ids=ODD_FRAMING)
def test_oddly_framed_upload_is_stored(
    raw: RawConnection, client: httpx.Client, header: str, body: bytes
) -> None:
    cas_id = new_cas_id()
    answer = raw.ask(f"POST {cas_path(cas_id)}?{HANDLES}", AUTHORIZATION, header, body=body)
    assert answer.status_code == 204
    expect_stored(client, cas_id, b"abc")


@every_front
@pytest.mark.parametrize("first", ["length", "coding"])
def test_length_and_coding_together_smuggle_nothing(
    raw: RawConnection, client: httpx.Client, first: str
) -> None:
    """RFC 9112, 6.3: refuse it, or take the coding and close the connection."""
    cas_id = new_cas_id()
    smuggled = raw.head(f"POST {cas_path(cas_id)}?{HANDLES}", AUTHORIZATION, "Content-Length: 1")
    body = chunked(b"abc") + smuggled + b"x"
    headers = [f"Content-Length: {len(body)}", CHUNKED]
    raw.begin(
        f"POST {cas_path(new_cas_id())}?{HANDLES}",
        AUTHORIZATION,
        *(headers if first == "length" else reversed(headers)),
    )
    raw.send(body)
    assert raw.response().status_code in {204, 400}
    assert raw.is_over()
    expect_no_artifact(client, cas_id)


@every_front
def test_get_with_a_body_is_answered_and_kept_in_step(
    raw: RawConnection, client: httpx.Client
) -> None:
    target = f"{cas_path(uploaded(client, b'stored'))}?{HANDLES}"
    for body in (b"", b"abc", new_body(200_000)):
        answer = raw.ask(f"GET {target}", AUTHORIZATION, f"Content-Length: {len(body)}", body=body)
        assert answer.content == b"stored"


@every_front
def test_pipelined_requests_are_answered_in_order(raw: RawConnection, client: httpx.Client) -> None:
    bodies = [new_body() for _ in range(5)]
    paths = [cas_path(uploaded(client, body)) for body in bodies]
    raw.send(b"".join(raw.head(f"GET {path}?{HANDLES}", AUTHORIZATION) for path in paths))
    assert [raw.response().content for _ in paths] == bodies


@every_front
def test_pipelined_uploads_are_all_stored(raw: RawConnection, client: httpx.Client) -> None:
    bodies = {new_cas_id(): new_body(100_000) for _ in range(5)}
    for cas_id, body in bodies.items():
        raw.begin(
            f"POST {cas_path(cas_id)}?{HANDLES}", AUTHORIZATION, f"Content-Length: {len(body)}"
        )
        raw.send(body)
    assert [raw.response().status_code for _ in bodies] == [204] * 5
    for cas_id, body in bodies.items():
        expect_stored(client, cas_id, body)


@pytest.mark.parametrize("request_", ["OPTIONS *", "CONNECT localhost:80", "GET *"])
def test_odd_targets(raw: RawConnection, request_: str) -> None:
    answer = raw.ask(request_)
    expect_error(answer, answer.status_code)
    assert 400 <= answer.status_code < 500


@every_front
def test_request_that_comes_byte_by_byte(raw: RawConnection) -> None:
    for byte in raw.head("GET /up"):
        raw.send(bytes([byte]))
    assert raw.response().status_code == 200
