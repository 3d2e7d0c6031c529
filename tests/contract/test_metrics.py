"""`/metrics`: for clients on the service's own host, and for nobody through nginx."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.metrics import Scrape

from .examples import every_front, expect_error

if TYPE_CHECKING:
    import httpx


@every_front
def test_only_the_service_itself_tells_them(front: str, stranger: httpx.Client) -> None:
    response = stranger.get("/metrics")
    if front not in {"direct", "workers"}:
        expect_error(response, 404, "Not Found")
        return
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert response.headers["Cache-Control"] == "no-store"
    assert "cache_actors_requests_total" in Scrape(response.text).families()


def test_request_is_told_by_the_next(direct: httpx.Client) -> None:
    def asked() -> float:
        text = direct.get("/metrics").text
        return Scrape(text).value("cache_actors_requests_total", route="metrics", status="200")

    before = asked()
    assert asked() == before + 1


def test_other_methods(direct: httpx.Client) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        expect_error(direct.request(method, "/metrics"), 405)
