"""Who may do what: the Tuist server decides, and its decisions are remembered for a while.

The rules of remembering are in `tests/actors/test_auth_cache.py`, and an outage from its beginning
to its end in `tests/system/test_tuist_outage.py`.
"""

import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.support.service import Service
from tests.support.tuist import HeldTuist
from tests.support.waiting import eventually

from .examples import (
    FAILURE_TTL,
    CacheCall,
    bearer,
    cache_calls,
    cas_path,
    entries_of,
    every_front,
    expect_error,
    handles,
    is_sane,
    kv_path,
    new_body,
    new_cas_id,
    new_kv_id,
    questions_about,
    store,
    upload,
)
from .facts import NO_PROJECTS, OTHER_PROJECT, OTHER_TOKEN, PROJECT, TOKEN
from .raw import AUTHORIZATION, HANDLES, RawConnection

SUCCESS_TTL = 600
FORBIDDEN = "You don't have access to this project"
MISSING = "Missing Authorization header"

every_call = pytest.mark.parametrize("call", cache_calls(), ids=lambda call: call.name)


# Yes and no.


@every_front
@every_call
def test_call_is_answered_by_what_tuist_says_of_its_token(
    client: httpx.Client, stranger: httpx.Client, call: CacheCall
) -> None:
    expect_error(call.make(stranger, params=handles(PROJECT)), 401, MISSING)
    expect_error(call.make(client, headers=bearer("unknown")), 401, "Unauthorized")
    for token in (OTHER_TOKEN, NO_PROJECTS):
        expect_error(call.make(client, headers=bearer(token)), 403, FORBIDDEN)
    assert call.make(client).status_code == call.answer


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
    assert 1 <= int(response.headers["Retry-After"]) <= 3


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


@every_front
def test_several_spaces_before_the_token_are_as_one(client: httpx.Client) -> None:
    headers = {"Authorization": f"Bearer   {TOKEN}"}
    cas_id = new_cas_id()
    for _ in range(2):
        assert client.post(cas_path(cas_id), content=b"bytes", headers=headers).is_success
        assert client.get(cas_path(cas_id), headers=headers).content == b"bytes"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (["Authorization:"], 401),
        *(
            (headers, 400)
            for second in (AUTHORIZATION, "Authorization: Bearer other", "authorization:")
            for headers in ([AUTHORIZATION, second], [second, AUTHORIZATION])
        ),
    ],
    ids=str,
)
def test_header_that_is_empty_or_repeated(
    raw: RawConnection, headers: list[str], status: int
) -> None:
    expect_error(raw.ask(f"GET {cas_path(new_cas_id())}?{HANDLES}", *headers), status)


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


# Projects are apart.

BOTH_WAYS = pytest.mark.parametrize(
    ("here", "there"), [(PROJECT, OTHER_PROJECT), (OTHER_PROJECT, PROJECT)]
)


@every_front
@BOTH_WAYS
def test_one_id_holds_different_things_in_two_projects(
    client: httpx.Client, here: str, there: str
) -> None:
    cas_id, kv_id = new_cas_id(), new_kv_id()
    for project in (here, there):
        for path in (cas_path(cas_id), kv_path(kv_id)):
            expect_error(client.get(path, params=handles(project)), 404)
        assert upload(client, cas_id, project.encode(), params=handles(project)).status_code == 204
        assert store(client, kv_id, project, params=handles(project)).status_code == 204
    for project in (here, there):
        assert client.get(cas_path(cas_id), params=handles(project)).text == project
        entries = client.get(kv_path(kv_id), params=handles(project)).json()["entries"]
        assert entries == entries_of(project)


@every_front
@BOTH_WAYS
def test_access_to_one_project_neither_opens_nor_closes_another(
    client: httpx.Client, new_token: Callable[..., str], here: str, there: str
) -> None:
    """Whichever is asked for first, and when another token has just been let in (trap 25)."""
    cas_id = new_cas_id()
    for project in (here, there):
        assert upload(client, cas_id, new_body(), params=handles(project)).status_code == 204
    for projects in ([here, there], [there, here]):
        token = new_token(here)
        for project in projects * 3:
            answer = client.get(cas_path(cas_id), headers=bearer(token), params=handles(project))
            if project == here:
                assert answer.status_code == 200
            else:
                expect_error(answer, 403, FORBIDDEN)


# Questions to Tuist.


@every_front
@pytest.mark.parametrize(
    "sent", [{"X-Request-ID": "build-4711/step-1"}, {}, {"X-Request-ID": "not sane"}], ids=str
)
def test_request_id_and_authorization_are_forwarded(
    client: httpx.Client, tuist: HeldTuist, new_token: Callable[..., str], sent: dict[str, str]
) -> None:
    token = new_token(PROJECT)
    response = client.get(cas_path(new_cas_id()), headers=bearer(token) | sent)
    (question,) = questions_about(tuist, token)
    assert question.request_id == response.headers["X-Request-ID"]
    assert is_sane(question.request_id)
    assert (question.request_id in sent.values()) == ("build-4711/step-1" in sent.values())


