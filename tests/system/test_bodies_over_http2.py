"""Answers that are known before a body has come: over HTTP/2 every client sees them.

nginx would reset the stream, which curl 7.88 and others take for a failure, whatever it answered.
"""

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path

import pytest

from tests.contract.examples import cas_path, kv_path, new_body, new_cas_id, new_kv_id
from tests.support.nginx import new_certificate
from tests.support.programs import find_program
from tests.support.service import client_of
from tests.support.tuist import HeldTuist

from .site import OTHER_PROJECT, PROJECT, Site, running_site

LIMIT = 1_000_000
"""Of an upload, in bytes; short of what is dropped at most."""

nightly = pytest.mark.nightly

SIZES = [
    *(1, 59_999, 60_000, LIMIT),
    *(pytest.param(size, marks=nightly) for size in (10_000, 65_536, 300_000)),
]


@pytest.fixture(
    scope="module",
    params=[{"debian": 1, "wheel": 2}, pytest.param({"debian": 2, "wheel": 1}, marks=nightly)],
    ids=["1 worker or 2", "2 workers or 1"],
)
def shared(
    which: str,
    shared_tuist: HeldTuist,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[Site]:
    """A site over TLS, with so many workers behind each kind of nginx."""
    certificate, key = new_certificate(tmp_path_factory.mktemp("tls"))
    settings = {"MAX_UPLOAD_BYTES": str(LIMIT), "WORKERS": str(request.param[which])}
    with running_site(
        which,
        shared_tuist,
        settings,
        tls_cert=certificate,
        tls_key=key,
        max_upload_bytes=LIMIT,
    ) as site:
        yield site


@pytest.fixture
def site(shared: Site) -> Iterator[Site]:
    """The same, with a client that speaks HTTP/2."""
    with client_of(shared.nginx.url, headers={}, params={}, http2=True) as client:
        yield replace(shared, client=client, token=shared.new_token(PROJECT))


def curl(site: Site, method: str, path: str, body: Path, *more: str) -> tuple[int, int]:
    """How a request with curl ends, and the status that it has seen."""
    command = [find_program("curl"), "--http2", "--insecure", "--silent", "--show-error"]
    command += ["--request", method, "--data-binary", f"@{body}", "--output", "/dev/null"]
    command += ["--write-out", "%{http_code} %{http_version}", "--max-time", "60", *more]
    account, _, project = PROJECT.partition("/")
    query = f"account_handle={account}&project_handle={project}"
    run = subprocess.run(
        [*command, f"{site.nginx.url}{path}?{query}"], capture_output=True, text=True, check=False
    )
    status, version = run.stdout.split()
    assert version == "2", run.stderr
    return run.returncode, int(status)


def authorized(site: Site) -> tuple[str, str]:
    return "--header", f"Authorization: Bearer {site.token}"


@pytest.mark.parametrize("size", SIZES)
def test_upload_that_need_not_be_stored_is_answered_after_its_body(
    site: Site, tmp_path: Path, size: int
) -> None:
    body = tmp_path / "body"
    body.write_bytes(new_body(size))
    cas_id = site.stored(b"bytes")
    refused = site.new_token(OTHER_PROJECT)
    calls = [
        (204, authorized(site)),
        (204, (*authorized(site), "--header", "Content-Length:")),  # of unknown length
        (401, ()),
        (401, ("--header", "Authorization: Bearer nobody's")),
        (403, ("--header", f"Authorization: Bearer {refused}")),
    ]
    for status, headers in calls:
        assert curl(site, "POST", cas_path(cas_id), body, *headers) == (0, status)
    for token, status in (site.token, 204), ("nobody's", 401), (refused, 403):
        answer = site.ask("POST", cas_path(cas_id), token, content=body.read_bytes())
        assert (answer.status_code, answer.http_version) == (status, "HTTP/2")
        streamed = site.ask("POST", cas_path(cas_id), token, content=iter([body.read_bytes()]))
        assert streamed.status_code == status
    assert site.ask("GET", cas_path(cas_id)).content == b"bytes"
    if size < 60_000:
        lines = site.requests(cas_path(cas_id), "POST")
        stored = [line for line in lines if line["status"] == HTTPStatus.NO_CONTENT]
        assert len(stored) == 1 + 2  # the first one, and those of unknown length


def test_output_of_unknown_length_is_refused_after_all_of_its_body(
    site: Site, tmp_path: Path
) -> None:
    body = tmp_path / "body"
    body.write_bytes(new_body(LIMIT))
    path = f"/api/cache/gradle/{new_cas_id()}"
    for status, headers in (401, ()), (422, authorized(site)):
        unknown = (*headers, "--header", "Content-Length:")
        assert curl(site, "PUT", path, body, *unknown) == (0, status)
    assert [line["bytes_in"] for line in site.requests(path, "PUT")] == [LIMIT, LIMIT]


def test_body_that_is_too_large_is_413(site: Site, tmp_path: Path) -> None:
    """Whoever sends it, and to whichever path; the largest are sent by curl, which is quick."""
    body = tmp_path / "body"
    paths = cas_path(new_cas_id()), "/up", "/nothing", "/metrics", "//_auth_cas"
    for size in LIMIT + 1, 10 * LIMIT:
        body.write_bytes(new_body(size))
        assert curl(site, "POST", cas_path(new_cas_id()), body) == (0, 413)
        streamed = (*authorized(site), "--header", "Content-Length:")
        assert curl(site, "POST", cas_path(new_cas_id()), body, *streamed) == (0, 413)
        for path in paths:
            assert curl(site, "POST", path, body, *authorized(site)) == (0, 413)
    for path in paths:
        answer = site.ask("POST", path, content=new_body(LIMIT + 1))
        assert answer.status_code == 413
        assert answer.json()["message"].startswith("The body is larger than ")
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.headers["Cache-Control"] == "no-store"


def test_other_requests_with_a_body_are_answered_after_it(site: Site) -> None:
    body = new_body(LIMIT)
    kv_id, cas_id = new_kv_id(), site.stored()
    site.put(kv_id, "value")
    for method, path, status in (
        ("PUT", kv_path(kv_id), 200),
        ("GET", kv_path(kv_id), 200),
        ("GET", cas_path(cas_id), 200),
        ("DELETE", cas_path(cas_id), 405),
        ("POST", "/metrics", 404),
        ("POST", "/_auth_cas", 404),
        ("POST", "/nothing", 404),
        ("PUT", "/api/cache/cas", 404),
        ("POST", "/up", 405),
    ):
        assert site.ask(method, path, content=body).status_code == status, (method, path)


@pytest.mark.parametrize("size", [10_000, 300_000])
def test_new_artifact_is_stored_whole(site: Site, size: int) -> None:
    body = new_body(size)
    for content in body, iter([body]):
        cas_id = new_cas_id()
        assert site.ask("POST", cas_path(cas_id), content=content).status_code == 204
        assert site.ask("GET", cas_path(cas_id)).content == body


def test_token_of_16_kib_is_let_in_and_remembered(site: Site) -> None:
    for length in 3_482, 16_384:
        token = new_cas_id().ljust(length, "a")
        site.tuist.tokens[token] = [PROJECT]
        cas_id = site.stored(b"bytes", token=token)
        assert site.ask("GET", cas_path(cas_id), token).content == b"bytes"
        before = len(site.requests("/_auth_cas"))
        for _ in range(5):
            assert site.ask("GET", cas_path(cas_id), token).content == b"bytes"
        assert len(site.requests("/_auth_cas")) == before
        assert site.requests(cas_path(cas_id), "GET") == []


@pytest.mark.parametrize("length", [16_385, pytest.param(25_000, marks=nightly)])
def test_longer_token_is_431(site: Site, length: int) -> None:
    token = new_cas_id().ljust(length, "a")
    for method, path, body in (
        ("GET", cas_path(new_cas_id()), b""),
        ("POST", cas_path(new_cas_id()), b"bytes"),
        ("POST", cas_path(new_cas_id()), new_body(LIMIT)),
        ("PUT", kv_path(new_kv_id()), b""),
        ("PUT", "/api/cache/keyvalue", b"{}"),
    ):
        answer = site.ask(method, path, token, content=body)
        assert (answer.status_code, answer.http_version) == (431, "HTTP/2")
        assert set(answer.json()) == {"message"}


def test_path_that_begins_with_two_slashes_is_served_by_nginx(site: Site) -> None:
    cas_id = site.stored(b"bytes")
    url = f"{site.nginx.url}/{cas_path(cas_id)}"
    for method, content in ("GET", None), ("POST", b"bytes"):
        assert site.ask(method, url, content=content).is_success
    assert site.requests(cas_path(cas_id), "GET") == []
    assert len(site.requests(cas_path(cas_id), "POST")) == 1
