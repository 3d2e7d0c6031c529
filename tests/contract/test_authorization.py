"""Who may do what: the Tuist server decides, and its decisions are remembered for a while."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.waiting import eventually

from .examples import (
    CacheCall,
    all_at_once,
    bearer,
    cache_calls,
    cas_path,
    entries_of,
    every_front,
    expect_error,
    expect_no_artifact,
    handles,
    is_sane,
    kv_path,
    new_body,
    new_cas_id,
    new_kv_id,
    store,
    upload,
)
from .facts import NO_PROJECTS, OTHER_PROJECT, OTHER_TOKEN, PROJECT, TOKEN
from .raw import AUTHORIZATION, HANDLES

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from .held_tuist import HeldTuist
    from .raw import RawConnection

FORBIDDEN = "You don't have access to this project"
MISSING = "Missing Authorization header"

every_call = pytest.mark.parametrize("call", cache_calls(), ids=lambda call: call.name)


def ask_all(client: httpx.Client, tuist: HeldTuist, token: str, processes: int) -> httpx.Response:
    """Use `token` until every process behind `client` has asked Tuist about it."""
    for _ in range(20 * processes):
        response = client.get(cas_path(new_cas_id()), headers=bearer(token))
        if len(tuist.about(token)) == processes:
            return response
    raise AssertionError(f"{processes} processes, {len(tuist.about(token))} questions")


# Yes and no.


@every_front
@every_call
def test_with_access(client: httpx.Client, call: CacheCall) -> None:
    assert call.make(client).status_code == call.answer


@every_front
@every_call
def test_without_authorization_header(stranger: httpx.Client, call: CacheCall) -> None:
    response = call.make(stranger, params=handles(PROJECT))
    expect_error(response, 401, MISSING)


@every_front
@every_call
def test_with_a_token_that_tuist_does_not_know(client: httpx.Client, call: CacheCall) -> None:
    response = call.make(client, headers=bearer("unknown"))
    expect_error(response, 401, "Unauthorized")


@every_call
def test_with_a_token_for_another_project(client: httpx.Client, call: CacheCall) -> None:
    expect_error(call.make(client, headers=bearer(OTHER_TOKEN)), 403, FORBIDDEN)


@pytest.mark.parametrize(
    ("token", "project"),
    [
        (NO_PROJECTS, PROJECT),
        (TOKEN, "acme/no-such-app"),
        (TOKEN, "no-such-account/app"),
        (TOKEN, "app/acme"),
        (TOKEN, "acm/app"),
        (TOKEN, "acme/ap"),
    ],
)
def test_project_that_tuist_does_not_name(client: httpx.Client, token: str, project: str) -> None:
    response = client.get(cas_path("A"), headers=bearer(token), params=handles(project))
    expect_error(response, 403, FORBIDDEN)


@pytest.mark.parametrize(
    "value",
    ["Basic dXNlcjpwYXNz", f"Token {TOKEN}", "nonsense", "Bearer", "Bearer é", f"Bearer {TOKEN} x"],
)
def test_tuist_judges_whatever_the_header_holds(
    client: httpx.Client, tuist: HeldTuist, value: str
) -> None:
    latin = value.encode("latin-1")
    response = client.get(cas_path(new_cas_id()), headers={b"Authorization": latin})
    expect_error(response, 401, "Unauthorized")
    assert value in {question.authorization for question in tuist.questions}


def test_empty_authorization_header(raw: RawConnection) -> None:
    answer = raw.ask(f"GET {cas_path(new_cas_id())}?{HANDLES}", "Authorization:")
    expect_error(answer, 401)


@pytest.mark.parametrize("second", [AUTHORIZATION, "Authorization: Bearer other", "authorization:"])
@pytest.mark.parametrize("first", [True, False])
def test_repeated_authorization_header(raw: RawConnection, second: str, first: bool) -> None:
    headers = [AUTHORIZATION, second] if first else [second, AUTHORIZATION]
    answer = raw.ask(f"GET {cas_path(new_cas_id())}?{HANDLES}", *headers)
    expect_error(answer, 400)


def test_token_elsewhere_counts_for_nothing(stranger: httpx.Client) -> None:
    """No header of nginx's stands in for authorisation, and none that looks like it."""
    for headers in (
        {"X-Authorization": f"Bearer {TOKEN}"},
        {"Proxy-Authorization": f"Bearer {TOKEN}"},
        {"X-Cache-Project": "acme/app"},
        {"X-Original-URI": "/up", "X-Forwarded-For": "127.0.0.1", "X-Accel-Internal": "1"},
        {"Cookie": f"Authorization=Bearer {TOKEN}"},
    ):
        response = stranger.get(
            cas_path(new_cas_id()), params=handles(PROJECT) | {"token": TOKEN}, headers=headers
        )
        expect_error(response, 401, MISSING)


