"""The replicator: what it tells its process, and what it makes of reports and of its death."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from cache_actors.actor_process.framing import framed
from cache_actors.actors import bucket_process
from cache_actors.actors import replicator as module
from cache_actors.actors.replicator import Replicator, ReplicatorClient
from cache_actors.kinds import Kind
from cache_actors.replicator_process.protocol import (
    Announcement,
    FinishedFile,
    ReplicatorConfig,
    Report,
)
from cache_actors.s3.config import BucketConfig
from cache_actors.s3.report import BucketReport
from cache_actors.s3.status import SharedMonitor
from cache_actors.storage.layout import Key, StoredKey
from cache_actors.supervision import Mailbox, actor_child
from tests.support.metrics import new_metrics
from tests.support.waiting import eventually_async

from .helpers import PROJECT, Log, Run, artifact

ENTRY = Key(PROJECT, Kind.KEYVALUE, "0~A")

SCRIPT = """
import json, pathlib, socket, struct, sys
config = json.loads(sys.argv[-1])
folder = pathlib.Path(config["root"])
channel = socket.socket(fileno=config["channel"])
with channel.makefile("rb") as stream:
    while (folder / "reports").exists():
        channel.sendall((folder / "reports").read_bytes())
        with (folder / "told").open("ab") as told:
            size = stream.read(4)
            if not size:
                break
            told.write(size + stream.read(*struct.unpack(">I", size)))
