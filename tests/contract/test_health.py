"""`/up` and `/ready`, for anybody at any time, and `/metrics`, for the service's own host.

What they say of a service that starts, stops or fails is in `tests/http/test_health.py` and in
`tests/system`.
"""

import httpx
import pytest

from tests.support.metrics import Scrape

from .examples import bearer, every_front, expect_error, parts_of, stored, uploaded
from .facts import LIMITS, OTHER_TOKEN, PROJECT, TOKEN

pytestmark = every_front


@pytest.mark.parametrize("path", ["/up", "/ready"])
@pytest.mark.parametrize("accept", ["application/json", "*/*", "text/html, application/json"])
def test_programs_are_told_in_json(stranger: httpx.Client, path: str, accept: str) -> None:
    response = stranger.get(path, headers={"Accept": accept})
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Request-ID"]
    if path == "/ready":
        assert response.json() == {"status": "ready"}
        return
    assert response.headers["Vary"] == "Accept"
    assert response.json()["version"]
    assert response.json()["uptime_seconds"] >= 0


def test_every_part_of_the_tree_is_told(stranger: httpx.Client) -> None:
    root, *children = parts_of(stranger.get("/up").json()["tree"])
    assert root["children"]
    for parent in (root, *children):
        siblings = [child["name"] for child in parent.get("children", ())]
        assert len(set(siblings)) == len(siblings)
    for child in children:
        assert child["state"] == "running"
        assert child["restarts"] == 0
        assert child["last_error"] is None
        assert child["uptime_seconds"] >= 0
    mailboxes = [child for child in children if "mailbox_depth" in child]
    assert len(mailboxes) >= 3  # disk writers, key-value store, auth cache
    for mailbox in mailboxes:
        assert mailbox["mailbox_depth"] >= 0
        assert "oldest_message_seconds" in mailbox


def test_eviction_is_told_in_totals(stranger: httpx.Client) -> None:
    eviction = stranger.get("/up").json()["eviction"]
    assert 0 < eviction.pop("used_percent") < 100
    assert eviction == {
        "running": False,
        "failure": None,
        "passes": 0,
        "artifacts": 0,
        "entries": 0,
        "bytes": 0,
        "last_pass": None,
    }


@pytest.mark.parametrize("accept", ["application/json", "text/html"])
def test_no_token_handle_or_path_is_told(
    stranger: httpx.Client, client: httpx.Client, accept: str
) -> None:
    secrets = [TOKEN, OTHER_TOKEN, PROJECT, "acme", "/tmp", "/cas", uploaded(client, b"abc")]  # noqa: S108
    secrets += [stored(client, "YQ=="), *LIMITS.values()]
    text = stranger.get("/up", headers={"Accept": accept}).text.lower()
    assert [secret for secret in secrets if len(secret) > 3 and secret.lower() in text] == []


def test_browsers_get_a_page_and_its_policy(stranger: httpx.Client) -> None:
    response = stranger.get("/up", headers={"Accept": "text/html, */*;q=0.8"})
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["Vary"] == "Accept"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["X-Request-ID"]
    assert response.headers["Content-Security-Policy"].startswith("default-src 'none';")
    assert "kv_store" in response.text
    head = stranger.head("/up", headers={"Accept": "text/html"})
    assert head.headers["Content-Type"] == "text/html; charset=utf-8"
    assert head.content == b""


@pytest.mark.parametrize("path", ["/up", "/ready"])
@pytest.mark.parametrize("query", ["", "?account_handle=..", "?x"])
def test_anybody_may_ask(stranger: httpx.Client, path: str, query: str) -> None:
    for headers in ({}, bearer(TOKEN), bearer("unknown")):
        assert stranger.get(path + query, headers=headers).status_code == 200


def test_metrics_are_told_by_the_service_itself_alone(front: str, stranger: httpx.Client) -> None:
    response = stranger.get("/metrics")
    if front not in {"direct", "workers"}:
        expect_error(response, 404, "Not Found")
        return
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert response.headers["Cache-Control"] == "no-store"
    assert "cache_actors_requests_total" in Scrape(response.text).families()
