"""`/ready`, in states that a running service is in for a moment only, and without any actor."""

from types import SimpleNamespace

import pytest

from cache_actors.http import health
from cache_actors.http.in_flight import InFlight
from cache_actors.storage.health import StorageHealth
from cache_actors.supervision import State, Status


@pytest.mark.parametrize(
    ("tree", "draining", "error", "expected"),
    [
        (State.RUNNING, False, None, (200, b'{"status":"ready"}')),
        (State.STARTING, False, None, (503, b'{"status":"starting"}')),
        (State.STOPPING, False, None, (503, b'{"status":"draining"}')),
        (State.RUNNING, True, None, (503, b'{"status":"draining"}')),
        (State.RUNNING, False, OSError(28, "full"), (503, b'{"status":"storage_full"}')),
        (State.RUNNING, False, OSError(5, "failing"), (503, b'{"status":"storage_failing"}')),
    ],
)
async def test_ready_says_whether_builds_may_come(
    monkeypatch: pytest.MonkeyPatch,
    tree: State,
    draining: bool,
    error: OSError | None,
    expected: tuple[int, bytes],
) -> None:
    storage, in_flight = StorageHealth(), InFlight()
    storage.note([error])
    in_flight.draining = draining
    services = SimpleNamespace(status=lambda: Status("root", tree), storage=storage.status)
    app = SimpleNamespace(services=services, in_flight=in_flight)
    monkeypatch.setattr(health, "app", lambda: app)
    response = await health.ready()
    assert (response.status_code, await response.get_data()) == expected