"""
"""A process that keeps what it is told, and sends what a test has written for it before each."""


class World:
    """A replicator with a stand-in for its process, which reports what the test says."""

    def __init__(self, folder: Path, wait: float) -> None:
        self.folder = folder
        self.mailbox = Mailbox("replicator", capacity=4)
        self.monitor = SharedMonitor()
        self.monitor.note("fetcher", "ok", None)
        self.log = Log()
        self.client = ReplicatorClient(self.mailbox.address, self.monitor, entries=True, wait=wait)
        self.report()

    def report(self, *finished: Key, state: str = "ok", reason: str | None = None) -> None:
        """What the process says next."""
        done = reason is None
        files = [FinishedFile(key.place, done, reason, 0.1) for key in finished]
        (self.folder / "reports").write_bytes(
            framed(Report(BucketReport(state), 7, 70, 1.5, files, []))
        )

    def told(self) -> list[Announcement]:
        """What the process has been told."""
        data = (self.folder / "told").read_bytes() if (self.folder / "told").exists() else b""
        found = []
        while data:
            size = int.from_bytes(data[:4], "big")
            found.append(msgspec.msgpack.decode(data[4 : 4 + size], type=Announcement))
            data = data[4 + size :]
        return found

    def new(self) -> Replicator:
        def config(channel: int) -> ReplicatorConfig:
            bucket = BucketConfig("builds")
            return ReplicatorConfig(channel, str(self.folder), bucket, "http://tuist", 16, True)

        return Replicator(config, self.monitor, new_metrics(), self.log)


@pytest.fixture
async def world(tmp_path: Path, run_tree: Run, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(module, "COMMAND", (sys.executable, "-c", SCRIPT))
    monkeypatch.setattr(bucket_process, "RESTART_SECONDS", 0.01)
    world = World(tmp_path, wait=60)
    await run_tree(actor_child(world.mailbox, world.new, shutdown=10))
    await eventually_async(lambda: world.monitor.status().state == "ok")
    return world


def stored(*keys: Key) -> list[StoredKey]:
    return [StoredKey(key, 4096) for key in keys]


@asynccontextmanager
async def waiting_for_a(world: World) -> AsyncIterator[trio.Nursery]:
    """Artifact A has been stored, and a task of the nursery waits until it is in the bucket."""
    await world.client.stored(stored(artifact("A")))
    await eventually_async(lambda: world.told())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.client.shared, artifact("A"))
        await trio.testing.wait_all_tasks_blocked()
        yield nursery


async def test_process_is_told_what_is_stored_and_its_report_is_noted(world: World) -> None:
    await world.client.stored(stored(artifact("A"), ENTRY))
    await eventually_async(lambda: world.told())
    [told] = world.told()
    assert [each.place for each in told.files] == [artifact("A").place, ENTRY.place]
    assert told.complete
    status = world.monitor.status()
    assert (status.files, status.bytes, status.oldest) == (7, 70, 1.5)


async def test_wait_ends_with_the_report_of_that_file(world: World) -> None:
    async with waiting_for_a(world) as nursery:
        assert nursery.child_tasks
        world.report(artifact("A"))
        await world.client.stored(stored(artifact("B")))  # its report comes with the next


async def test_wait_goes_on_if_a_file_is_left_to_be_tried_again(world: World) -> None:
    async with waiting_for_a(world) as nursery:
        world.report(artifact("A"), reason="503 SlowDown")
        await world.client.stored(stored(artifact("B")))
        await eventually_async(lambda: world.log.of("replication_failed"))
        assert nursery.child_tasks
        world.report(artifact("A"))
        await world.client.stored(stored(artifact("C")))


async def test_nobody_waits_for_what_is_done_or_for_a_bucket_that_fails(world: World) -> None:
    with trio.fail_after(30):
        await world.client.shared(artifact("never told of"))
        async with waiting_for_a(world):
            world.report(state="unreachable")
            await world.client.stored(stored(artifact("B")))
        await world.client.shared(artifact("A"))


async def test_wait_is_for_a_bucket_that_takes_what_is_put_though_it_gives_nothing(
    world: World,
) -> None:
    world.monitor.note("fetcher", "unreachable", "no answer in time")
    async with waiting_for_a(world) as nursery:
        assert nursery.child_tasks
        nursery.cancel_scope.cancel()


async def test_process_that_dies_is_replaced_and_hurts_nobody(world: World) -> None:
    async with waiting_for_a(world):
        (world.folder / "reports").unlink()
        await world.client.stored(stored(artifact("B")))  # has it end
    assert world.monitor.status().state == "unreachable"
    assert "has ended" in str(world.monitor.status().reason)
    world.report()
    await eventually_async(lambda: world.monitor.status().state == "ok")
    assert world.log.of("replicator_process_died")
    await world.client.stored(stored(artifact("C")))
    await eventually_async(lambda: world.told()[-1].files[-1].place == artifact("C").place)


async def test_process_that_says_nothing_or_nonsense_is_replaced(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_process, "SILENCE_SECONDS", 0.2)
    await world.client.stored(stored(artifact("A")))  # one more report comes after that
    await eventually_async(lambda: world.log.of("replicator_process_died"))
    (world.folder / "reports").write_bytes(b"\0\0\0\1x")
    await eventually_async(lambda: len(world.log.of("replicator_process_died")) > 3)
    world.report()
    monkeypatch.setattr(bucket_process, "SILENCE_SECONDS", 60.0)
    await eventually_async(lambda: world.monitor.status().state == "ok")


async def test_what_a_full_mailbox_has_no_room_for_is_looked_for(
    tmp_path: Path, run_tree: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COMMAND", (sys.executable, "-c", SCRIPT))
    world = World(tmp_path, wait=0)
    for name in "ABCDEF":
        await world.client.stored(stored(artifact(name)))
    assert world.mailbox.depth() == 4
    await run_tree(actor_child(world.mailbox, world.new, shutdown=10))
    await eventually_async(lambda: any(not each.complete for each in world.told()))


async def test_entries_are_not_told_of_if_they_are_not_to_go_there() -> None:
    mailbox = Mailbox("replicator", capacity=4)
    client = ReplicatorClient(mailbox.address, SharedMonitor(), entries=False, wait=60)
    await client.stored(stored(ENTRY))
    assert mailbox.depth() == 0
    with trio.fail_after(30):
        await client.shared(ENTRY)
