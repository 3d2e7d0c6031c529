"""Reports: the whole service, as the shared reports of its processes show it."""

import time
from collections.abc import Iterator
from dataclasses import replace

import msgspec
import pytest
import trio
import trio.testing

from cache_actors.metrics.request_event import RequestEvent, Responder, Route
from cache_actors.s3.status import SharedStatus
from cache_actors.supervision import STUCK_AFTER, State, Status
from cache_actors.workers.peers import PARENT, REPORT_SECONDS, ProcessReport, Reporter, WorkerPeers
from cache_actors.workers.shared_report import SharedReport
from tests.support.metrics import Scrape, new_metrics

NAMES = ("worker_1", "worker_2")
TREE = Status(
    "cache_actors",
    State.RUNNING,
    children=(Status("kv_store", State.RUNNING, restarts=3, last_error="OSError", depth=7),),
)
OWN_TREE = replace(TREE, children=(Status("kv_store", State.RUNNING, depth=0),))
PARENT_TREE = Status(
    PARENT,
    State.RUNNING,
    children=(*(Status(name, State.RUNNING) for name in NAMES), Status("acceptor", State.RUNNING)),
)


@pytest.fixture
def shared_reports() -> Iterator[dict[str, SharedReport]]:
    """The shared reports of a parent and two workers which all have just reported."""
    shared_reports = {name: SharedReport() for name in (PARENT, *NAMES)}
    put(shared_reports[PARENT], PARENT_TREE)
    for name in NAMES:
        put(shared_reports[name], TREE)
    yield shared_reports
    for shared_report in shared_reports.values():
        shared_report.close()


@pytest.fixture
def peers(shared_reports: dict[str, SharedReport]) -> WorkerPeers:
    """As `worker_1` sees them."""
    return WorkerPeers(shared_reports, "worker_1")


def put(shared_report: SharedReport, tree: Status, age: float = 0) -> None:
    """Put up a report that is `age` seconds old."""
    shared_report.write(msgspec.msgpack.encode(ProcessReport(tree, at=time.monotonic() - age)))


def test_workers_trees_are_below_them(peers: WorkerPeers) -> None:
    tree = peers.tree(OWN_TREE)
    assert [child.name for child in tree.children] == [*NAMES, "acceptor"]
    assert tree.children[0].children == OWN_TREE.children
    assert tree.children[1].children == TREE.children
    assert tree.is_healthy()


@pytest.mark.parametrize(
    ("name", "tree", "age", "stuck"),
    [
        ("worker_2", TREE, STUCK_AFTER + 1, ["worker_2"]),
        ("worker_2", None, 0, ["worker_2"]),
        ("worker_2", replace(TREE, children=(Status("kv_store", State.STARTING),)), 0, []),
        (PARENT, PARENT_TREE, STUCK_AFTER + 1, [PARENT]),
        (PARENT, None, 0, []),
    ],
    ids=["worker late", "worker silent", "child starting", "parent late", "parent silent"],
)
def test_whoever_reports_late_or_not_at_all_or_no_good_is_seen(
    shared_reports: dict[str, SharedReport],
    peers: WorkerPeers,
    name: str,
    tree: Status | None,
    age: float,
    stuck: list[str],
) -> None:
    put(shared_reports["worker_2"], TREE, age=STUCK_AFTER / 2)
    assert peers.tree(OWN_TREE).is_healthy()
    shared_reports[name].clear()
    if tree is not None:
        put(shared_reports[name], tree, age)
    seen = peers.tree(OWN_TREE)
    assert [each.name for each in (seen, *seen.children) if each.stuck] == stuck
    assert not seen.is_healthy()


def test_worker_that_does_not_run_is_shown_as_the_parent_knows_it(
    shared_reports: dict[str, SharedReport], peers: WorkerPeers
) -> None:
    down = Status("worker_2", State.STARTING, restarts=1, last_error="WorkerEnded")
    children = (PARENT_TREE.children[0], down, PARENT_TREE.children[2])
    put(shared_reports[PARENT], replace(PARENT_TREE, children=children))
    tree = peers.tree(OWN_TREE)
    assert tree.children[1] == down
    assert not tree.is_healthy()


