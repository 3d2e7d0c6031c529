"""An outage of the Tuist server, from its beginning to its end, as nginx and clients see it.

The rules, on a clock that tests move, are in `tests/actors/test_auth_cache.py`.
"""

import json
from pathlib import Path

import httpx
import pytest

from cache_actors.dev.tuist import _Handler
from tests.support.service import Service, client_of, running_service
from tests.support.tuist import HeldTuist
from tests.support.waiting import eventually

ATTEMPT_INTERVAL = 3


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
    service = Service(tmp_path / "cas", tuist.url, ttls)
    with running_service(service), client_of(service.url) as client:
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
