"""`python -m cache_actors.writer_process CONFIG`: the process that commits batches for an actor."""

from __future__ import annotations

import errno
import gc
import select
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from cache_actors.actor_process.framing import framed, is_connected, next_message
from cache_actors.kinds import Kind
from cache_actors.storage.capacity import Capacity
from cache_actors.storage.entries import EntryWrite, EntryWriter, MissingArtifact
from cache_actors.storage.files.store import FileStore, Publication, Published
from cache_actors.storage.files.temporary import TemporaryFolder
from cache_actors.storage.files.write_ahead_log import WriteAheadLog, can_log
from cache_actors.storage.layout import TEMPORARY, Key, Project
from cache_actors.storage.recovery import Recovered, recover

from .protocol import (
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
)

if TYPE_CHECKING:
    from collections.abc import Callable


_KINDS = {kind.folder: kind for kind in Kind}

IDLE_CHECK_SECONDS = 1.0
"""Interval in seconds at which a process without batches looks for old records to checkpoint."""


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
        self._config = config
        self._temporary = temporary
        self._parent_is_there = parent_is_there
        self._syncs: list[float] = []
        self._recovered = Recovered()  # by the batch in hand
        self._capacity = Capacity(root, config.max_bytes)
        has_log = config.durable and can_log(root)
        self._log = WriteAheadLog(root, self._synced, self._recover_all) if has_log else None
        self._store = FileStore(
            root,
            temporary,
            durable=config.durable,
            capacity=self._capacity,
            synced=self._synced,
            log=self._log,
        )
        self._entries = EntryWriter(self._store, require_artifacts=config.require_artifacts)

    def commit(self, batch: PublishRequest | PutRequest) -> CommitResponse:
        """Commit one batch.

        Raises:
            ClientGone: its parent has ended meanwhile. What was not done by then will not be done.
        """
        self._syncs.clear()
        self._recovered = Recovered()
        try:
            if self._log is not None:
                self._log.mend()
        except OSError as error:
            size = len(batch.files if isinstance(batch, PublishRequest) else batch.lines)
            return CommitResponse([Failed.of(error)] * size, [], self._recovered)
        found: list[Published | str | MissingArtifact | OSError | None] = []
        if isinstance(batch, PublishRequest):
            self._capacity.load_counts(batch.stored, batch.reserved)
            found += self._store.publish([Publication(f.path, f.pieces) for f in batch.files])
        else:
            found += self._entries.put([_write(line) for line in batch.lines])
        return CommitResponse([_outcome(each) for each in found], self._syncs, self._recovered)

    def rest(self) -> None:
        """Put on the disk what was committed some time ago; called while there is nothing to do."""
        if self._log is not None:
            with suppress(OSError):  # the next batch has to do with it
                self._log.checkpoint_if_old()

    def close(self) -> None:
        """Put on the disk all that has been committed, or leave it to a recovery."""
        if self._log is not None:
            with suppress(OSError):
                self._log.close()

    def recover(self, damaged: Path | None = None) -> Recovered:
        """Recover what was logged before the machine was started, and what is in a `damaged` log.

        Raises:
            OSError: the logs cannot be read, or the disk failed.
        """
        return recover(
            self._store.root,
            self._temporary,
            require_artifacts=self._config.require_artifacts,
            damaged=damaged,
        )

    def _recover_all(self, damaged: Path) -> None:
        self._recovered = self.recover(damaged)
        if self._recovered.failed:
            raise OSError(errno.EIO, "what a failed checkpoint has left cannot be stored again")

    def _synced(self, seconds: float) -> None:
        """Count a sync; go on only for a parent that is still there.

        A sync may take long. By then another process may have been told the contrary of what this
        one has in hand, and its answer must stand.
        """
        self._syncs.append(seconds)
        if not self._parent_is_there():
            raise ClientGone


def _write(line: EntryItem) -> EntryWrite:
    key = Key(Project(line.account, line.project), _KINDS[line.folder], line.id)
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


def _next(channel: socket.socket, stream: BinaryIO, rest: Callable[[], None]) -> bytes | None:
    """The next message; None if its sender is gone. While none comes, `rest` is called."""
    waiting = select.poll()
    waiting.register(channel, select.POLLIN)
    while not waiting.poll(IDLE_CHECK_SECONDS * 1000):
        rest()
    return next_message(stream)


def run(config: WriterConfig) -> None:
    """Commit what comes through the channel until its other end is gone.

    Raises:
        OSError: the storage folder cannot be used.
    """
    gc.freeze()  # as `run_until_stopped` does
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    temporary = TemporaryFolder(Path(config.root) / TEMPORARY)
    try:
        with socket.socket(fileno=config.channel) as channel, channel.makefile("rb") as stream:
            server = CommitServer(config, temporary, lambda: is_connected(channel))
            try:
                channel.sendall(framed(server.recover()))
                while (message := _next(channel, stream, server.rest)) is not None:
                    channel.sendall(framed(server.commit(decode_batch(message))))
            except (ConnectionError, ClientGone):
                pass  # nobody is there to be told
            finally:
                server.close()
    finally:
        temporary.remove()


if __name__ == "__main__":
    run(msgspec.json.decode(sys.argv[-1], type=WriterConfig))
