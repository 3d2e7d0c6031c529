"""`/_auth_cas`, which only nginx asks, so of the service itself: decisions and how long they live.

Its two headers are named here as nginx's configuration names them.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.service import Service, running_service

from .examples import (
    FAILURE_TTL,
    all_at_once,
    bearer,
    cas_path,
    expect_error,
    handles,
    is_sane,
    new_cas_id,
)
from .facts import LIMITS, NO_PROJECTS, OTHER_PROJECT, OTHER_TOKEN, PROJECT, TOKEN
from .test_authorization import FORBIDDEN, MISSING, questions_about
from .test_identifiers import BAD_QUERIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cache_actors.dev.tuist import StandInTuist

PATH = "/_auth_cas"
PROJECT_HEADER = "X-Cache-Project"
ERROR_HEADER = "X-Cache-Error"


def decide(client: httpx.Client, token: str, project: str = PROJECT) -> httpx.Response:
    """The decision on a token and a project."""
    return client.get(PATH, headers=bearer(token), params=handles(project))


def max_age(response: httpx.Response) -> int:
    """For how many seconds nginx may remember the decision; 0 is `no-store`."""
    value = response.headers["Cache-Control"]
    if value == "no-store":
        return 0
    assert value.startswith("max-age=")
    seconds = int(value.removeprefix("max-age="))
    assert seconds > 0
    return seconds


def expect_told(response: httpx.Response, status: int, message: str) -> None:
    """Check that the answer is `status`, with the client's error ready to be passed on."""
    assert response.status_code == status
    assert json.loads(response.headers[ERROR_HEADER]) == {"message": message}
    assert PROJECT_HEADER not in response.headers
    assert is_sane(response.headers["X-Request-ID"])


# Decisions.


@pytest.mark.parametrize("project", ["Acme/App", "acme/app", "ACME/APP"])
def test_a_yes_names_the_canonical_project(direct: httpx.Client, project: str) -> None:
    response = decide(direct, TOKEN, project)
    assert response.status_code == 204
    assert response.content == b""
    assert response.headers[PROJECT_HEADER] == "acme/app"
    assert ERROR_HEADER not in response.headers


@pytest.mark.parametrize(
    ("token", "status", "message"),
    [
        ("unknown", 401, "Unauthorized"),
        (OTHER_TOKEN, 403, FORBIDDEN),
        (NO_PROJECTS, 403, FORBIDDEN),
    ],
)
def test_a_no_carries_the_error_for_the_client(
    direct: httpx.Client, token: str, status: int, message: str
) -> None:
    expect_told(decide(direct, token), status, message)


def test_without_authorization_header(direct: httpx.Client) -> None:
    response = direct.get(PATH, params=handles(PROJECT))
    expect_told(response, 401, MISSING)
    assert max_age(response) == 0


def test_one_token_and_two_projects(direct: httpx.Client) -> None:
    for _ in range(2):
        assert decide(direct, OTHER_TOKEN, PROJECT).status_code == 403
        assert decide(direct, OTHER_TOKEN, OTHER_PROJECT).status_code == 204
        assert decide(direct, TOKEN, OTHER_PROJECT).headers[PROJECT_HEADER] == "acme/other-app"
        assert decide(direct, TOKEN, PROJECT).headers[PROJECT_HEADER] == "acme/app"


@pytest.mark.parametrize("query", BAD_QUERIES.values(), ids=BAD_QUERIES)
def test_bad_handles_are_not_decided_on(direct: httpx.Client, query: str) -> None:
    response = direct.get(f"{PATH}?{query}", headers=bearer(TOKEN))
    assert response.status_code == 400
    assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods(direct: httpx.Client, method: str) -> None:
    response = direct.request(method, PATH, headers=bearer(TOKEN), params=handles(PROJECT))
    expect_error(response, 405)
    assert "GET" in response.headers["Allow"]


# Their lives.


def test_life_of_a_yes(direct: httpx.Client, new_token: Callable[..., str]) -> None:
    """What is left of 600 s, in whole seconds, minus one: at first 598, or 599 if it is quick."""
    token = new_token(PROJECT)
    assert max_age(decide(direct, token)) in {598, 599}
    time.sleep(1.1)
    assert max_age(decide(direct, token)) in {597, 598}


