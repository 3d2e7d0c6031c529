"""The cleaner takes a project away at once, removes it afterwards, and whatever it finds there."""

import errno
import time
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from cache_actors.actors import cleaner
from cache_actors.actors.cleaner import CHECK_TRASH_SECONDS, FILES_PER_STEP, Cleaner, CleanerClient
from cache_actors.storage.capacity import Capacity
from cache_actors.storage.errors import StorageError
from cache_actors.storage.files.store import FileStore
from cache_actors.storage.files.temporary import TemporaryFolder
from cache_actors.storage.known_cleans import known_clean
from cache_actors.storage.layout import CLEANS, TRASH, Project
from cache_actors.storage.trash import clean
from cache_actors.supervision import Actor, Mailbox, actor_child
from tests.supervision.small_actors import Root
from tests.support.metrics import Scrape, new_metrics
from tests.support.stored import APP, LIB, Stored

from .helpers import Log, Run, after, fail_at

FILES = 3 * FILES_PER_STEP + 1


class Cleaning:
    """A cleaner that runs, on a clock that only the test moves."""

    root: Root

    def __init__(self, store: FileStore) -> None:
        self.store = store
        self.metrics = new_metrics()
        self.log = Log()
        self.mailbox = Mailbox("cleaner", capacity=10)
        self.client = CleanerClient(self.mailbox.address)
        self.child = actor_child(self.mailbox, self.new_actor, shutdown=1)

    def new_actor(self) -> Actor:
        return Cleaner(self.store, self.metrics, trio.CapacityLimiter(1), self.log)

    def trash(self) -> list[Path]:
        return list((self.store.root / TRASH).glob("*"))

    def counted(self, what: str) -> float:
        return Scrape.of(self.metrics).value(f"cache_actors_cleaned_{what}_total")


@pytest.fixture
async def cleaning(store: FileStore, run_tree: Run, clock: MockClock) -> Cleaning:
    cleaning = Cleaning(store)
    cleaning.root = await run_tree(cleaning.child)
    await trio.testing.wait_all_tasks_blocked()
    return cleaning


def fill(storage: Path) -> None:
    stored = Stored(storage)
    for number in range(FILES):
        stored.artifact(number)
    stored.artifact(0, project=LIB)


async def test_project_is_gone_when_it_is_answered_and_its_files_soon(
    cleaning: Cleaning, storage: Path
) -> None:
    fill(storage)
    await cleaning.client.clean(APP)
    assert not APP.path(storage).exists()
    await trio.testing.wait_all_tasks_blocked()
    assert cleaning.trash() == []
    assert LIB.path(storage).exists()
    assert [cleaning.counted(what) for what in ("projects", "files")] == [1, FILES]
    assert cleaning.counted("bytes") == cleaning.log.of("trash_emptied")[0]["bytes"] > 0
    assert cleaning.log[0] == {"event": "project_cleaned", "project": "acme/app", "stored": True}


async def test_project_of_which_nothing_is_stored_is_clean(cleaning: Cleaning) -> None:
    await cleaning.client.clean(APP)
    assert cleaning.counted("projects") == 0
    assert cleaning.log == [{"event": "project_cleaned", "project": "acme/app", "stored": False}]


@pytest.mark.parametrize("is_shared", [True, False])
async def test_with_a_bucket_a_clean_is_known_before_anything_goes(
    cleaning: Cleaning, storage: Path, monkeypatch: pytest.MonkeyPatch, is_shared: bool
) -> None:
    fill(storage)
    known: list[int] = []

    def clean_and_look(root: Path, project: Project, *, durable: bool) -> bool:
        known.append(known_clean(root, project).time)
        return clean(root, project, durable=durable)

    monkeypatch.setattr(cleaner, "clean", clean_and_look)
    before = time.time_ns()
    actor = Cleaner(
        cleaning.store, cleaning.metrics, trio.CapacityLimiter(1), Log(), is_shared=is_shared
    )
    assert actor._clean(APP)
    assert (before <= known[0] <= time.time_ns()) is is_shared
    assert (storage / CLEANS).exists() is is_shared


async def test_what_others_have_left_is_removed_at_the_start_and_after_a_while(
    store: FileStore, storage: Path, run_tree: Run, clock: MockClock
) -> None:
    fill(storage)
    clean(storage, APP)
    cleaning = Cleaning(store)
    await run_tree(cleaning.child)
    await trio.testing.wait_all_tasks_blocked()
    assert cleaning.trash() == []
    clean(storage, LIB)
    await after(clock, CHECK_TRASH_SECONDS)
    assert cleaning.trash() == []


async def test_crash_loses_nothing(
    cleaning: Cleaning, storage: Path, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(storage)
    really_advance = cleaner._advance
    calls = 0

    def crash_once(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise RuntimeError("injected")
        return really_advance(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(cleaner, "_advance", crash_once)
    await cleaning.client.clean(APP)
    await after(clock, 1)
    assert cleaning.root.child("cleaner").restarts == 1
    assert cleaning.trash() == []
    assert cleaning.counted("files") == FILES


async def test_disk_that_fails_is_told_and_tried_again(
    cleaning: Cleaning, storage: Path, clock: MockClock
) -> None:
    fill(storage)
    with pytest.MonkeyPatch.context() as patch:
        fail_at(patch, "rename", errno.EIO)
        with pytest.raises(StorageError):
            await cleaning.client.clean(APP)
        assert APP.path(storage).exists()
    with pytest.MonkeyPatch.context() as patch:
        fail_at(patch, "unlink", errno.EIO)
        await cleaning.client.clean(APP)
        await trio.testing.wait_all_tasks_blocked()
    reason = "The storage failed: Input/output error"
    assert cleaning.log.of("clean_failed") == [{"event": "clean_failed", "reason": reason}]
    await after(clock, CHECK_TRASH_SECONDS)
    assert cleaning.trash() == []


async def test_limit_of_the_storages_own_is_counted_anew(
    storage: Path, temporary: TemporaryFolder, run_tree: Run, clock: MockClock
) -> None:
    capacity = Capacity(storage, max_bytes=1 << 30)
    capacity.note_scan(1 << 29)
    assert not capacity.needs_scan(0.05)
    cleaning = Cleaning(FileStore(storage, temporary, durable=True, capacity=capacity))
    await run_tree(cleaning.child)
    fill(storage)
    await cleaning.client.clean(APP)
    await trio.testing.wait_all_tasks_blocked()
    assert capacity.needs_scan(0.05)
