"""Reports: the whole service, as the boards of its processes show it."""

import time
from collections.abc import Iterator
from dataclasses import replace

import msgspec
import pytest
import trio
import trio.testing

from cache_actors.metrics.served import By, Route, Served
from cache_actors.supervision import STUCK_AFTER, State, Status
from cache_actors.workers.board import Board
from cache_actors.workers.reports import PARENT, REPORT_SECONDS, Everybody, Report, Reporter
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
def boards() -> Iterator[dict[str, Board]]:
    """The boards of a parent and two workers which all have just reported."""
    boards = {name: Board() for name in (PARENT, *NAMES)}
    put(boards[PARENT], PARENT_TREE)
    for name in NAMES:
        put(boards[name], TREE)
    yield boards
    for board in boards.values():
        board.close()


@pytest.fixture
def everybody(boards: dict[str, Board]) -> Everybody:
    """As `worker_1` sees them."""
    return Everybody(boards, "worker_1")


def put(board: Board, tree: Status, age: float = 0) -> None:
    """Put up a report that is `age` seconds old."""
    board.write(msgspec.msgpack.encode(Report(tree, at=time.monotonic() - age)))


def test_workers_trees_are_below_them(everybody: Everybody) -> None:
    tree = everybody.tree(OWN_TREE)
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
    boards: dict[str, Board],
    everybody: Everybody,
    name: str,
    tree: Status | None,
    age: float,
    stuck: list[str],
) -> None:
    put(boards["worker_2"], TREE, age=STUCK_AFTER / 2)
    assert everybody.tree(OWN_TREE).is_healthy()
    boards[name].clear()
    if tree is not None:
        put(boards[name], tree, age)
    seen = everybody.tree(OWN_TREE)
    assert [each.name for each in (seen, *seen.children) if each.stuck] == stuck
    assert not seen.is_healthy()


def test_worker_that_does_not_run_is_shown_as_the_parent_knows_it(
    boards: dict[str, Board], everybody: Everybody
) -> None:
    down = Status("worker_2", State.STARTING, restarts=1, last_error="WorkerEnded")
    children = (PARENT_TREE.children[0], down, PARENT_TREE.children[2])
    put(boards[PARENT], replace(PARENT_TREE, children=children))
    tree = everybody.tree(OWN_TREE)
    assert tree.children[1] == down
    assert not tree.is_healthy()


async def test_reports_come_every_second_and_when_there_is_news(
    boards: dict[str, Board], nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    taken = 0

    def report() -> Report:
        nonlocal taken
        taken += 1
        return Report(TREE)

    reporter = Reporter(boards["worker_1"], report)
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
    boards: dict[str, Board], everybody: Everybody
) -> None:
    counted = {}
    for times, name in enumerate(NAMES, start=1):
        metrics = new_metrics()
        metrics.served(Served(By.SERVICE, Route.ENTRY_READ, 200, 0.01, 10, times=times))
        counted[name] = metrics
        report = Report(TREE, metrics.render(), metrics.recent.history())
        boards[name].write(msgspec.msgpack.encode(report))
    counted["worker_1"].served(Served(By.SERVICE, Route.ENTRY_READ, 200, 0.01, 10, times=10))
    scrape = Scrape(everybody.metrics(counted["worker_1"].render()).decode())
    assert scrape.value("cache_actors_requests_total", worker="worker_1") == 11
    assert scrape.value("cache_actors_requests_total", worker="worker_2") == 2
    assert scrape.value("cache_actors_child_running", worker=PARENT) == 3
    [other] = everybody.histories()
    assert [step.requests for step in other.steps] == [2]


def test_service_stops_as_soon_as_one_worker_does(
    boards: dict[str, Board], everybody: Everybody
) -> None:
    assert everybody.tree(OWN_TREE).state is State.RUNNING
    assert everybody.tree(replace(OWN_TREE, state=State.STOPPING)).state is State.STOPPING
    put(boards["worker_2"], replace(TREE, state=State.STOPPING))
    assert everybody.tree(OWN_TREE).state is State.STOPPING


@pytest.mark.parametrize("name", [PARENT, "worker_2"])
def test_what_one_process_knows_of_a_successor_all_know(
    boards: dict[str, Board], everybody: Everybody, name: str
) -> None:
    assert not everybody.is_replaced(own=False)
    assert everybody.is_replaced(own=True)
    boards[name].write(msgspec.msgpack.encode(Report(TREE, replaced=True)))
    assert everybody.is_replaced(own=False)


def test_what_one_process_knows_of_nginx_all_tell(
    everybody: Everybody, boards: dict[str, Board]
) -> None:
    assert everybody.nginx_troubles(()) == ()
    own = ("log_not_counted",)
    other = Report(Status("cache_actors", State.RUNNING), nginx_troubles=("files_not_opened",))
    boards["worker_2"].write(msgspec.msgpack.encode(other))
    assert everybody.nginx_troubles(own) == ("files_not_opened", "log_not_counted")
