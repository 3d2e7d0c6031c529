"""Of two processes that publish at once, one stores a whole file, and the other is told."""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING, Any

from cache_actors.storage.files.store import FileStore
from cache_actors.storage.files.temporary import TemporaryFolder
from cache_actors.storage.layout import TEMPORARY
from tests.storage.stores import EXISTS, STORED, publish

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from pathlib import Path

SPAWN = multiprocessing.get_context("spawn")
PATHS = 60


def shared_path(root: Path, number: int) -> Path:
    return root / "acme" / str(number // 5) / str(number)


def publish_everything(root: Path, data: bytes, pipe: Connection) -> None:
    """What each of two processes does at once: publish its own `data` at the same paths."""
    temporary = TemporaryFolder(root / TEMPORARY)
    store = FileStore(root, temporary, durable=True)
    pipe.send("prepare")
    pipe.recv()
    pipe.send([publish(store, shared_path(root, number), data) for number in range(PATHS)])
    temporary.remove()


class Publisher:
    """A process that publishes its own `data` at the paths that others publish at, too."""

    def __init__(self, root: Path, data: bytes) -> None:
        self.data = data
        self._pipe, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(
            target=publish_everything, args=(root, data, theirs), daemon=True
        )
        self._process.start()
        theirs.close()  # so that receiving fails when the process is gone

    def receive(self) -> Any:
        return self._pipe.recv()

    def go(self) -> None:
        self._pipe.send("go")

    def end(self) -> None:
        self._pipe.close()
        self._process.join()


def test_of_two_processes_that_publish_at_once_one_stores_a_whole_file(root: Path) -> None:
    publishers = [Publisher(root, data) for data in (b"a" * 50_000, b"b" * 60_000)]
    assert [publisher.receive() for publisher in publishers] == ["prepare", "prepare"]
    for publisher in publishers:
        publisher.go()
    outcomes = [publisher.receive() for publisher in publishers]
    for publisher in publishers:
        publisher.end()
    for number, outcome in enumerate(zip(*outcomes, strict=True)):
        assert set(outcome) == {STORED, EXISTS}
        winner = publishers[outcome.index(STORED)]
        assert shared_path(root, number).read_bytes() == winner.data
    assert list((root / TEMPORARY).iterdir()) == []
