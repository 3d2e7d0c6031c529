"""An outage of the Tuist server, from its beginning to its end, as nginx and clients see it."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import httpx
import pytest

from cache_actors.dev.tuist import _Handler
from tests.support.service import Service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cache_actors.dev.tuist import StandInTuist

SUCCESS_TTL, FAILURE_TTL, STALE_TTL = 1, 1, 30
ATTEMPT_INTERVAL = 3
HANDLES = {"account_handle": "acme", "project_handle": "app"}


@pytest.fixture
def new_client(tmp_path: Path, tuist: StandInTuist) -> Iterator[Callable[..., httpx.Client]]:
    """Starts a service with these settings, and makes a client of it."""
    clients: list[httpx.Client] = []
    services: list[Service] = []

    def new_client(**environment: str) -> httpx.Client:
        service = Service(tmp_path / "cas", tuist.url, environment)
        services.append(service)
        service.storage.mkdir()
        service.start()
        clients.append(
            httpx.Client(base_url=service.url, params=HANDLES, timeout=30, trust_env=False)
        )
        return clients[-1]

    yield new_client
    for client in clients:
        client.close()
    for service in services:
        assert service.process is not None
        service.process.kill()
        service.process.wait()


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
    new_client: Callable[..., httpx.Client],
    tuist: StandInTuist,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # One question per connection: those that are open go on after the stand-in has stopped.
    monkeypatch.setattr(_Handler, "protocol_version", "HTTP/1.0")
    client = new_client(
        AUTH_SUCCESS_TTL=str(SUCCESS_TTL),
        AUTH_FAILURE_TTL=str(FAILURE_TTL),
        AUTH_STALE_TTL=str(STALE_TTL),
    )
    tuist.tokens["new"] = ["acme/app"]
    assert retrieve(client, "token").status_code == 404
    assert lifetime(decide(client, "token")) == "no-store"  # not even a whole second is left
    assert retrieve(client, "bad").status_code == 401

    tuist.stop()
    time.sleep(SUCCESS_TTL + 0.1)
    for _ in range(3):
        assert retrieve(client, "token").status_code == 404
        decision = decide(client, "token")
        assert decision.status_code == 204
        assert lifetime(decision) == "max-age=2"
        assert decision.headers["X-Cache-Project"] == "acme/app"
        expect_unknown(client, "new")
        expect_unknown(client, "bad")
    assert client.get("/up").status_code == 200

    questions = len(tuist.questions)
    tuist.start()
    expect_unknown(client, "new")  # the attempt before was less than three seconds ago
    assert len(tuist.questions) == questions
    time.sleep(ATTEMPT_INTERVAL)
    assert retrieve(client, "new").status_code == 404
    assert retrieve(client, "bad").status_code == 401
    assert decide(client, "token").status_code == 204
    until = time.monotonic() + 5
    while lifetime(decide(client, "token")) == "max-age=2":  # it is asked behind a stale answer
        assert time.monotonic() < until
        time.sleep(0.01)


def test_slow_outage_does_not_slow_known_tokens(
    new_client: Callable[..., httpx.Client], tuist: StandInTuist
) -> None:
    client = new_client(AUTH_SUCCESS_TTL="0.5", AUTH_STALE_TTL="30")
    assert retrieve(client, "token").status_code == 404
    tuist.status = 500
    time.sleep(0.6)
    assert retrieve(client, "token").status_code == 404  # now it is known to be out
    tuist.delay = 1.5
    time.sleep(ATTEMPT_INTERVAL)
    began = time.monotonic()
    for _ in range(10):
        assert retrieve(client, "token").status_code == 404
    assert time.monotonic() - began < 1


def test_decisions_live_whole_seconds_less_one(
    new_client: Callable[..., httpx.Client], tuist: StandInTuist
) -> None:
    client = new_client()
    yes = decide(client, "token")
    assert yes.status_code == 204
    assert lifetime(yes) in {"max-age=599", "max-age=598"}
    no = decide(client, "bad")
    assert no.status_code == 401
    assert lifetime(no) in {"max-age=2", "max-age=1"}
    forbidden = client.get(
        "/_auth_cas",
        headers={"Authorization": "Bearer token"},
        params={"account_handle": "acme", "project_handle": "other-app"},
    )
    assert forbidden.status_code == 403
    assert lifetime(forbidden) in {"max-age=2", "max-age=1"}
    time.sleep(1.1)
    assert lifetime(decide(client, "token")) in {"max-age=597", "max-age=598"}
    assert lifetime(decide(client, "bad")) in {"max-age=1", "no-store"}
    time.sleep(1)
    assert lifetime(decide(client, "bad")) == "no-store"
    assert len(tuist.questions) == 2
    time.sleep(1)
    assert lifetime(decide(client, "bad")) in {"max-age=2", "max-age=1"}  # asked again
