"""`python -m cache_actors.writer_process CONFIG`: the process that commits batches for an actor."""

from __future__ import annotations

import select
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from cache_actors.kinds import Kind
from cache_actors.storage.capacity import Capacity
from cache_actors.storage.entries import EntryWrite, EntryWriter, MissingArtifact
from cache_actors.storage.files.store import FileStore, Publication, Published
from cache_actors.storage.files.temporary import TemporaryFolder
from cache_actors.storage.layout import TEMPORARY, Key, Project

from .protocol import (
    LENGTH,
    CommitResponse,
    Done,
    EntryItem,
    Failed,
    Missing,
    Outcome,
    PublishRequest,
    PutRequest,
    WriterConfig,
    decode_batch,
    framed,
)

if TYPE_CHECKING:
    from collections.abc import Callable


class ClientGone(Exception):
    """Nobody is at the other end of the channel any more."""


class CommitServer:
    """Commits batches, one after the other, in a store of its own.

    Args:
        config: how.
        temporary: its temporary folder.
        parent_is_there: whether somebody waits for the outcome; asked by any thread.
    """

    def __init__(
        self, config: WriterConfig, temporary: TemporaryFolder, parent_is_there: Callable[[], bool]
    ) -> None:
        root = Path(config.root)
        self._parent_is_there = parent_is_there
        self._syncs: list[float] = []
        self._capacity = Capacity(root, config.max_bytes)
        self._store = FileStore(
            root,
            temporary,
            durable=config.durable,
            capacity=self._capacity,
            synced=self._synced,
        )
        self._entries = EntryWriter(self._store, require_artifacts=config.require_artifacts)

    def commit(self, batch: PublishRequest | PutRequest) -> CommitResponse:
        """Commit one batch.

        Raises:
            ClientGone: its parent has ended meanwhile. What was not done by then will not be done.
        """
        self._syncs.clear()
        found: list[Published | str | MissingArtifact | OSError | None] = []
        if isinstance(batch, PublishRequest):
            self._capacity.load_counts(batch.stored, batch.reserved)
            found += self._store.publish([Publication(Path(f.path), f.pieces) for f in batch.files])
        else:
            found += self._entries.put([_write(line) for line in batch.lines])
        return CommitResponse([_outcome(each) for each in found], self._syncs)

    def _synced(self, seconds: float) -> None:
        """Count a sync; go on only for a parent that is still there.

        A sync may take long. By then another process may have been told the contrary of what this
        one has in hand, and its answer must stand.
        """
        self._syncs.append(seconds)
        if not self._parent_is_there():
            raise ClientGone


def _write(line: EntryItem) -> EntryWrite:
    key = Key(Project(line.account, line.project), Kind.KEYVALUE, line.id)
    return EntryWrite(key, line.body, frozenset(line.artifacts))


def _outcome(found: Published | str | MissingArtifact | OSError | None) -> Outcome:
    match found:
        case OSError():
            return Failed.of(found)
        case MissingArtifact():
            return Missing(found.artifact_id)
        case Published():
            return Done(found.value)
    return Done(found)


def is_connected(channel: socket.socket) -> bool:
    """Whether somebody is at the other end. May be called by several threads at once."""
    end = select.poll()
    end.register(channel, 0)  # tells of nothing but the end
    return not end.poll(0)


def run(config: WriterConfig) -> None:
    """Commit what comes through the channel until its other end is gone.

    Raises:
        OSError: the storage folder cannot be used.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    temporary = TemporaryFolder(Path(config.root) / TEMPORARY)
    try:
        with socket.socket(fileno=config.channel) as channel, channel.makefile("rb") as stream:
            committer = CommitServer(config, temporary, lambda: is_connected(channel))
            try:
                channel.sendall(LENGTH.pack(0))
                while len(head := stream.read(LENGTH.size)) == LENGTH.size:
                    (size,) = LENGTH.unpack(head)
                    message = stream.read(size)
                    if len(message) < size:
                        break  # its sender died on the way
                    channel.sendall(framed(committer.commit(decode_batch(message))))
            except (ConnectionError, ClientGone):
                pass  # nobody is there to be told
    finally:
        temporary.remove()


if __name__ == "__main__":
    run(msgspec.json.decode(sys.argv[-1], type=WriterConfig))
