"""What is known of eviction."""

from __future__ import annotations

from cache_actors.storage.eviction.last_pass import PassReport
from cache_actors.storage.eviction.status import EvictionMonitor


def test_failure_is_over_with_the_next_pass_but_has_been_counted() -> None:
    record = EvictionMonitor()
    record.note_failure("the disk cannot be read")
    record.note_failure("nor now")
    assert (record.status().failure, record.status().failures) == ("nor now", 2)
    record.note_pass(PassReport(100.0, 2.0, 10, 20, 3000, 60.0, 7, 8, 9000))
    assert (record.status().failure, record.status().failures) == (None, 2)
