"""The fetcher: who waits for whom, for how long, and what the death of its process means."""

from collections import deque
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from cache_actors.actor_process.client import ProcessDied
from cache_actors.actors import bucket_process
from cache_actors.actors import fetcher as module
from cache_actors.actors.fetcher import CleanUntold, Fetcher, FetcherClient
from cache_actors.fetcher_process.protocol import (
    MAX_FLIGHTS,
    FetcherConfig,
    FollowedClean,
    Noticed,
    PullReport,
    PullRequest,
    StoredFile,
    TellRequest,
)
from cache_actors.kinds import Kind
from cache_actors.metrics.registry import Metrics
from cache_actors.s3.outcome import Outcome
from cache_actors.s3.report import BucketReport
from cache_actors.s3.status import SharedMonitor
from cache_actors.storage.capacity import Capacity
from cache_actors.storage.eviction.status import EvictionMonitor
from cache_actors.storage.health import StorageHealth
from cache_actors.storage.layout import Key, Project, StoredKey
from cache_actors.supervision import Mailbox, State, Status, actor_child

from .helpers import PROJECT, Log, Run, artifact

OTHER = Project("acme", "other")
ENTRY = Key(PROJECT, Kind.KEYVALUE, "0~A")
BUDGET = 0.25


class Process:
    """A stand-in for the process: it keeps what it is asked for, and says what the test says."""

    def __init__(self) -> None:
        self.asked: deque[Any] = deque()
        self.says, self._reports = trio.open_memory_channel[PullReport](100)

    async def start(self, _command: object, _config: object) -> None:
        """Start."""

    async def end(self, *, kill: bool) -> None:
        """End."""

    async def send(self, message: PullRequest | TellRequest) -> None:
        self.asked.append(message)

    async def receive(self, _decode: object) -> PullReport:
        try:
            return await self._reports.receive()
        except trio.EndOfChannel:
            raise ProcessDied("killed") from None

    def places(self) -> list[str]:
        return [request.place for request in self.asked if isinstance(request, PullRequest)]


class World:
    """A fetcher with stand-ins for its processes."""

    def __init__(self, folder: Path) -> None:
        self.mailbox = Mailbox("fetcher", capacity=4096)
        self.monitor = SharedMonitor()
        self.metrics = Metrics(
            lambda: Status("root", State.RUNNING),
            StorageHealth().status,
            EvictionMonitor().status,
            self.monitor.status,
        )
        self.log = Log()
        self.client = FetcherClient(self.mailbox.address, BUDGET, self.metrics, entries=True)
        self.capacity = Capacity(folder)
        self.processes: list[Process] = []
        self.announced: list[StoredKey] = []

    @property
    def process(self) -> Process:
        return self.processes[-1]

    def new_process(self) -> Process:
        self.processes.append(Process())
        return self.process

    def new(self) -> Fetcher:
        async def announce(batch: Any) -> None:
            self.announced += batch

        def config(_channel: int) -> FetcherConfig:
            raise AssertionError("the stand-in needs none")

        return Fetcher(config, self.capacity, announce, self.monitor, self.metrics, self.log)

    async def report(self, *outcomes: tuple[str, Outcome], **more: Any) -> None:
        """Have the process report the outcomes of what it was asked for, by place."""
        numbers = {r.place: r.number for r in self.process.asked if isinstance(r, PullRequest)}
        found = [(numbers[place], outcome) for place, outcome in outcomes]
        empty: dict[str, Any] = {"bucket": BucketReport("ok"), "stored": [], "noticed": []}
        empty |= {"told": [], "followed": [], "troubles": []}
        await self.process.says.send(PullReport(outcomes=found, **(empty | more)))
        await trio.testing.wait_all_tasks_blocked()