@every_front
def test_refused_upload_stores_nothing(client: httpx.Client) -> None:
    cas_id = new_cas_id()
    for token in ("unknown", OTHER_TOKEN, NO_PROJECTS):
        response = upload(client, cas_id, new_body(), headers=bearer(token))
        assert response.status_code in {401, 403}
    expect_no_artifact(client, cas_id)


# Projects are apart.

BOTH_WAYS = pytest.mark.parametrize(
    ("here", "there"), [(PROJECT, OTHER_PROJECT), (OTHER_PROJECT, PROJECT)]
)


@every_front
@BOTH_WAYS
def test_what_one_project_holds_is_not_in_another(
    client: httpx.Client, here: str, there: str
) -> None:
    cas_id, kv_id, body = new_cas_id(), new_kv_id(), new_body()
    for _ in range(2):  # the second time with every decision remembered
        upload(client, cas_id, body, params=handles(here))
        store(client, kv_id, "here", params=handles(here))
        assert client.get(cas_path(cas_id), params=handles(here)).content == body
        for path in (cas_path(cas_id), kv_path(kv_id)):
            expect_error(client.get(path, params=handles(there)), 404)


@BOTH_WAYS
def test_one_id_holds_different_things_in_two_projects(
    client: httpx.Client, here: str, there: str
) -> None:
    cas_id, kv_id = new_cas_id(), new_kv_id()
    for project in (here, there):
        assert upload(client, cas_id, project.encode(), params=handles(project)).status_code == 204
        assert store(client, kv_id, project, params=handles(project)).status_code == 204
    for project in (here, there):
        assert client.get(cas_path(cas_id), params=handles(project)).text == project
        entries = client.get(kv_path(kv_id), params=handles(project)).json()["entries"]
        assert entries == entries_of(project)


@every_front
@BOTH_WAYS
def test_access_to_one_project_does_not_open_another(
    client: httpx.Client, new_token: Callable[..., str], here: str, there: str
) -> None:
    """Not even when the same token, or another, has just been let in (trap 25)."""
    cas_id, token = new_cas_id(), new_token(here)
    for project in (here, there):
        assert upload(client, cas_id, new_body(), params=handles(project)).status_code == 204
    for _ in range(3):
        allowed = client.get(cas_path(cas_id), headers=bearer(token), params=handles(here))
        assert allowed.status_code == 200
        refused = client.get(cas_path(cas_id), headers=bearer(token), params=handles(there))
        expect_error(refused, 403, FORBIDDEN)


@every_front
@BOTH_WAYS
def test_a_no_for_one_project_does_not_close_another(
    client: httpx.Client, new_token: Callable[..., str], here: str, there: str
) -> None:
    headers = bearer(new_token(here))
    for _ in range(3):
        expect_error(client.get(cas_path("A"), headers=headers, params=handles(there)), 403)
        expect_error(client.get(cas_path("A"), headers=headers, params=handles(here)), 404)


# Questions to Tuist.


@every_front
def test_request_id_and_authorization_are_forwarded(
    client: httpx.Client, tuist: HeldTuist, new_token: Callable[..., str]
) -> None:
    token = new_token(PROJECT)
    headers = bearer(token) | {"X-Request-ID": "build-4711/step-1"}
    client.get(cas_path(new_cas_id()), headers=headers)
    (question,) = tuist.about(token)
    assert question.request_id == "build-4711/step-1"


