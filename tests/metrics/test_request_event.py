"""What an answer means."""

import pytest

from cache_actors.metrics.request_event import RequestEvent, Responder, Route


def served(route: Route, status: int, *, duplicate: bool = False) -> RequestEvent:
    return RequestEvent(Responder.SERVICE, route, status, 0.001, 10, duplicate=duplicate)


@pytest.mark.parametrize("route", [Route.ARTIFACT_READ, Route.ENTRY_READ])
@pytest.mark.parametrize(
    ("status", "hit"),
    [
        (200, True),
        (206, True),
        (304, True),
        (404, False),
        (400, None),
        (401, None),
        (416, None),
        (499, None),
        (503, None),
    ],
)
def test_read_is_a_hit_a_miss_or_was_refused(route: Route, status: int, hit: bool | None) -> None:
    assert served(route, status).hit is hit
    assert served(route, status).outcome is None


READS = {
    Route.ARTIFACT_READ,
    Route.ENTRY_READ,
    Route.GRADLE_READ,
    Route.MODULE_READ,
    Route.BLOB_READ,
    Route.ACTION_READ,
}


@pytest.mark.parametrize("route", [route for route in Route if route not in READS])
def test_what_is_no_read_is_no_hit(route: Route) -> None:
    assert served(route, 200).hit is None
    assert served(route, 404).hit is None


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (204, "stored"),
        (400, "invalid"),
        (402, "payment_required"),
        (408, "stalled"),
        (409, "artifact_missing"),
        (413, "too_large"),
        (422, "wrong_digest"),
        (499, "client_left"),
        (500, "failed"),
        (503, "unavailable"),
        (507, "storage_full"),
        (0, "failed"),
    ],
)
def test_write_has_an_outcome(status: int, outcome: str) -> None:
    assert served(Route.ARTIFACT_STORE, status).outcome == outcome
    assert served(Route.ENTRY_STORE, status).outcome == outcome


def test_artifact_that_existed_is_a_duplicate() -> None:
    assert served(Route.ARTIFACT_STORE, 204, duplicate=True).outcome == "duplicate"
    assert served(Route.ARTIFACT_STORE, 401, duplicate=True).outcome == "unauthorized"


def test_errors_are_the_services_fault() -> None:
    assert [
        status for status in (200, 404, 499, 500, 503, 507) if served(Route.UP, status).is_error
    ] == [
        500,
        503,
        507,
    ]


def test_questions_of_nginx_and_operators_are_not_from_clients() -> None:
    inside = {route for route in Route if not served(route, 200).is_from_client}
    assert inside == {Route.DECISION, Route.UP, Route.READY, Route.METRICS}