@pytest.fixture
async def world(
    tmp_path: Path, run_tree: Run, monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> World:
    world = World(tmp_path)
    monkeypatch.setattr(bucket_process, "ActorProcess", world.new_process)
    await run_tree(actor_child(world.mailbox, world.new, shutdown=10))
    await trio.testing.wait_all_tasks_blocked()
    return world


class Asking:
    """Requests for files, each in a task of its own, and their outcomes as they come."""

    def __init__(self, world: World, nursery: trio.Nursery) -> None:
        self._world = world
        self._nursery = nursery
        self.outcomes: list[Outcome] = []

    async def ask(self, *keys: Key) -> None:
        for key in keys:
            self._nursery.start_soon(self._ask, key)
        await trio.testing.wait_all_tasks_blocked()

    async def _ask(self, key: Key) -> None:
        self.outcomes.append(await self._world.client.pull(key))


@pytest.fixture
async def asking(world: World, nursery: trio.Nursery) -> Asking:
    return Asking(world, nursery)


async def test_all_who_ask_for_a_file_wait_for_one_flight(world: World, asking: Asking) -> None:
    key = artifact("A")
    await asking.ask(key, key, key)
    assert world.process.places() == [key.place]
    await world.report((key.place, Outcome.HERE), stored=[StoredFile(key.place, 4096)])
    assert asking.outcomes == [Outcome.HERE] * 3
    assert world.announced == [StoredKey(key, 4096)]
    await asking.ask(key)
    assert len(world.process.places()) == 2


async def test_entry_that_is_not_answered_within_the_budget_is_unknown_and_goes_on(
    world: World, asking: Asking
) -> None:
    began = trio.current_time()
    assert await world.client.pull(ENTRY) is Outcome.UNKNOWN
    assert trio.current_time() - began == pytest.approx(BUDGET)
    await asking.ask(ENTRY)
    assert world.process.places() == [ENTRY.place]
    await world.report((ENTRY.place, Outcome.HERE))
    assert asking.outcomes == [Outcome.HERE]


async def test_entry_that_is_found_has_the_budget_of_its_artifacts(
    world: World, asking: Asking
) -> None:
    await asking.ask(ENTRY)
    await world.report((ENTRY.place, Outcome.COMING))
    await trio.sleep(module.ARTIFACT_SECONDS - 1)
    assert asking.outcomes == []
    await world.report()
    await asking.ask(ENTRY)
    await trio.sleep(1.1)
    assert asking.outcomes == [Outcome.UNKNOWN]
    await world.report((ENTRY.place, Outcome.HERE))
    assert asking.outcomes == [Outcome.UNKNOWN, Outcome.HERE]


async def test_project_with_many_misses_leaves_others_their_share(
    world: World, asking: Asking
) -> None:
    many = [artifact(f"A{number}") for number in range(2 * MAX_FLIGHTS)]
    await asking.ask(*many)
    asked = world.process.places()
    assert len(asked) == MAX_FLIGHTS // 2
    other = Key(OTHER, Kind.CAS, "B")
    await asking.ask(other)
    assert world.process.places()[-1] == other.place
    await world.report((asked[0], Outcome.ABSENT))
    assert len(world.process.places()) == len(asked) + 1, "the first has more than its half now"
    await world.report(*((place, Outcome.ABSENT) for place in [*asked[1:], other.place]))
    assert len(world.process.places()) == MAX_FLIGHTS + 1


async def test_flight_that_nobody_waits_for_any_more_is_not_begun(
    world: World, asking: Asking
) -> None:
    many = [artifact(f"A{number}") for number in range(MAX_FLIGHTS // 2)]
    await asking.ask(*many)
    assert await world.client.pull(ENTRY) is Outcome.UNKNOWN
    await world.report(*((key.place, Outcome.HERE) for key in many))
    assert ENTRY.place not in world.process.places()


async def test_flood_is_refused_at_once_beyond_a_limit(
    world: World, asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [artifact(f"A{number}") for number in range(module.MAX_WAITING)]
    await asking.ask(*many)
    assert asking.outcomes == [Outcome.UNKNOWN] * (module.MAX_WAITING // 2)
    await asking.ask(Key(OTHER, Kind.CAS, "B"))
    assert len(asking.outcomes) == module.MAX_WAITING // 2


async def test_death_of_the_process_is_a_miss_and_the_next_one_answers(
    world: World, asking: Asking
) -> None:
    await asking.ask(artifact("A"))
    world.process.says.close()
    await trio.testing.wait_all_tasks_blocked()
    assert asking.outcomes == [Outcome.UNKNOWN]
    assert await world.client.pull(artifact("B")) is Outcome.UNKNOWN
    with pytest.raises(CleanUntold):
        await world.client.tell_cleans()
    await trio.sleep(bucket_process.RESTART_SECONDS + 0.1)
    assert len(world.processes) == 2
    await asking.ask(artifact("A"))
    await world.report((artifact("A").place, Outcome.ABSENT))
    assert asking.outcomes[-1] is Outcome.ABSENT
    assert [line["reason"] for line in world.log.of("fetcher_process_died")] == ["killed"]


async def test_process_that_has_not_reported_for_seconds_is_not_waited_for(
    world: World, asking: Asking
) -> None:
    await asking.ask(artifact("A"))
    await trio.sleep(bucket_process.QUIET_SECONDS + 1.1)
    assert world.monitor.status().reason == "the fetcher's process says nothing"
    await asking.ask(artifact("A"), artifact("B"), ENTRY)
    assert asking.outcomes == [Outcome.UNKNOWN] * 3
    assert world.process.places() == [artifact("A").place]
    await world.report()
    assert not world.monitor.fails("fetcher")
    await asking.ask(artifact("B"))
    await world.report(*((each.place, Outcome.HERE) for each in (artifact("A"), artifact("B"))))
    assert asking.outcomes[3:] == [Outcome.HERE] * 2


async def test_process_that_hangs_is_replaced_and_all_that_is_told_of_the_bucket_says_so(
    world: World, asking: Asking
) -> None:
    world.monitor.note("replicator", "ok", None)
    await world.report()
    assert world.monitor.status().state == "ok"
    await trio.sleep(bucket_process.SILENCE_SECONDS - 1)
    await world.report()
    await asking.ask(artifact("A"))
    await trio.sleep(bucket_process.SILENCE_SECONDS + 0.1)
    assert asking.outcomes == [Outcome.UNKNOWN]
    status = world.monitor.status()
    assert status.state == "unreachable"
    assert status.reason == "the fetcher's process has ended: it says nothing"
    assert 'shared_state{state="unreachable"} 1.0' in world.metrics.render().decode()
    assert [line["event"] for line in world.log][-2:] == ["shared_state", "fetcher_process_died"]
    await trio.sleep(bucket_process.RESTART_SECONDS)
    assert len(world.processes) == 2
    await world.report()
    assert world.monitor.status().state == "ok"


async def test_process_in_which_a_request_does_not_end_is_replaced(world: World) -> None:
    await world.report(bucket=BucketReport("ok", is_stuck=True))
    [line] = world.log.of("fetcher_process_died")
    assert "does not end" in line["reason"]
    await trio.sleep(bucket_process.RESTART_SECONDS + 0.1)
    assert len(world.processes) == 2


async def test_cleans_are_told_once_the_process_says_so_or_why_not(
    world: World, nursery: trio.Nursery
) -> None:
    done: list[str] = []

    async def tell() -> None:
        try:
            await world.client.tell_cleans()
        except CleanUntold as error:
            done.append(str(error))
        else:
            done.append("told")

    for _ in range(2):
        nursery.start_soon(tell)
        await trio.testing.wait_all_tasks_blocked()
    first, second = (each.number for each in world.process.asked)
    assert done == []
    await world.report(told=[(first, None)])
    await world.report(told=[(second, "down")])
    assert done == ["told", "down"]


async def test_clean_of_another_node_is_counted_and_logged(world: World) -> None:
    await world.report(followed=[FollowedClean("acme", "other", 3, 8192)], troubles=["full"])
    text = world.metrics.render().decode()
    for what, value in ("projects", 1), ("files", 3), ("bytes", 8192):
        assert f"cache_actors_cleaned_{what}_total {value}.0" in text
    assert list(world.log) == [
        {"event": "clean_followed", "project": "acme/other", "files": 3, "bytes": 8192},
        {"event": "clean_failed", "reason": "full"},
    ]


@pytest.mark.parametrize(
    ("outcome", "metric"),
    [
        (Outcome.HERE, "hits"),
        (Outcome.ABSENT, "misses"),
        (Outcome.CLEANED, "misses"),
        (Outcome.UNUSABLE, "misses"),
        (Outcome.UNKNOWN, "shed"),
    ],
)
async def test_outcomes_and_what_was_wrong_are_counted(
    world: World, asking: Asking, outcome: Outcome, metric: str
) -> None:
    key = artifact("A")
    await asking.ask(key)
    noticed = [Noticed("dangling", key.place, "gone")]
    await world.report((key.place, outcome), noticed=noticed)
    text = world.metrics.render().decode()
    assert f'cache_actors_shared_{metric}_total{{kind="artifact"}} 1.0' in text
    assert "cache_actors_shared_dangling_total 1.0" in text
    assert len(world.log.of("pull_dangling")) == 1