def test_life_of_a_no(direct: httpx.Client, new_token: Callable[..., str]) -> None:
    """What is left of three seconds, in whole seconds, minus one; so soon nothing."""
    token = new_token()
    asked = time.monotonic()
    decide(direct, token)
    known = time.monotonic()  # the decision was made between the two
    seen = []
    while time.monotonic() - asked < FAILURE_TTL - 0.2:
        before = time.monotonic()
        response = decide(direct, token)
        assert response.status_code == 403
        least = max(0, int(FAILURE_TTL - (time.monotonic() - asked)) - 1)
        most = max(0, int(FAILURE_TTL - (before - known)) - 1)
        seen.append(max_age(response))
        assert least <= seen[-1] <= most
        time.sleep(0.3)
    assert seen[0] in {1, 2}
    assert seen[-1] == 0


def test_decision_of_a_call_is_the_endpoint_s_too(
    direct: httpx.Client, tuist: StandInTuist, new_token: Callable[..., str]
) -> None:
    token = new_token(PROJECT)
    direct.get(cas_path(new_cas_id()), headers=bearer(token), params=handles(PROJECT))
    assert decide(direct, token).status_code == 204
    assert len(questions_about(tuist, token)) == 1


def test_many_questions_at_once_are_one(
    direct: httpx.Client, changeable_tuist: StandInTuist, new_token: Callable[..., str]
) -> None:
    token = new_token(PROJECT)
    changeable_tuist.delay = 0.3
    answers = all_at_once(lambda _: decide(direct, token), 50)
    assert {answer.status_code for answer in answers} == {204}
    assert len(questions_about(changeable_tuist, token)) == 1


# When Tuist cannot answer.


@pytest.mark.parametrize("status", [200, 404, 500])
def test_outage_is_never_remembered(
    direct: httpx.Client, changeable_tuist: StandInTuist, new_token: Callable[..., str], status: int
) -> None:
    changeable_tuist.status = status
    response = decide(direct, new_token(PROJECT))
    assert response.status_code == 503
    assert max_age(response) == 0
    assert 1 <= int(response.headers["Retry-After"]) <= 3
    assert json.loads(response.headers[ERROR_HEADER])["message"]


@pytest.fixture(scope="module")
def forgetful(tuist: StandInTuist, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service of its own, where a yes lives one second, and five during an outage."""
    storage = tmp_path_factory.mktemp("forgetful") / "cas"
    settings = LIMITS | {"AUTH_SUCCESS_TTL": "1", "AUTH_STALE_TTL": "5"}
    with running_service(Service(storage, tuist.url, settings)) as service:
        yield service


@pytest.fixture
def forgetful_client(forgetful: Service) -> Iterator[httpx.Client]:
    """A client of the forgetful service."""
    with httpx.Client(base_url=forgetful.url, trust_env=False, timeout=30) as client:
        yield client


def test_a_yes_goes_on_through_an_outage_for_a_while(
    forgetful_client: httpx.Client, changeable_tuist: StandInTuist, new_token: Callable[..., str]
) -> None:
    token = new_token(PROJECT)
    began = time.monotonic()
    assert decide(forgetful_client, token).status_code == 204
    changeable_tuist.status = 500
    time.sleep(1.1)
    for _ in range(3):
        stale = decide(forgetful_client, token)
        assert stale.status_code == 204
        assert max_age(stale) == 2
    assert len(questions_about(changeable_tuist, token)) == 2  # one attempt in three seconds
    time.sleep(began + FAILURE_TTL + 0.3 - time.monotonic())
    assert decide(forgetful_client, token, OTHER_PROJECT).status_code == 503  # that was a no
    assert decide(forgetful_client, token).status_code == 204
    time.sleep(began + 5.1 - time.monotonic())
    assert decide(forgetful_client, token).status_code == 503


def test_a_no_after_a_yes_counts_at_once(
    forgetful_client: httpx.Client, changeable_tuist: StandInTuist, new_token: Callable[..., str]
) -> None:
    tokens = {401: new_token(PROJECT), 403: new_token(PROJECT)}
    for token in tokens.values():
        assert decide(forgetful_client, token).status_code == 204
    time.sleep(1.1)
    for status, token in tokens.items():
        changeable_tuist.status = status
        assert decide(forgetful_client, token).status_code == status
        changeable_tuist.status = 500
        assert decide(forgetful_client, token).status_code == status


def test_tuist_cannot_be_reached(tmp_path: Path) -> None:
    with (
        running_service(Service(tmp_path / "cas", "http://127.0.0.1:1", LIMITS)) as service,
        httpx.Client(base_url=service.url, trust_env=False) as client,
    ):
        assert decide(client, TOKEN).status_code == 503
        response = client.get(cas_path("A"), headers=bearer(TOKEN), params=handles(PROJECT))
        expect_error(response, 503)
        assert "Retry-After" in response.headers
        assert client.get("/up").status_code == 200  # an outage of Tuist is no fault of the service
