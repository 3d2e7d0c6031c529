"""Stores on a real disk that a test can hold up, and what runs the actors that write to them."""

import threading
from collections.abc import AsyncGenerator, Awaitable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import trio

from cache_actors.storage.files.store import (
    FileStore,
    Lookup,
    Publication,
    Published,
    Replacement,
    Version,
)
from cache_actors.storage.files.temporary import TemporaryFolder
from cache_actors.storage.layout import Key
from cache_actors.supervision import Actor, Mailbox, actor_child
from tests.supervision.small_actors import Root
from tests.support.metrics import new_metrics

from .helpers import CountingThreads, Tasks

GATE_SECONDS = 60.0


class Gate:
    """Where a thread waits while it is closed."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()
        self._reached = trio.Event()

    @contextmanager
    def closed(self) -> Iterator[None]:
        self._reached = trio.Event()
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    async def reached(self) -> None:
        """Return once a thread waits here."""
        with trio.fail_after(GATE_SECONDS):
            await self._reached.wait()

    def go_through(self) -> None:
        if not self._open.is_set():
            trio.from_thread.run_sync(self._reached.set)
            assert self._open.wait(GATE_SECONDS), "nobody has opened the gate"


class GatedStore(FileStore):
    """A store with gates before its loads, its replacements and its publications.

    No two publications of one artifact may overlap.

    Attributes:
        loads, replacements, publications: the batches so far.
    """

    def __init__(self, root: Path, temporary: TemporaryFolder, *, durable: bool) -> None:
        super().__init__(root, temporary, durable=durable)
        self.load_gate, self.replace_gate, self.publish_gate = Gate(), Gate(), Gate()
        self.loads: list[Sequence[Lookup]] = []
        self.replacements: list[Sequence[Replacement]] = []
        self.publications: list[Sequence[Publication]] = []
        self._publishing: set[str] = set()

    def load(self, batch: Sequence[Lookup]) -> list[Version | OSError | None]:
        self.loads.append(batch)
        self.load_gate.go_through()
        return super().load(batch)

    def replace(self, batch: Sequence[Replacement]) -> list[OSError | None]:
        self.replacements.append(batch)
        self.replace_gate.go_through()
        return super().replace(batch)

    def publish(self, batch: Sequence[Publication]) -> list[Published | OSError]:
        self.publications.append(batch)
        paths = {item.path for item in batch}
        assert not paths & self._publishing
        self._publishing |= paths
        try:
            self.publish_gate.go_through()
            return super().publish(batch)
        finally:
            self._publishing -= paths


class Storing(Tasks):
    """An actor that stores, in a tree of its own, and what it is given.

    Attributes:
        evictor: the mailbox of an evictor that does not run.
    """

    root: Root

    def __init__(self, nursery: trio.Nursery, store: GatedStore, mailbox: Mailbox) -> None:
        super().__init__(nursery)
        self.store = store
        self.mailbox = mailbox
        self.evictor = Mailbox("evictor", capacity=100)
        self.threads = CountingThreads()
        self.metrics = new_metrics()
        self.child = actor_child(mailbox, self.new_actor, shutdown=1)

    def new_actor(self) -> Actor:
        raise NotImplementedError

    def path(self, key: Key) -> Path:
        return key.path(self.store.root)

    def restarts(self) -> int:
        return self.root.child(self.mailbox.name).restarts

    @asynccontextmanager
    async def busy(self, gate: Gate, work: Awaitable[object]) -> AsyncGenerator[None, None]:
        """While the context lasts the actor is at `work`; what it is sent meanwhile waits."""
        with gate.closed():
            first = await self.begin(work)
            await gate.reached()
            yield
            assert not first.is_done()
        await first.result()
