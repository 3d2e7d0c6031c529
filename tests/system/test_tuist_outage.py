"""An outage of the Tuist server, from its beginning to its end, as nginx and clients see it."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx

from cache_actors.dev.tuist import _Handler
from tests.support.service import CHANGED_COMMAND, Service, client_of, constants, running_service
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest

    from tests.support.tuist import HeldTuist

ATTEMPT_INTERVAL = 3


@contextmanager
def service_of(tuist: HeldTuist, folder: Path, **settings: str) -> Iterator[httpx.Client]:
    """A client of a service with these settings, which asks `tuist`."""
    service = Service(folder / "cas", tuist.url, settings, CHANGED_COMMAND)
    with running_service(service), client_of(service.url) as client:
        yield client


def retrieve(client: httpx.Client, token: str) -> httpx.Response:
    """Ask for an artifact that does not exist: 404 for those with access."""
    return client.get("/api/cache/cas/A", headers={"Authorization": f"Bearer {token}"})


def decide(client: httpx.Client, token: str) -> httpx.Response:
    """Ask as nginx does."""
    return client.get("/_auth_cas", headers={"Authorization": f"Bearer {token}"})


def lifetime(decision: httpx.Response) -> str:
    return str(decision.headers["Cache-Control"])


def expect_unknown(client: httpx.Client, token: str) -> None:
    """Check that nobody knows about `token`, which is never a refusal."""
    for answer in (retrieve(client, token), decide(client, token)):
        assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
        assert 1 <= int(answer.headers["Retry-After"]) <= ATTEMPT_INTERVAL
        assert lifetime(answer) == "no-store"
    assert "cannot be reached" in retrieve(client, token).json()["message"]
    told = json.loads(decide(client, token).headers["X-Cache-Error"])
    assert "cannot be reached" in told["message"]


def test_known_tokens_go_on_through_an_outage_and_new_ones_wait_for_its_end(
    tmp_path: Path, tuist: HeldTuist, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One question per connection: those that are open go on after the stand-in has stopped.
    monkeypatch.setattr(_Handler, "protocol_version", "HTTP/1.0")
    ttls = {"AUTH_SUCCESS_TTL": "1", "AUTH_FAILURE_TTL": "1", "AUTH_STALE_TTL": "600"}
    with service_of(tuist, tmp_path, **ttls) as client:
        tuist.tokens["new"] = ["acme/app"]
        assert retrieve(client, "token").status_code == 404
        assert lifetime(decide(client, "token")) == "no-store"  # not even a whole second is left
        assert retrieve(client, "bad").status_code == 401

        with tuist.down():
            eventually(lambda: retrieve(client, "bad").status_code == 503)
            eventually(lambda: lifetime(decide(client, "token")) == "max-age=2")
            for _ in range(3):
                assert retrieve(client, "token").status_code == 404
                decision = decide(client, "token")
                assert decision.status_code == 204
                assert lifetime(decision) == "max-age=2"
                assert decision.headers["X-Cache-Project"] == "acme/app"
                expect_unknown(client, "new")
                expect_unknown(client, "bad")
            assert client.get("/up").status_code == 200
        eventually(lambda: retrieve(client, "new").status_code == 404)
        eventually(lambda: retrieve(client, "bad").status_code == 401)
        # It is asked behind a stale answer.
        eventually(lambda: lifetime(decide(client, "token")) == "no-store")


def test_tuist_is_not_asked_again_before_it_is_time(tmp_path: Path, tuist: HeldTuist) -> None:
    an_hour = constants({"actors.auth_cache.ATTEMPT_INTERVAL": 3600})
    with service_of(tuist, tmp_path, **an_hour) as client:
        tuist.status = 500
        assert retrieve(client, "token").status_code == 503
        questions = len(tuist.questions)
        tuist.status = None
        assert retrieve(client, "token").status_code == 503
        assert len(tuist.questions) == questions


def test_outage_does_not_hold_up_known_tokens(tmp_path: Path, tuist: HeldTuist) -> None:
    settings = {"AUTH_SUCCESS_TTL": "0.1", "AUTH_STALE_TTL": "600"}
    settings |= constants({"actors.auth_cache.ATTEMPT_INTERVAL": 0.1})
    with service_of(tuist, tmp_path, **settings) as client:
        assert retrieve(client, "token").status_code == 404
        tuist.status = 500
        eventually(
            lambda: lifetime(decide(client, "token")) == "max-age=2"
        )  # it is known to be out
        with tuist.held():
            questions = len(tuist.questions)

            def is_asked_about() -> bool:
                assert retrieve(client, "token").status_code == 404
                return len(tuist.questions) > questions

            eventually(is_asked_about)
            for _ in range(10):
                assert retrieve(client, "token").status_code == 404


def test_decisions_live_whole_seconds_less_one(tmp_path: Path, tuist: HeldTuist) -> None:
    with service_of(tuist, tmp_path, AUTH_FAILURE_TTL="60") as client:
        yes, no = decide(client, "token"), decide(client, "bad")
        forbidden = client.get(
            "/_auth_cas", params={"account_handle": "acme", "project_handle": "other-app"}
        )
        assert [each.status_code for each in (yes, no, forbidden)] == [204, 401, 403]
        assert 540 < seconds(yes) < 600
        assert 0 < seconds(no) < 60
        assert 0 < seconds(forbidden) < 60
        eventually(lambda: seconds(decide(client, "token")) < seconds(yes))
        eventually(lambda: seconds(decide(client, "bad")) < seconds(no))
        assert len(tuist.questions) == 2


def test_decision_that_is_over_is_made_again(tmp_path: Path, tuist: HeldTuist) -> None:
    with service_of(tuist, tmp_path, AUTH_FAILURE_TTL="1") as client:

        def is_asked_again() -> bool:
            assert lifetime(decide(client, "bad")) == "no-store"  # less than a whole second is left
            return len(tuist.questions) > 1

        eventually(is_asked_again)


def seconds(decision: httpx.Response) -> int:
    """How long nginx may remember a decision."""
    return int(lifetime(decision).removeprefix("max-age="))