@pytest.mark.parametrize("sent", [{}, {"X-Request-ID": "not sane"}])
def test_new_request_id_is_forwarded_when_there_is_none(
    client: httpx.Client, tuist: HeldTuist, new_token: Callable[..., str], sent: dict[str, str]
) -> None:
    token = new_token(PROJECT)
    response = client.get(cas_path(new_cas_id()), headers=bearer(token) | sent)
    (question,) = tuist.about(token)
    assert question.request_id == response.headers["X-Request-ID"]
    assert is_sane(question.request_id)


@every_front
def test_a_yes_is_remembered_for_every_call(
    client: httpx.Client, tuist: HeldTuist, new_token: Callable[..., str], processes: int
) -> None:
    token = new_token(PROJECT)
    for call in cache_calls() * 2:
        assert call.make(client, headers=bearer(token)).status_code == call.answer
    assert 1 <= len(tuist.about(token)) <= processes


@every_front
def test_a_yes_is_remembered_through_an_outage(
    client: httpx.Client,
    changeable_tuist: HeldTuist,
    new_token: Callable[..., str],
    processes: int,
) -> None:
    token = new_token(PROJECT)
    expect_error(ask_all(client, changeable_tuist, token, processes), 404)
    for changeable_tuist.status in (500, 401):
        response = client.get(cas_path(new_cas_id()), headers=bearer(token))
        expect_error(response, 404)


@every_front
@pytest.mark.parametrize("projects", [[PROJECT], []], ids=["a yes", "a no"])
def test_questions_about_one_token_at_once_are_one(
    client: httpx.Client,
    changeable_tuist: HeldTuist,
    new_token: Callable[..., str],
    processes: int,
    projects: list[str],
) -> None:
    token = new_token(*projects)
    changeable_tuist.delay = 0.3
    answers = all_at_once(lambda _: client.get(cas_path("A"), headers=bearer(token)), 50)
    assert {answer.status_code for answer in answers} == {404 if projects else 403}
    assert 1 <= len(changeable_tuist.about(token)) <= processes


@every_front
def test_slow_questions_hold_up_neither_each_other_nor_who_is_known(
    client: httpx.Client, changeable_tuist: HeldTuist, new_token: Callable[..., str], processes: int
) -> None:
    known, *tokens = [new_token(PROJECT) for _ in range(5)]
    expect_error(ask_all(client, changeable_tuist, known, processes), 404)
    with ThreadPoolExecutor(len(tokens)) as threads, changeable_tuist.held(*tokens):
        slow = [threads.submit(client.get, cas_path("A"), headers=bearer(t)) for t in tokens]
        changeable_tuist.wait_for_questions(*tokens)
        expect_error(client.get(cas_path("A"), headers=bearer(known)), 404)
        assert not any(answer.done() for answer in slow)
    for answer in slow:
        expect_error(answer.result(), 404)


@every_front
def test_a_no_is_remembered(
    client: httpx.Client, changeable_tuist: HeldTuist, new_token: Callable[..., str], processes: int
) -> None:
    refusals = {new_token(): 403, new_token(): 401}
    del changeable_tuist.tokens[list(refusals)[1]]
    for token, status in refusals.items():
        expect_error(ask_all(client, changeable_tuist, token, processes), status)
        changeable_tuist.tokens[token] = [PROJECT]
        expect_error(client.get(cas_path(new_cas_id()), headers=bearer(token)), status)
        assert len(changeable_tuist.about(token)) == processes


def test_a_no_is_forgotten(
    hasty_client: httpx.Client, changeable_tuist: HeldTuist, new_token: Callable[..., str]
) -> None:
    token = new_token()
    expect_error(hasty_client.get(cas_path("A"), headers=bearer(token)), 403)
    changeable_tuist.tokens[token] = [PROJECT]
    eventually(lambda: hasty_client.get(cas_path("A"), headers=bearer(token)).status_code == 404)
    assert len(changeable_tuist.about(token)) == 2


@pytest.mark.parametrize(
    ("status", "message"), [(401, "Unauthorized"), (403, FORBIDDEN)], ids=["401", "403"]
)
def test_what_tuist_refuses_is_refused(
    client: httpx.Client,
    changeable_tuist: HeldTuist,
    new_token: Callable[..., str],
    status: int,
    message: str,
) -> None:
    changeable_tuist.status = status
    response = client.get(cas_path("A"), headers=bearer(new_token(PROJECT)))
    expect_error(response, status, message)


