"""What today's tokens may do, at nginx and at the service itself: actions, ends, plans, prefixes.

What is read out of tokens and answers is in `tests/access`, how long it holds in
`tests/actors/test_auth_cache.py`, and what every call answers in `tests/contract`.
"""

import re
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from cache_actors.access.grants import UNPAID
from tests.access.tokens import SECRET, cache_token, signed
from tests.contract.examples import (
    bearer,
    cache_calls,
    cas_path,
    expect_error,
    expect_error_without_body,
    handles,
    kv_path,
    new_cas_id,
    new_kv_id,
)
from tests.support.service import Service, client_of, running_service
from tests.support.tuist import HeldTuist
from tests.support.waiting import eventually

from .site import PROJECT, Site, running_site

FORBIDDEN = "You don't have access to this project"
PREFIX = "/cache"

numbers = count()


@pytest.fixture(scope="module")
def site(which: str, shared_tuist: HeldTuist) -> Iterator[Site]:
    """A site that knows Tuist's secret, and whose clients use a prefix."""
    settings = {"TUIST_TOKEN_SECRET": SECRET, "PATH_PREFIX": PREFIX}
    with running_site(which, shared_tuist, settings, path_prefix=PREFIX) as site:
        yield site
        log = site.service.log.read_text()
        assert SECRET not in log
        assert re.search(r"eyJ[\w-]+\.", log) is None  # as JWTs begin, and no random id


def new_cache_token(read: tuple[str, ...] = (), write: tuple[str, ...] = (), **claims: Any) -> str:
    """A cache token that nobody has shown before."""
    return cache_token(read, write, jti=next(numbers), **claims)


# --- Reading and writing --------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["read first", "write first"])
def test_token_that_may_only_read_reads_and_does_not_write(site: Site, order: str) -> None:
    """Also under decisions that nginx remembers: what exists is no answer to an upload."""
    cas_id, kv_id = site.stored(), new_kv_id()
    assert site.put(kv_id, "value").status_code == 204
    token = new_cache_token(read=("Acme/App",))

    def read() -> None:
        assert site.ask("GET", cas_path(cas_id), token).content == b"bytes"
        assert site.ask("HEAD", cas_path(cas_id), token).status_code == 200
        for method in ("GET", "PUT"):
            assert site.ask(method, kv_path(kv_id), token).status_code == 200

    def write() -> None:
        for path in (cas_path(cas_id), cas_path(new_cas_id())):
            expect_error(site.ask("POST", path, token, content=b"bytes"), 403, FORBIDDEN)
        expect_error(site.put(kv_id, "other", token=token), 403, FORBIDDEN)

    for step in ([read, write] if order == "read first" else [write, read]) * 2:
        step()
    remembered = len(site.requests("/_auth_cas"))
    read()
    assert len(site.requests("/_auth_cas")) == remembered
    assert site.questions(token) == 0


@pytest.mark.parametrize("order", ["read first", "write first"])
def test_token_that_may_write_reads_too(site: Site, order: str) -> None:
    cas_id, token = site.stored(), new_cache_token(write=(PROJECT,))

    def read() -> None:
        assert site.ask("GET", cas_path(cas_id), token).content == b"bytes"

    def write() -> None:
        site.upload(cas_id, b"bytes", token=token)
        site.upload(new_cas_id(), b"bytes", token=token)

    for step in ([read, write] if order == "read first" else [write, read]) * 2:
        step()
    assert site.questions(token) == 0


def test_call_is_judged_by_what_it_asks_for(site: Site) -> None:
    """By the service itself, as by nginx."""
    reader = new_cache_token(read=(PROJECT,))
    for client in (site.direct, site.client):
        for call in cache_calls():
            answer = call.make(client, headers=bearer(reader), params=handles(PROJECT))
            reads = call.method in {"GET", "HEAD"} or call.name == "put-to-retrieve"
            assert answer.status_code == (404 if reads else 403), call.name
    assert site.questions(reader) == 0