@every_front
def test_a_yes_is_remembered_for_every_call_and_through_an_outage(
    client: httpx.Client,
    changeable_tuist: HeldTuist,
    new_token: Callable[..., str],
    processes: int,
) -> None:
    token = new_token(PROJECT)
    ask_all(client, changeable_tuist, token, processes)
    for changeable_tuist.status in (None, 500, 401):
        for call in cache_calls():
            assert call.make(client, headers=bearer(token)).status_code == call.answer
    assert len(questions_about(changeable_tuist, token)) == processes


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
        assert len(questions_about(changeable_tuist, token)) == processes


def ask_all(client: httpx.Client, tuist: HeldTuist, token: str, processes: int) -> httpx.Response:
    """Use `token` until every process behind `client` has asked Tuist about it."""
    for _ in range(20 * processes):
        response = client.get(cas_path(new_cas_id()), headers=bearer(token))
        if len(questions_about(tuist, token)) == processes:
            return response
    raise AssertionError(f"{processes} processes, {len(questions_about(tuist, token))} questions")


# What nginx is told. Its two headers are named here as its configuration names them.

PROJECT_HEADER = "X-Cache-Project"
ERROR_HEADER = "X-Cache-Error"


def decide(service: Service, token: str | None, project: str = PROJECT) -> httpx.Response:
    """The service's own decision on a token, if there is one, and a project."""
    headers = {} if token is None else bearer(token)
    return httpx.get(
        f"{service.url}/_auth_cas", headers=headers, params=handles(project), trust_env=False
    )


def max_age(response: httpx.Response) -> int:
    """For how many seconds nginx may remember the decision; 0 is `no-store`."""
    value = response.headers["Cache-Control"]
    if value == "no-store":
        return 0
    assert value.startswith("max-age=")
    seconds = int(value.removeprefix("max-age="))
    assert seconds > 0
    return seconds


@pytest.mark.parametrize("project", ["Acme/App", "acme/app", "ACME/APP"])
def test_a_yes_names_the_canonical_project(service: Service, project: str) -> None:
    response = decide(service, TOKEN, project)
    assert response.status_code == 204
    assert response.content == b""
    assert response.headers[PROJECT_HEADER] == "acme/app"
    assert ERROR_HEADER not in response.headers


@pytest.mark.parametrize(
    ("token", "status", "message"),
    [("unknown", 401, "Unauthorized"), (OTHER_TOKEN, 403, FORBIDDEN), (None, 401, MISSING)],
)
def test_a_no_carries_the_error_for_the_client(
    service: Service, token: str | None, status: int, message: str
) -> None:
    response = decide(service, token)
    assert response.status_code == status
    assert json.loads(response.headers[ERROR_HEADER]) == {"message": message}
    assert PROJECT_HEADER not in response.headers
    assert is_sane(response.headers["X-Request-ID"])
    assert (max_age(response) == 0) == (message == MISSING)


def test_bad_handles_are_not_decided_on(service: Service) -> None:
    expect_error(decide(service, TOKEN, "acme/a.b"), 400)


@pytest.mark.parametrize("projects", [[PROJECT], []], ids=["a yes", "a no"])
def test_life_of_a_decision(
    service: Service, new_token: Callable[..., str], projects: list[str]
) -> None:
    """What is left of it, in whole seconds, minus one."""
    token, life = new_token(*projects), SUCCESS_TTL if projects else FAILURE_TTL
    asked = time.monotonic()
    decide(service, token)
    known = time.monotonic()  # the decision was made between the two

    def is_less() -> bool:
        """Whether a second is gone; however long it takes to ask, the rest is as it should be."""
        before = time.monotonic()
        left = max_age(decide(service, token))
        assert int(life - (time.monotonic() - asked)) - 1 <= left
        assert left <= int(life - (before - known)) - 1
        return left < life - 2

    eventually(is_less)


def test_a_yes_goes_on_through_an_outage_for_a_while(
    hasty: Service, changeable_tuist: HeldTuist, new_token: Callable[..., str]
) -> None:
    token, answers = new_token(PROJECT), []
    assert decide(hasty, token).status_code == 204
    changeable_tuist.status = 500

    def is_refused() -> bool:
        answers.append(decide(hasty, token))
        return answers[-1].status_code != 204

    eventually(is_refused)
    *stale, end = answers
    assert end.status_code == 503
    assert max(map(max_age, [*stale, end])) <= 2
    assert len(questions_about(changeable_tuist, token)) >= 2
    assert decide(hasty, token, OTHER_PROJECT).status_code == 503  # that was a no


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