@pytest.mark.parametrize(
    "status", [200, 201, 204, 302, 400, 404, 418, 429, 500, 502, 503], ids=lambda s: f"{s}"
)
def test_anything_else_from_tuist_is_503(
    client: httpx.Client, changeable_tuist: HeldTuist, new_token: Callable[..., str], status: int
) -> None:
    """200 with an empty object is garbage as well: there are no projects in it."""
    changeable_tuist.status = status
    response = client.get(cas_path("A"), headers=bearer(new_token(PROJECT)))
    expect_error(response, 503)
    assert 1 <= int(response.headers["Retry-After"]) <= 3


def test_outage_ends(
    client: httpx.Client, changeable_tuist: HeldTuist, new_token: Callable[..., str]
) -> None:
    token = new_token(PROJECT)
    changeable_tuist.status = 500
    expect_error(client.get(cas_path("A"), headers=bearer(token)), 503)
    changeable_tuist.status = None
    assert client.get(cas_path("A"), headers=bearer(new_token(PROJECT))).status_code == 404
    eventually(lambda: client.get(cas_path("A"), headers=bearer(token)).status_code == 404)


@every_call
def test_outage_is_503_for_every_call(
    client: httpx.Client,
    changeable_tuist: HeldTuist,
    new_token: Callable[..., str],
    call: CacheCall,
) -> None:
    changeable_tuist.status = 500
    response = call.make(client, headers=bearer(new_token(PROJECT)))
    expect_error(response, 503)
    assert "Retry-After" in response.headers


def long_token(length: int) -> str:
    """A token of that many bytes."""
    return f"{new_cas_id()}.".ljust(length, "a")


@every_front
@pytest.mark.parametrize("length", [3_482, 8_192, 16_384])
def test_token_of_up_to_16_kib_is_let_in(
    client: httpx.Client, changeable_tuist: HeldTuist, length: int
) -> None:
    token, cas_id = long_token(length), new_cas_id()
    changeable_tuist.tokens[token] = [PROJECT]
    upload(client, cas_id, b"bytes", headers=bearer(token))
    response = client.get(cas_path(cas_id), headers=bearer(token))
    assert (response.status_code, response.content) == (200, b"bytes")


@every_front
@pytest.mark.parametrize("length", [16_385, 17_000, 20_000, 60_000])
def test_longer_token_is_431_for_every_call(client: httpx.Client, length: int) -> None:
    token = long_token(length)
    for call in cache_calls():
        response = call.make(client, headers=bearer(token))
        if call.method == "HEAD":
            assert response.status_code == 431
        else:
            expect_error(response, 431)


@every_front
@pytest.mark.parametrize("slashes", ["//", "///", "////////"])
def test_path_may_begin_with_several_slashes(client: httpx.Client, slashes: str) -> None:
    cas_id, kv_id = new_cas_id(), new_kv_id()

    def ask(method: str, path: str, **how: Any) -> httpx.Response:
        # As an absolute URL, since httpx would take what follows two slashes for a host.
        url = f"{str(client.base_url).rstrip('/')}{slashes}{path.removeprefix('/')}"
        return client.request(method, url, **how)

    assert ask("POST", cas_path(cas_id), content=b"bytes").status_code == 204
    assert ask("POST", cas_path(cas_id), content=b"bytes").status_code == 204
    assert ask("GET", cas_path(cas_id)).content == b"bytes"
    entry = {"cas_id": kv_id, "entries": [{"value": "v"}]}
    assert ask("PUT", "/api/cache/keyvalue", json=entry).status_code == 204
    assert ask("PUT", kv_path(kv_id)).json() == {"entries": [{"value": "v"}]}
    assert ask("GET", kv_path(kv_id)).json() == {"entries": [{"value": "v"}]}
    assert ask("GET", "/up").status_code == 200
    expect_error(ask("GET", cas_path(new_cas_id())), 404)
    expect_error(ask("GET", cas_path(cas_id), headers={"Authorization": ""}), 401)
    expect_error(ask("GET", f"/api/{slashes}cache/cas/{cas_id}"), 404)