def test_grants_of_another_project_or_of_its_account_are_none(site: Site) -> None:
    accounts = {"account": {"read": ["acme"], "write": ["acme"]}}
    for token in (
        new_cache_token(write=("acme/other", "acme", "acme/app2")),
        new_cache_token(cache_grants=accounts),
        new_cache_token(cache_grants={}, projects=[PROJECT]),
    ):
        for client in (site.direct, site.client):
            for call in cache_calls():
                answer = call.make(client, headers=bearer(token), params=handles(PROJECT))
                assert answer.status_code == 403, call.name
        assert site.questions(token) == 0


def test_project_that_a_token_lists_is_open_and_others_are_asked_about(site: Site) -> None:
    token = signed({"projects": ["ACME/App"], "jti": next(numbers)})
    site.stored(token=token)
    assert site.questions(token) == 0
    site.tuist.tokens[token] = ["acme/other"]
    site.upload(new_cas_id(), b"bytes", token=token, project="acme/other")
    assert site.questions(token) == 1


def test_token_does_not_outlive_its_end_in_any_memory(site: Site) -> None:
    cas_id = site.stored()
    token = new_cache_token(read=(PROJECT,), exp=int(time.time()) + 3)

    def is_over() -> bool:
        return site.ask("GET", cas_path(cas_id), token).status_code == 401

    eventually(is_over)
    for client in (site.client, site.direct):
        answer = client.get(cas_path(cas_id), headers=bearer(token), params=handles(PROJECT))
        expect_error(answer, 401, "Unauthorized")
    assert site.questions(token) >= 1


def test_question_without_an_action_is_about_both(site: Site) -> None:
    """As an nginx that knows no actions asks, and uses the answer for all."""
    for grants, status in ({"read": (PROJECT,)}, 403), ({"write": (PROJECT,)}, 204):
        header = bearer(new_cache_token(**grants))
        answer = site.direct.get("/_auth_cas", headers=header, params=handles(PROJECT))
        assert answer.status_code == status
    answer = site.direct.get("/_auth_cas", params=handles(PROJECT) | {"action": "delete"})
    expect_error(answer, 400)


# --- What cannot be verified ----------------------------------------------------------------------


def test_cache_tokens_that_cannot_be_verified_are_told_once_and_counted(site: Site) -> None:
    for number in range(3):
        claims = {"typ": "cache", "jti": number, "cache_grants": {"project": {"write": [PROJECT]}}}
        token = signed(claims, "another server's secret".ljust(64, "."))
        for client in (site.direct, site.client):
            answer = client.get(
                cas_path(new_cas_id()), headers=bearer(token), params=handles(PROJECT)
            )
            expect_error(answer, 401, "Unauthorized")
    (line,) = site.service.logged("cache_token_unverified")
    assert "TUIST_TOKEN_SECRET" in line["reason"]
    metrics = site.direct.get("/metrics").text
    name = 'cache_actors_decisions_total{outcome="unverifiable",source="tuist"}'
    assert f"{name} 3.0" in metrics.splitlines()


# --- Accounts over their plan ---------------------------------------------------------------------


def test_account_over_its_plan_is_402_for_every_call(site: Site) -> None:
    token = site.new_token("acme/unpaid")
    site.tuist.unpaid = ["acme/unpaid"]
    for client in (site.direct, site.client):
        for call in cache_calls():
            answer = call.make(client, headers=bearer(token), params=handles("acme/unpaid"))
            if call.method == "HEAD":
                expect_error_without_body(answer, 402)
            else:
                expect_error(answer, 402, UNPAID)
            assert "Retry-After" not in answer.headers


# --- A prefix -------------------------------------------------------------------------------------


def absolute(client: httpx.Client, path: str) -> str:
    """A URL in which slashes stay as they are."""
    return str(client.base_url).rstrip("/") + path


