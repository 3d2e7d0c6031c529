"""Who may do what: the Tuist server decides, and its decisions are remembered for a while."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from .examples import (
    FAILURE_TTL,
    CacheCall,
    all_at_once,
    bearer,
    cache_calls,
    cas_path,
    direct_only,
    entries_of,
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

    from cache_actors.dev.tuist import Question, StandInTuist

    from .raw import RawConnection

FORBIDDEN = "You don't have access to this project"
MISSING = "Missing Authorization header"

every_call = pytest.mark.parametrize("call", cache_calls(), ids=lambda call: call.name)


def questions_about(tuist: StandInTuist, token: str) -> list[Question]:
    """What Tuist has been asked about `token`."""
    return [q for q in tuist.questions if q.authorization == f"Bearer {token}"]


def ask_all(
    client: httpx.Client, tuist: StandInTuist, token: str, processes: int
) -> httpx.Response:
    """Use `token` until every process behind `client` has asked Tuist about it."""
    for _ in range(20 * processes):
        response = client.get(cas_path(new_cas_id()), headers=bearer(token))
        if len(questions_about(tuist, token)) == processes:
            return response
    raise AssertionError(f"{processes} processes, {len(questions_about(tuist, token))} questions")


def expect_refusal(call: CacheCall, response: httpx.Response, status: int, message: str) -> None:
    """Check that `call` was refused for that reason; HEAD has no body to say it."""
    if call.method == "HEAD":
        assert response.status_code == status
        assert response.content == b""
        assert response.headers["Cache-Control"] == "no-store"
    else:
        expect_error(response, status, message)


# Yes and no.


@every_call
def test_with_access(client: httpx.Client, call: CacheCall) -> None:
    assert call.make(client).status_code == call.answer


@every_call
def test_without_authorization_header(stranger: httpx.Client, call: CacheCall) -> None:
    response = call.make(stranger, params=handles(PROJECT))
    expect_refusal(call, response, 401, MISSING)


@every_call
def test_with_a_token_that_tuist_does_not_know(client: httpx.Client, call: CacheCall) -> None:
    response = call.make(client, headers=bearer("unknown"))
    expect_refusal(call, response, 401, "Unauthorized")


@every_call
@pytest.mark.parametrize(
    ("token", "project"),
    [
        (OTHER_TOKEN, PROJECT),
        (NO_PROJECTS, PROJECT),
        (TOKEN, "acme/no-such-app"),
        (TOKEN, "no-such-account/app"),
        (TOKEN, "app/acme"),
        (TOKEN, "acm/app"),
        (TOKEN, "acme/ap"),
    ],
)
def test_with_a_token_for_other_projects(
    client: httpx.Client, call: CacheCall, token: str, project: str
) -> None:
    response = call.make(client, headers=bearer(token), params=handles(project))
    expect_refusal(call, response, 403, FORBIDDEN)


@pytest.mark.parametrize(
    "value",
    ["Basic dXNlcjpwYXNz", f"Token {TOKEN}", "nonsense", "Bearer", "Bearer é", f"Bearer {TOKEN} x"],
)
def test_tuist_judges_whatever_the_header_holds(
    client: httpx.Client, tuist: StandInTuist, value: str
) -> None:
    latin = value.encode("latin-1")
    response = client.get(cas_path(new_cas_id()), headers={b"Authorization": latin})
    expect_error(response, 401, "Unauthorized")
    assert tuist.questions[-1].authorization == value


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


@BOTH_WAYS
def test_a_no_for_one_project_does_not_close_another(
    client: httpx.Client, new_token: Callable[..., str], here: str, there: str
) -> None:
    headers = bearer(new_token(here))
    for _ in range(3):
        expect_error(client.get(cas_path("A"), headers=headers, params=handles(there)), 403)
        expect_error(client.get(cas_path("A"), headers=headers, params=handles(here)), 404)


# Questions to Tuist.


def test_request_id_and_authorization_are_forwarded(
    client: httpx.Client, tuist: StandInTuist, new_token: Callable[..., str]
) -> None:
    token = new_token(PROJECT)
    headers = bearer(token) | {"X-Request-ID": "build-4711/step-1"}
    client.get(cas_path(new_cas_id()), headers=headers)
    (question,) = questions_about(tuist, token)
    assert question.request_id == "build-4711/step-1"


@pytest.mark.parametrize("sent", [{}, {"X-Request-ID": "not sane"}])
def test_new_request_id_is_forwarded_when_there_is_none(
    client: httpx.Client, tuist: StandInTuist, new_token: Callable[..., str], sent: dict[str, str]
) -> None:
    token = new_token(PROJECT)
    response = client.get(cas_path(new_cas_id()), headers=bearer(token) | sent)
    (question,) = questions_about(tuist, token)
    assert question.request_id == response.headers["X-Request-ID"]
    assert is_sane(question.request_id)


def test_a_yes_is_remembered_for_every_call(
    client: httpx.Client, tuist: StandInTuist, new_token: Callable[..., str], processes: int
) -> None:
    token = new_token(PROJECT)
    for call in cache_calls() * 2:
        assert call.make(client, headers=bearer(token)).status_code == call.answer
    assert 1 <= len(questions_about(tuist, token)) <= processes


def test_a_yes_is_remembered_through_an_outage(
    client: httpx.Client,
    changeable_tuist: StandInTuist,
    new_token: Callable[..., str],
    processes: int,
) -> None:
    token = new_token(PROJECT)
    expect_error(ask_all(client, changeable_tuist, token, processes), 404)
    for changeable_tuist.status in (500, 401):
        response = client.get(cas_path(new_cas_id()), headers=bearer(token))
        expect_error(response, 404)


@pytest.mark.parametrize("projects", [[PROJECT], []], ids=["a yes", "a no"])
def test_questions_about_one_token_at_once_are_one(
    client: httpx.Client,
    changeable_tuist: StandInTuist,
    new_token: Callable[..., str],
    processes: int,
    projects: list[str],
) -> None:
    token = new_token(*projects)
    changeable_tuist.delay = 0.3
    answers = all_at_once(lambda _: client.get(cas_path("A"), headers=bearer(token)), 50)
    assert {answer.status_code for answer in answers} == {404 if projects else 403}
    assert 1 <= len(questions_about(changeable_tuist, token)) <= processes


def test_questions_about_many_tokens_do_not_wait_for_each_other(
    client: httpx.Client, changeable_tuist: StandInTuist, new_token: Callable[..., str]
) -> None:
    tokens = [new_token(PROJECT) for _ in range(8)]
    changeable_tuist.delay = 0.5
    began = time.monotonic()
    answers = all_at_once(lambda n: client.get(cas_path("A"), headers=bearer(tokens[n])), 8)
    assert {answer.status_code for answer in answers} == {404}
    assert time.monotonic() - began < 2


def test_slow_question_does_not_hold_up_who_is_known(
    client: httpx.Client, changeable_tuist: StandInTuist, new_token: Callable[..., str]
) -> None:
    client.get(cas_path("A"))
    changeable_tuist.delay = 1.0

    def ask(number: int) -> float:
        headers = bearer(new_token(PROJECT)) if number < 4 else {}
        began = time.monotonic()
        expect_error(client.get(cas_path("A"), headers=headers), 404)
        return time.monotonic() - began

    slow, quick = (times := all_at_once(ask, 8))[:4], times[4:]
    assert min(slow) > 1.0 > max(quick)


def test_a_no_is_remembered_for_three_seconds(
    client: httpx.Client,
    changeable_tuist: StandInTuist,
    new_token: Callable[..., str],
    processes: int,
) -> None:
    refusals = {new_token(): 403, new_token(): 401}
    del changeable_tuist.tokens[list(refusals)[1]]

    def answers() -> dict[str, int]:
        path = cas_path(new_cas_id())
        return {token: client.get(path, headers=bearer(token)).status_code for token in refusals}

    def times_asked() -> list[int]:
        return [len(questions_about(changeable_tuist, token)) for token in refusals]

    began = time.monotonic()
    for token, status in refusals.items():
        expect_error(ask_all(client, changeable_tuist, token, processes), status)
    changeable_tuist.tokens |= {token: [PROJECT] for token in refusals}
    while time.monotonic() - began < FAILURE_TTL - 0.5:
        assert answers() == refusals
        time.sleep(0.4)
    assert times_asked() == [processes] * 2
    time.sleep(began + FAILURE_TTL + 0.3 - time.monotonic())
    assert answers() == dict.fromkeys(refusals, 404)
    assert times_asked() == [processes + 1] * 2


@pytest.mark.parametrize(
    ("status", "message"), [(401, "Unauthorized"), (403, FORBIDDEN)], ids=["401", "403"]
)
def test_what_tuist_refuses_is_refused(
    client: httpx.Client,
    changeable_tuist: StandInTuist,
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
    client: httpx.Client,
    changeable_tuist: StandInTuist,
    new_token: Callable[..., str],
    processes: int,
    status: int,
) -> None:
    """200 with an empty object is garbage as well: there are no projects in it."""
    changeable_tuist.status = status
    token = new_token(PROJECT)
    for _ in range(3):  # at most one attempt every three seconds
        response = client.get(cas_path("A"), headers=bearer(token))
        expect_error(response, 503)
        assert 1 <= int(response.headers["Retry-After"]) <= 3
    assert 1 <= len(questions_about(changeable_tuist, token)) <= processes


def test_outage_ends(
    client: httpx.Client, changeable_tuist: StandInTuist, new_token: Callable[..., str]
) -> None:
    token = new_token(PROJECT)
    changeable_tuist.status = 500
    response = client.get(cas_path("A"), headers=bearer(token))
    changeable_tuist.status = None
    assert client.get(cas_path("A"), headers=bearer(new_token(PROJECT))).status_code == 404
    time.sleep(int(response.headers["Retry-After"]) + 0.1)
    assert client.get(cas_path("A"), headers=bearer(token)).status_code == 404


@every_call
def test_outage_is_503_for_every_call(
    client: httpx.Client,
    changeable_tuist: StandInTuist,
    new_token: Callable[..., str],
    call: CacheCall,
) -> None:
    changeable_tuist.status = 500
    response = call.make(client, headers=bearer(new_token(PROJECT)))
    assert response.status_code == 503
    assert "Retry-After" in response.headers
    assert response.headers["Cache-Control"] == "no-store"


@direct_only
def test_a_401_from_tuist_ends_a_yes_at_once(
    client: httpx.Client, changeable_tuist: StandInTuist, new_token: Callable[..., str]
) -> None:
    """Tuist is asked again by way of another project, for which the no has run out.

    nginx remembers the yes itself, for as long as it was told.
    """
    token = new_token(PROJECT)
    assert client.get(cas_path("A"), headers=bearer(token)).status_code == 404
    time.sleep(FAILURE_TTL + 0.1)
    del changeable_tuist.tokens[token]
    other = client.get(cas_path("A"), headers=bearer(token), params=handles(OTHER_PROJECT))
    expect_error(other, 401, "Unauthorized")
    expect_error(client.get(cas_path("A"), headers=bearer(token)), 401, "Unauthorized")
