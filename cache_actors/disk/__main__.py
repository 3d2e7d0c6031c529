"""`python -m cache_actors.disk TERMS`: the process that commits batches for an actor."""

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
from cache_actors.storage.files import FileStore, Publication, Published
from cache_actors.storage.layout import TEMPORARY, Entry, Project
from cache_actors.storage.temporary import TemporaryFolder

from .messages import (
    LENGTH,
    Done,
    Failed,
    Line,
    Missing,
    Outcome,
    Publish,
    Put,
    Report,
    Terms,
    decode_batch,
    framed,
)

if TYPE_CHECKING:
    from collections.abc import Callable


class ParentGone(Exception):
    """Nobody is at the other end of the channel any more."""


class Committer:
    """Commits batches, one after the other, in a store of its own.

    Args:
        terms: how.
        temporary: its temporary folder.
        parent_is_there: whether somebody waits for the outcome; asked by any thread.
    """

    def __init__(
        self, terms: Terms, temporary: TemporaryFolder, parent_is_there: Callable[[], bool]
    ) -> None:
        root = Path(terms.root)
        self._parent_is_there = parent_is_there
        self._syncs: list[float] = []
        self._capacity = Capacity(root, terms.max_bytes)
        self._store = FileStore(
            root,
            temporary,
            durable=terms.durable,
            capacity=self._capacity,
            synced=self._synced,
        )
        self._entries = EntryWriter(self._store, require_artifacts=terms.require_artifacts)

    def commit(self, batch: Publish | Put) -> Report:
        """Commit one batch.

        Raises:
            ParentGone: its parent has ended meanwhile. What was not done by then will not be done.
        """
        self._syncs.clear()
        found: list[Published | str | MissingArtifact | OSError | None] = []
        if isinstance(batch, Publish):
            self._capacity.adopt(batch.stored, batch.spoken_for)
            found += self._store.publish([Publication(Path(f.path), f.pieces) for f in batch.files])
        else:
            found += self._entries.put([_write(line) for line in batch.lines])
        return Report([_outcome(each) for each in found], self._syncs)

    def _synced(self, seconds: float) -> None:
        """Count a sync; go on only for a parent that is still there.

        A sync may take long. By then another process may have been told the contrary of what this
        one has in hand, and its answer must stand.
        """
        self._syncs.append(seconds)
        if not self._parent_is_there():
            raise ParentGone


def _write(line: Line) -> EntryWrite:
    entry = Entry(Project(line.account, line.project), Kind.KEYVALUE, line.id)
    return EntryWrite(entry, line.body, frozenset(line.artifacts))


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


def run(terms: Terms) -> None:
    """Commit what comes through the channel until its other end is gone.

    Raises:
        OSError: the storage folder cannot be used.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    temporary = TemporaryFolder(Path(terms.root) / TEMPORARY)
    try:
        with socket.socket(fileno=terms.channel) as channel, channel.makefile("rb") as stream:
            committer = Committer(terms, temporary, lambda: is_connected(channel))
            try:
                channel.sendall(LENGTH.pack(0))
                while len(head := stream.read(LENGTH.size)) == LENGTH.size:
                    (size,) = LENGTH.unpack(head)
                    message = stream.read(size)
                    if len(message) < size:
                        break  # its sender died on the way
                    channel.sendall(framed(committer.commit(decode_batch(message))))
            except (ConnectionError, ParentGone):
                pass  # nobody is there to be told
    finally:
        temporary.remove()


if __name__ == "__main__":
    run(msgspec.json.decode(sys.argv[-1], type=Terms))
