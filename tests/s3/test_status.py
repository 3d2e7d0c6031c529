"""The status of the bucket: of all who ask it, in one process and in several."""

import pytest

from cache_actors.s3.status import Asker, SharedMonitor, SharedStatus, worst


@pytest.mark.parametrize("who", ["fetcher", "replicator"])
def test_bucket_is_as_it_is_for_whom_it_is_worst(who: Asker) -> None:
    monitor = SharedMonitor()
    other: Asker = "replicator" if who == "fetcher" else "fetcher"
    assert not monitor.note(other, "ok", None)
    assert monitor.status().state == "starting"
    assert monitor.note(who, "ok", None)
    assert monitor.status().state == "ok"
    assert monitor.note(who, "unreachable", "no connection")
    assert not monitor.note(other, "ok", None)
    assert (monitor.status().state, monitor.status().reason) == ("unreachable", "no connection")
    assert (monitor.fails(who), monitor.fails(other)) == (True, False)
    assert monitor.note(other, "misconfigured", "no such bucket")
    assert monitor.status().reason == "no such bucket"


def test_service_with_several_processes_has_the_worst_state_and_all_backlogs() -> None:
    fine = SharedStatus("ok", files=2, bytes=20, oldest=1.0, dropped=1)
    down = SharedStatus("unreachable", "no connection", 5.0, files=1, bytes=10, oldest=3.0)
    assert worst([fine, down]) == SharedStatus(
        "unreachable", "no connection", 5.0, files=3, bytes=30, oldest=3.0, dropped=1
    )
