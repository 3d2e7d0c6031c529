"""What `/metrics` tells."""

import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from cache_actors.metrics.registry import Metrics
from cache_actors.metrics.request_event import RequestEvent, Responder, Route
from cache_actors.storage.eviction.status import EvictionMonitor
from cache_actors.storage.health import StorageHealth
from tests.support.metrics import TREE, Scrape, new_metrics, told_metrics
from tests.support.programs import find_program

OPERATIONS = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"


@pytest.fixture
def metrics() -> Metrics:
    """All metrics, each with something to tell."""
    return told_metrics()


def test_promtool_finds_nothing_to_say(metrics: Metrics) -> None:
    promtool = find_program("promtool")
    run = subprocess.run(
        [promtool, "check", "metrics"], input=metrics.render(), capture_output=True, check=False
    )
    assert (run.returncode, run.stdout + run.stderr) == (0, b"")


def test_every_metric_is_in_the_documentation(metrics: Metrics) -> None:
    told = {name for name in Scrape.of(metrics).families() if name.startswith("cache_actors_")}
    documented = set(re.findall(r"^\| `(cache_actors_\w+)`", OPERATIONS.read_text(), re.MULTILINE))
    assert told == documented


def test_processes_have_registries_of_their_own() -> None:
    one, other = new_metrics(), new_metrics()
    one.decided("granted", "memory")
    assert Scrape.of(one).value("cache_actors_decisions_total") == 1
    assert Scrape.of(other).value("cache_actors_decisions_total") == 0


def test_equal_requests_count_as_many() -> None:
    metrics = new_metrics()
    metrics.served(RequestEvent(Responder.NGINX, Route.ARTIFACT_READ, 200, 0.02, 5000, times=50))
    metrics.served(RequestEvent(Responder.NGINX, Route.ARTIFACT_READ, 404, 0.0, 30))
    metrics.served(RequestEvent(Responder.SERVICE, Route.ARTIFACT_READ, 200, 0.001, 100))
    scrape = Scrape.of(metrics)
    assert scrape.value("cache_actors_requests_total", by="nginx", status="200") == 50
    assert scrape.value("cache_actors_reads_total", kind="artifact", result="hit") == 51
    assert scrape.value("cache_actors_reads_total", result="miss") == 1
    assert scrape.value("cache_actors_downloaded_bytes_total", by="nginx") == 5000
    seconds = "cache_actors_request_duration_seconds"
    assert scrape.value(seconds + "_count", by="nginx") == 51
    assert scrape.value(seconds + "_sum", by="nginx") == pytest.approx(1.0)
    assert scrape.value(seconds + "_bucket", by="nginx", le="0.01") == 1
    assert scrape.value(seconds + "_bucket", by="nginx", le="0.025") == 51
    assert scrape.value(seconds + "_bucket", by="service", le="0.001") == 1


def test_write_is_counted_by_what_has_become_of_it() -> None:
    metrics = new_metrics()
    for status, duplicate in (204, False), (204, True), (507, False):
        metrics.served(
            RequestEvent(
                Responder.SERVICE,
                Route.ARTIFACT_STORE,
                status,
                0.1,
                0,
                received=9,
                duplicate=duplicate,
            )
        )
    scrape = Scrape.of(metrics)
    for result in "stored", "duplicate", "storage_full":
        assert scrape.value("cache_actors_writes_total", kind="artifact", result=result) == 1
    assert scrape.value("cache_actors_uploaded_bytes_total", kind="artifact") == 27


def test_parts_of_a_module_are_bytes_of_modules() -> None:
    metrics = new_metrics()
    metrics.served(
        RequestEvent(Responder.SERVICE, Route.MODULE_PART, 204, 0.1, sent=0, received=1000)
    )
    scrape = Scrape.of(metrics)
    assert scrape.value("cache_actors_uploaded_bytes_total", kind="module") == 1000


def test_commit_that_fails_counts_too() -> None:
    metrics = new_metrics()

    def fail() -> None:
        with metrics.commit({"entry": 7}):
            raise OSError

    with pytest.raises(OSError):  # noqa: PT011
        fail()
    scrape = Scrape.of(metrics)
    assert scrape.value("cache_actors_commit_files_sum", kind="entry") == 7
    assert scrape.value("cache_actors_commit_duration_seconds_count", kind="entry") == 1


def test_tree_is_told_from_its_records(metrics: Metrics) -> None:
    scrape = Scrape.of(metrics)
    assert scrape.value("cache_actors_restarts_total") == 4
    assert scrape.value("cache_actors_restarts_total", child="below") == 1
    assert scrape.value("cache_actors_child_running", child="kv_store") == 1
    assert scrape.value("cache_actors_child_running", child="group") == 0
    assert scrape.value("cache_actors_mailbox_messages", child="kv_store") == 2
    assert scrape.value("cache_actors_mailbox_oldest_seconds", child="kv_store") == 0.5
    assert scrape.value("cache_actors_mailbox_wait_seconds_count", child="kv_store") == 10
    assert scrape.value("cache_actors_mailbox_wait_seconds_sum", child="kv_store") == 1.5


def test_evictions_are_told(metrics: Metrics) -> None:
    scrape = Scrape.of(metrics)
    assert scrape.value("cache_actors_evicted_total", kind="artifact") == 10
    assert scrape.value("cache_actors_evicted_total", kind="entry") == 20
    assert scrape.value("cache_actors_evicted_bytes_total") == 3000
    assert scrape.value("cache_actors_eviction_pass_seconds_sum") == 2
    assert scrape.value("cache_actors_eviction_failures_total") == 1
    assert scrape.value("cache_actors_stored_files", kind="artifact") == 7
    assert scrape.value("cache_actors_stored_bytes") == 9000
    assert scrape.value("cache_actors_youngest_evicted_seconds") == 60
    assert scrape.value("cache_actors_storage_used_ratio") == 0.5
    assert scrape.value("cache_actors_storage_high_watermark_ratio") == 0.85


def test_first_entry_without_its_artifact_is_an_increase() -> None:
    """Prometheus sees none where there was nothing before, and one such entry may be all."""
    labelled = 'cache_actors_missing_artifacts_total{result="%s"} 0.0'
    text = Scrape.of(new_metrics()).text
    assert labelled % "stored" in text
    assert labelled % "refused" in text


def test_storage_is_told_as_it_is_now() -> None:
    health = StorageHealth()
    metrics = Metrics(lambda: TREE, health.status, EvictionMonitor().status)
    assert "cache_actors_storage_free_bytes" not in Scrape.of(metrics).families()
    health.note_room(5000, 300)
    health.note([OSError(5, "no")])
    scrape = Scrape.of(metrics)
    assert scrape.value("cache_actors_storage_free_bytes") == 5000
    assert scrape.value("cache_actors_storage_free_inodes") == 300
    assert scrape.value("cache_actors_storage_state", state="failing") == 1
    assert scrape.value("cache_actors_storage_state", state="ok") == 0


def test_version_and_process_are_told(metrics: Metrics) -> None:
    scrape = Scrape.of(metrics)
    assert scrape.value("cache_actors_build_info", version=version("cache-actors")) == 1
    assert scrape.value("process_open_fds") > 0
