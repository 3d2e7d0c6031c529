"""Metrics of several processes as one answer."""

from cache_actors.metrics.merged import merged, of_tree
from cache_actors.metrics.served import By, Route, Served
from cache_actors.supervision import State, Status
from tests.support.metrics import Scrape, new_metrics


def rendered(requests: int) -> bytes:
    """What a process tells that has answered so many requests."""
    metrics = new_metrics()
    for _ in range(requests):
        metrics.served(Served(By.SERVICE, Route.ENTRY_READ, 200, 0.002, 10))
    return metrics.render()


def test_each_sample_says_of_which_worker_it_is() -> None:
    scrape = Scrape(merged({"worker_1": rendered(2), "worker_2": rendered(3)}).decode())
    assert scrape.value("cache_actors_requests_total", worker="worker_1") == 2
    assert scrape.value("cache_actors_requests_total", worker="worker_2") == 3
    assert scrape.value("cache_actors_requests_total") == 5
    assert scrape.value("cache_actors_request_duration_seconds_bucket", le="0.0025") == 5


def test_nothing_is_lost_and_nothing_told_twice() -> None:
    alone = Scrape(rendered(1).decode())
    together = Scrape(merged({"worker_1": rendered(1), "worker_2": rendered(1)}).decode())
    assert together.families() == alone.families()
    for kind in "HELP", "TYPE":
        lines = [line for line in together.text.splitlines() if line.startswith(f"# {kind} ")]
        assert len(lines) == len(set(lines)) == len(alone.families())


def test_process_that_counts_nothing_tells_of_its_tree() -> None:
    child = Status("worker_1", State.RUNNING, restarts=4)
    text = of_tree(Status("workers", State.RUNNING, children=(child,)))
    scrape = Scrape(merged({"workers": text, "worker_1": rendered(1)}).decode())
    assert scrape.value("cache_actors_restarts_total", worker="workers", child="worker_1") == 4
