"""`/_auth_cas`, which only nginx asks, so of the service itself: decisions and how long they live.

Its two headers are named here as nginx's configuration names them.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.http.test_parameters import REFUSED
from tests.support.service import Service, running_service
from tests.support.waiting import eventually

from .examples import FAILURE_TTL, bearer, cas_path, expect_error, handles, is_sane, new_cas_id
from .facts import LIMITS, NO_PROJECTS, OTHER_PROJECT, OTHER_TOKEN, PROJECT, TOKEN
from .test_authorization import FORBIDDEN, MISSING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .held_tuist import HeldTuist

PATH = "/_auth_cas"
SUCCESS_TTL = 600
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


@pytest.mark.parametrize("query", [query.decode() for query, _ in REFUSED if query.isascii()])
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


@pytest.mark.parametrize("projects", [[PROJECT], []], ids=["a yes", "a no"])
def test_life_of_a_decision(
    direct: httpx.Client, new_token: Callable[..., str], projects: list[str]
) -> None:
    """What is left of it, in whole seconds, minus one."""
    token, life = new_token(*projects), SUCCESS_TTL if projects else FAILURE_TTL
    asked = time.monotonic()
    decide(direct, token)
    known = time.monotonic()  # the decision was made between the two

    def is_less() -> bool:
        """Whether a second is gone; however long it takes to ask, the rest is as it should be."""
        before = time.monotonic()
        left = max_age(decide(direct, token))
        assert int(life - (time.monotonic() - asked)) - 1 <= left
        assert left <= int(life - (before - known)) - 1
        return left < life - 2

    eventually(is_less)


def test_decision_of_a_call_is_the_endpoint_s_too(
    direct: httpx.Client, tuist: HeldTuist, new_token: Callable[..., str]
) -> None:
    token = new_token(PROJECT)
    direct.get(cas_path(new_cas_id()), headers=bearer(token), params=handles(PROJECT))
    assert decide(direct, token).status_code == 204
    assert len(tuist.about(token)) == 1


# When Tuist cannot answer.


@pytest.mark.parametrize("status", [200, 404, 500])
def test_outage_is_never_remembered(
    direct: httpx.Client, changeable_tuist: HeldTuist, new_token: Callable[..., str], status: int
) -> None:
    changeable_tuist.status = status
    response = decide(direct, new_token(PROJECT))
    assert response.status_code == 503
    assert max_age(response) == 0
    assert 1 <= int(response.headers["Retry-After"]) <= 3
    assert json.loads(response.headers[ERROR_HEADER])["message"]


def answers_until_refused(client: httpx.Client, token: str) -> list[httpx.Response]:
    """The decisions on a token until one is not a yes."""
    answers: list[httpx.Response] = []

    def is_refused() -> bool:
        answers.append(decide(client, token))
        return answers[-1].status_code != 204

    eventually(is_refused)
    return answers


def test_a_yes_goes_on_through_an_outage_for_a_while(
    hasty_direct: httpx.Client, changeable_tuist: HeldTuist, new_token: Callable[..., str]
) -> None:
    token = new_token(PROJECT)
    assert decide(hasty_direct, token).status_code == 204
    changeable_tuist.status = 500
    *stale, end = answers_until_refused(hasty_direct, token)
    assert end.status_code == 503
    assert max(map(max_age, stale), default=0) <= 2
    assert len(changeable_tuist.about(token)) >= 2
    assert decide(hasty_direct, token, OTHER_PROJECT).status_code == 503  # that was a no


@pytest.mark.parametrize("status", [401, 403])
def test_a_no_after_a_yes_counts_at_once(
    hasty_direct: httpx.Client,
    changeable_tuist: HeldTuist,
    new_token: Callable[..., str],
    status: int,
) -> None:
    token = new_token(PROJECT)
    assert decide(hasty_direct, token).status_code == 204
    changeable_tuist.status = status
    assert answers_until_refused(hasty_direct, token)[-1].status_code == status
    changeable_tuist.status = 500
    assert decide(hasty_direct, token).status_code in {status, 503}  # and no yes any more


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