@pytest.mark.parametrize("front", ["direct", "client"])
@pytest.mark.parametrize("prefix", [PREFIX, f"/{PREFIX}", f"{PREFIX}/", f"//{PREFIX}//", "", "//"])
def test_paths_may_begin_with_the_prefix_and_with_slashes(
    site: Site, front: str, prefix: str
) -> None:
    client: httpx.Client = getattr(site, front)
    cas_id, kv_id = new_cas_id(), new_kv_id()

    def ask(method: str, path: str, **how: Any) -> httpx.Response:
        url = absolute(client, f"{prefix.removesuffix('/')}{'/' * prefix.endswith('/')}{path}")
        header = bearer(site.token)
        return client.request(method, url, headers=header, params=handles(PROJECT), **how)

    for _ in range(2):
        assert ask("POST", cas_path(cas_id), content=b"bytes").status_code == 204
    assert ask("GET", cas_path(cas_id)).content == b"bytes"
    entry = {"cas_id": kv_id, "entries": [{"value": "v"}]}
    assert ask("PUT", "/api/cache/keyvalue", json=entry).status_code == 204
    for method in ("GET", "PUT"):
        assert ask(method, kv_path(kv_id)).json() == {"entries": [{"value": "v"}]}
    assert ask("GET", "/up").status_code == 200
    expect_error(ask("GET", cas_path(new_cas_id())), 404, "Artifact does not exist")
    if front == "client":  # nginx has answered reads alone, and tells nobody outside
        paths = [line["path"] for line in site.service.logged("request")]
        assert sum(cas_id in path for path in paths) == 1
        for private in ("/_auth_cas", "/metrics"):
            expect_error(ask("GET", private), 404)


@pytest.mark.parametrize("path", ["/other", "/cach", "/cachex", "/cache/cache", "/CACHE"])
def test_other_prefixes_are_none(site: Site, path: str) -> None:
    cas_id = site.stored()
    for client in (site.direct, site.client):
        answer = client.get(
            absolute(client, path + cas_path(cas_id)),
            headers=bearer(site.token),
            params=handles(PROJECT),
        )
        assert answer.status_code in {400, 404}, answer.text


# --- Introspection --------------------------------------------------------------------------------


@pytest.fixture
def introspecting(tmp_path: Path, tuist: HeldTuist) -> Iterator[Service]:
    """A service with a credential of its own at the Tuist server."""
    tuist.credential = ("cache_1", "hush-hush")
    environment = {"TUIST_CLIENT_ID": "cache_1", "TUIST_CLIENT_SECRET": "hush-hush"}
    with running_service(Service(tmp_path / "cas", tuist.url, environment)) as service:
        yield service
        assert "hush-hush" not in service.log.read_text() + service.up().text


def test_cache_token_is_introspected_and_a_refused_credential_refuses_nobody(
    introspecting: Service, tuist: HeldTuist
) -> None:
    reader, late = cache_token(jti="reader"), cache_token(jti="late")
    tuist.grants = {token: {"read": [PROJECT]} for token in (reader, late)}
    with client_of(introspecting.url) as client:

        def answers(token: str) -> list[httpx.Response]:
            path = cas_path(new_cas_id())
            asked: list[Callable[..., httpx.Response]] = [client.get, client.post]
            return [ask(path, headers=bearer(token)) for ask in asked]

        assert [answer.status_code for answer in answers(reader)] == [404, 403]
        assert len(tuist.questions) == 1
        tuist.credential = ("cache_1", "a new one")
        assert [answer.status_code for answer in answers(reader)] == [404, 403]
        for answer in answers(late):
            expect_error(answer, 503)
            assert "TUIST_CLIENT_ID" in answer.json()["message"]
            assert answer.headers["Retry-After"]
    (line,) = introspecting.logged("tuist_failed")
    assert "TUIST_CLIENT_ID" in line["reason"]
