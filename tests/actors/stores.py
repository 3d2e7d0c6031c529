"""Stores on a real disk that a test can hold up, and that tell what they were asked."""

import threading
from collections.abc import Sequence
from pathlib import Path

import trio

from cache_actors.storage.files import (
    FileStore,
    Lookup,
    Publication,
    Published,
    Replacement,
    Version,
)
from cache_actors.storage.temporary import TemporaryFolder

GATE_SECONDS = 60.0


class Gate:
    """Where a thread waits, once it is closed, until it is opened."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()
        self._reached = trio.Event()

    def close(self) -> None:
        self._reached = trio.Event()
        self._open.clear()

    def open(self) -> None:
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

    Attributes:
        loads, replacements, publications: the batches so far.
        most_at_once: by path, how many publications there have been at one time.
    """

    def __init__(self, root: Path, temporary: TemporaryFolder, *, durable: bool) -> None:
        super().__init__(root, temporary, durable=durable)
        self.load_gate, self.replace_gate = Gate(), Gate()
        self.publish_gates: dict[Path, Gate] = {}
        self.loads: list[Sequence[Lookup]] = []
        self.replacements: list[Sequence[Replacement]] = []
        self.publications: list[Sequence[Publication]] = []
        self.most_at_once: dict[Path, int] = {}
        self._at_once: dict[Path, int] = {}
        self._lock = threading.Lock()

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
        self._count(batch, 1)
        try:
            for item in batch:
                if item.path in self.publish_gates:
                    self.publish_gates[item.path].go_through()
            return super().publish(batch)
        finally:
            self._count(batch, -1)

    def _count(self, batch: Sequence[Publication], change: int) -> None:
        with self._lock:
            for path in {item.path for item in batch}:
                now = self._at_once[path] = self._at_once.get(path, 0) + change
                self.most_at_once[path] = max(now, self.most_at_once.get(path, 0))
