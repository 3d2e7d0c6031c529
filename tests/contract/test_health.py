"""`/up` and `/ready`: whether everything runs, and builds may come; for anybody, at any time."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.support.service import Service, running_service
from tests.support.waiting import eventually

from .examples import bearer, every_front, expect_error, parts_of, stored, uploaded
from .facts import LIMITS, OTHER_TOKEN, PROJECT, TOKEN
from .raw import AUTHORIZATION, HANDLES, RawConnection, RawResponse

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import httpx

    from .held_tuist import HeldTuist


pytestmark = every_front


def test_it_is_up(stranger: httpx.Client) -> None:
    response = stranger.get("/up")
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Request-ID"]
    health = response.json()
    assert health["version"]
    assert health["uptime_seconds"] >= 0


def test_uptime_grows(stranger: httpx.Client) -> None:
    def uptime() -> float:
        return float(stranger.get("/up").json()["uptime_seconds"])

    began, before = time.monotonic(), uptime()
    eventually(lambda: uptime() > before)
    assert uptime() - before <= time.monotonic() - began + 0.1  # in seconds, as we count them


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


@pytest.mark.parametrize("accept", ["application/json", "*/*", "text/html, application/json"])
def test_programs_get_json(stranger: httpx.Client, accept: str) -> None:
    response = stranger.get("/up", headers={"Accept": accept})
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Vary"] == "Accept"


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


def test_last_five_minutes_are_told(stranger: httpx.Client) -> None:
    recent = stranger.get("/up").json()["recent"]
    assert recent.pop("step_seconds") == 5
    assert {"requests_per_second", "hit_rate", "errors_per_second"} <= recent.keys()
    assert {"latency_ms_p50", "latency_ms_p95"} <= recent.keys()
    assert len({len(values) for values in recent.values()}) == 1
    assert all(len(values) <= 60 for values in recent.values())


def test_it_is_ready(stranger: httpx.Client) -> None:
    response = stranger.get("/ready")
    assert response.status_code == 200
    assert response.json() == {"status": "ready"}
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Request-ID"]


@pytest.mark.parametrize("path", ["/up", "/ready"])
@pytest.mark.parametrize("query", ["", "?account_handle=..", "?x"])
def test_anybody_may_ask(stranger: httpx.Client, path: str, query: str) -> None:
    for headers in ({}, bearer(TOKEN), bearer("unknown")):
        assert stranger.get(path + query, headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/up", "/ready"])
def test_other_methods(stranger: httpx.Client, path: str) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        response = stranger.request(method, path)
        expect_error(response, 405)
        assert "GET" in response.headers["Allow"]


def test_it_answers_while_others_wait(
    connect: Callable[[], RawConnection],
    stranger: httpx.Client,
    client: httpx.Client,
    changeable_tuist: HeldTuist,
    new_token: Callable[..., str],
) -> None:
    """Slow uploads and a slow Tuist server hinder nobody."""
    for number in range(20):
        connect().begin(
            f"POST /api/cache/cas/SLOW{number}?{HANDLES}", AUTHORIZATION, "Content-Length: 1000"
        )
    token = new_token(PROJECT)
    with ThreadPoolExecutor(10) as threads, changeable_tuist.held(token):
        for _ in range(10):
            threads.submit(client.get, "/api/cache/cas/A", headers=bearer(token))
        changeable_tuist.wait_for_questions(token)
        assert [stranger.get("/up").status_code for _ in range(5)] == [200] * 5


def test_draining_service_is_not_up_and_finishes_what_it_has(
    tuist: HeldTuist, tmp_path: Path
) -> None:
    """A service of its own, which is told to stop in the middle of an upload."""
    with running_service(Service(tmp_path / "cas", tuist.url, LIMITS)) as service:
        assert service.process is not None
        with RawConnection(service.url) as upload, RawConnection(service.url) as health:
            upload.begin(f"POST /api/cache/cas/A?{HANDLES}", AUTHORIZATION, "Content-Length: 2")
            upload.send(b"a")
            assert health.ask("GET /up").status_code == 200
            service.process.terminate()

            def asked(*headers: str, path: str = "/up") -> RawResponse:
                with RawConnection(service.url) as later:
                    return later.ask(f"GET {path}", *headers)

            eventually(lambda: asked().status_code == 503)
            assert asked().json()["tree"]
            not_ready = asked(path="/ready")
            assert (not_ready.status_code, not_ready.json()) == (503, {"status": "draining"})
            page = asked("Accept: text/html")
            assert page.status_code == 503
            assert page.headers["Content-Type"].startswith("text/html")
            upload.send(b"b")
            assert upload.response().status_code == 204
        assert service.wait() == 0