async def test_reports_come_every_second_and_when_there_is_news(
    shared_reports: dict[str, SharedReport],
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
) -> None:
    taken = 0

    def report() -> ProcessReport:
        nonlocal taken
        taken += 1
        return ProcessReport(TREE)

    reporter = Reporter(shared_reports["worker_1"], report)
    stop = trio.Event()
    nursery.start_soon(reporter.run, stop, lambda: None)
    await trio.sleep(2.5 * REPORT_SECONDS)
    assert taken == 3
    reporter.report_soon()
    await trio.testing.wait_all_tasks_blocked()
    assert taken == 4
    stop.set()
    await trio.sleep(2.5 * REPORT_SECONDS)
    assert taken == 4


def test_what_workers_count_and_have_answered_is_told_together(
    shared_reports: dict[str, SharedReport], peers: WorkerPeers
) -> None:
    counted = {}
    for times, name in enumerate(NAMES, start=1):
        metrics = new_metrics()
        metrics.served(
            RequestEvent(Responder.SERVICE, Route.ENTRY_READ, 200, 0.01, 10, times=times)
        )
        counted[name] = metrics
        report = ProcessReport(TREE, metrics.render(), metrics.recent.history())
        shared_reports[name].write(msgspec.msgpack.encode(report))
    counted["worker_1"].served(
        RequestEvent(Responder.SERVICE, Route.ENTRY_READ, 200, 0.01, 10, times=10)
    )
    scrape = Scrape(peers.metrics(counted["worker_1"].render()).decode())
    assert scrape.value("cache_actors_requests_total", worker="worker_1") == 11
    assert scrape.value("cache_actors_requests_total", worker="worker_2") == 2
    assert scrape.value("cache_actors_child_running", worker=PARENT) == 3
    [other] = peers.histories()
    assert [step.requests for step in other.steps] == [2]


def test_service_stops_as_soon_as_one_worker_does(
    shared_reports: dict[str, SharedReport], peers: WorkerPeers
) -> None:
    assert peers.tree(OWN_TREE).state is State.RUNNING
    assert peers.tree(replace(OWN_TREE, state=State.STOPPING)).state is State.STOPPING
    put(shared_reports["worker_2"], replace(TREE, state=State.STOPPING))
    assert peers.tree(OWN_TREE).state is State.STOPPING


@pytest.mark.parametrize("name", [PARENT, "worker_2"])
def test_what_one_process_knows_of_a_successor_all_know(
    shared_reports: dict[str, SharedReport], peers: WorkerPeers, name: str
) -> None:
    assert not peers.is_replaced(own=False)
    assert peers.is_replaced(own=True)
    shared_reports[name].write(msgspec.msgpack.encode(ProcessReport(TREE, replaced=True)))
    assert peers.is_replaced(own=False)


def test_what_one_process_knows_of_nginx_all_tell(
    peers: WorkerPeers, shared_reports: dict[str, SharedReport]
) -> None:
    assert peers.nginx_troubles(()) == ()
    own = ("log_not_counted",)
    other = ProcessReport(
        Status("cache_actors", State.RUNNING), nginx_troubles=("files_not_opened",)
    )
    shared_reports["worker_2"].write(msgspec.msgpack.encode(other))
    assert peers.nginx_troubles(own) == ("files_not_opened", "log_not_counted")


def test_what_the_bucket_is_for_one_process_it_is_for_all(
    peers: WorkerPeers, shared_reports: dict[str, SharedReport]
) -> None:
    own = SharedStatus("ok", files=1)
    assert peers.shared(own) == own
    down = SharedStatus("unreachable", "no connection", 5.0, files=2)
    report = ProcessReport(Status("cache_actors", State.RUNNING), shared=down)
    shared_reports["worker_2"].write(msgspec.msgpack.encode(report))
    found = peers.shared(own)
    assert (found.state, found.reason, found.files) == ("unreachable", "no connection", 3)
