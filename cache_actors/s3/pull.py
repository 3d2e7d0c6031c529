"""Pulls: a file that is not on this disk is looked for in the bucket, and stored if it is there.

What comes is believed only if it has the size and the SHA-256 that it was put with; an entry, only
if it is written exactly as this version writes one, so that all is known that it refers to. It is
stored as an upload is, marked as being in the bucket, and only if nothing has its name by then:
what has been stored here meanwhile is as new, or newer. Its modification time is that of the node
that stored it first. So its validators are the same everywhere, and a clean sees its real age.

An entry is stored after all artifacts that it refers to, which is checked once more under the
project's lock, and so is whether a clean has taken anything (`storage/known_cleans.py`). An entry
of which an artifact is gone from the bucket is a miss. It stays there: a newer version of it, which
is whole, may just have been put.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from typing import TYPE_CHECKING

from cache_actors.kinds import Kind
from cache_actors.storage.capacity import on_disk
from cache_actors.storage.entries import (
    EntryWriter,
    MissingArtifact,
    NewFile,
    TakenByClean,
    target_is_there,
)
from cache_actors.storage.files.last_use import WRONG_CLOCK_NS
from cache_actors.storage.files.store import Publication, Published
from cache_actors.storage.integrity.checksum import Mark
from cache_actors.storage.known_cleans import known_clean
from cache_actors.storage.layout import Key, StoredKey
from cache_actors.storage.references import Foreign, Target, checked_targets

from .bucket import SMALL_BYTES, seconds_for
from .errors import BreakerOpen, BucketError
from .names import Description, Unusable, description, object_name
from .outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from cache_actors.storage.files.store import FileStore
    from cache_actors.storage.files.temporary import TemporaryFile, TemporaryFolder
    from cache_actors.storage.layout import Project

    from .bucket import Object
    from .installation import ClaimedBucket

ARTIFACTS_AT_ONCE = 4
"""Number of artifacts that are pulled at once for one entry."""

ATTEMPTS = 3
"""Number of times that an entry's artifacts are pulled, as some may be evicted meanwhile."""


class Puller:
    """Pulls files from `bucket` into `store`; safe to use from threads.

    The cleans that the bucket knows of have to be noted before it is asked for anything.

    Args:
        store: where they go.
        temporary: the temporary folder of this process, on the same file system.
        bucket: the bucket.
        entry_seconds: age in seconds from which an entry in the bucket counts as gone.
        max_entry_bytes: size of the largest entry or action, in bytes.
        flights: number of calls of `start` that may be under way; none waits for another.
        stored: called with each file that has been stored.
        noticed: called with `dangling`, `unusable` or `failed`, the key, and why: for an entry of
            which an artifact is gone, an object that is not what was put, and a pull that failed.
    """

    def __init__(
        self,
        store: FileStore,
        temporary: TemporaryFolder,
        bucket: ClaimedBucket,
        *,
        entry_seconds: float,
        max_entry_bytes: int,
        flights: int,
        stored: Callable[[StoredKey], None],
        noticed: Callable[[str, Key, str], None],
    ) -> None:
        self._store = store
        self._temporary = temporary
        self._bucket = bucket
        self._entry_seconds = entry_seconds
        self._max_entry_bytes = max_entry_bytes
        self._stored = stored
        self._noticed = noticed
        self._entries = EntryWriter(store, require_artifacts=True)
        self._for_entries = ThreadPoolExecutor(flights, thread_name_prefix="entry")
        self._for_artifacts = ThreadPoolExecutor(
            flights * ARTIFACTS_AT_ONCE, thread_name_prefix="artifact"
        )
        self._large = threading.Lock()
        self._lock = threading.Lock()
        self._flights: dict[Key, Future[Outcome]] = {}  # of artifacts
        self._commits = _Commits(self._entries.add)

    def start(self, key: Key, coming: Callable[[], None]) -> Future[Outcome]:
        """Begin to pull the file of `key`, and return what it will come to.

        Args:
            key: which file.
            coming: called by another thread once an entry is known to be in the bucket.
        """
        if key.kind.refers:
            return self._for_entries.submit(self._safely, self._pull_entry, key, coming)
        return self._start_artifact(key)

    def _start_artifact(self, key: Key) -> Future[Outcome]:
        """Begin to pull an artifact, or join another one who does already."""
        with self._lock:
            flight = self._flights.get(key)
            if flight is None:
                flight = self._for_artifacts.submit(self._safely, self._pull_artifact, key)
                self._flights[key] = flight
            else:
                return flight
        flight.add_done_callback(lambda _: self._landed(key))
        return flight

    def _landed(self, key: Key) -> None:
        with self._lock:
            del self._flights[key]

    def _safely(self, pull: Callable[..., Outcome], key: Key, *arguments: object) -> Outcome:
        """Call `pull`, and make of its errors what a client hears of them: a miss."""
        try:
            return pull(key, *arguments)
        except Unusable as error:
            self._noticed("unusable", key, str(error))
            return Outcome.UNUSABLE
        except (BucketError, OSError) as error:
            if not isinstance(error, BreakerOpen):  # else it has been said
                self._noticed("failed", key, _reason(error))
            return Outcome.UNKNOWN
        except Exception as error:  # a bug: who waits has to hear of the end nevertheless
            self._noticed("failed", key, repr(error))
            return Outcome.UNKNOWN

    def _pull_artifact(self, key: Key) -> Outcome:
        going = known_clean(self._store.root, key.project).going
        if self._store.touch(key.path(self._store.root), time.time_ns(), going=going):
            return Outcome.HERE
        name = object_name(self._bucket.config.prefix, key)
        found = self._get(name)
        if found is None:
            return Outcome.ABSENT
        described = _described(found)
        if self._is_taken(key, described):
            return Outcome.CLEANED
        if key.kind is Kind.BLOB and described.digest.hex() != key.id:
            raise Unusable("it has other bytes than its name says")
        with self._store.capacity.reserve(found.size):
            file = self._received(described, found.chunks())
            try:
                publication = Publication(f"{self._store.root}/{key.place}", file)
                added = self._commits.commit(NewFile(key, publication, described.stored))
            finally:
                file.discard()
        if isinstance(added, TakenByClean):
            return Outcome.CLEANED
        self._stored(StoredKey(key, on_disk(found.size)))
        return Outcome.HERE

    def _get(self, name: str) -> Object | None:
        """The object `name`, with enough time for all of it to come."""
        found = self._bucket.get(name)
        if found is not None and found.size > SMALL_BYTES:  # which takes longer than that allows
            found = self._bucket.get(name, seconds_for(found.size))
        return found

    def _is_taken(self, key: Key, described: Description) -> bool:
        """Whether a clean of the project has taken what is described.

        Raises:
            OSError: the disk failed.
        """
        return known_clean(self._store.root, key.project).takes(described.stored)

    def _pull_entry(self, key: Key, coming: Callable[[], None]) -> Outcome:
        name = object_name(self._bucket.config.prefix, key)
        found = self._get(name)
        if found is None or time.time() - found.last_modified > self._entry_seconds:
            return Outcome.ABSENT
        if found.size > self._max_entry_bytes:
            raise Unusable(f"an entry of {found.size} bytes")
        described = _described(found)
        if self._is_taken(key, described):
            return Outcome.CLEANED
        with self._store.capacity.reserve(found.size):
            file, targets = self._received_entry(key, described, found)
            try:
                coming()
                publication = Publication(f"{self._store.root}/{key.place}", file)
                return self._add_entry(NewFile(key, publication, described.stored, targets))
            finally:
                file.discard()

    def _add_entry(self, entry: NewFile) -> Outcome:
        """Store an entry after the artifacts that it refers to; it goes with any that is taken."""
        key = entry.key
        for _ in range(ATTEMPTS):
            outcome, missing = self._pull_all(key.project, entry.targets)
            if outcome is Outcome.ABSENT:
                self._noticed("dangling", key, f"{missing} is not in the bucket")
            if outcome is not Outcome.HERE:
                return outcome
            added = self._commits.commit(entry)
            if isinstance(added, TakenByClean):
                return Outcome.CLEANED
            if not isinstance(added, MissingArtifact):
                self._stored(StoredKey(key, on_disk(entry.publication.size)))
                return Outcome.HERE
        return Outcome.UNKNOWN

    def _pull_all(self, project: Project, targets: frozenset[Target]) -> tuple[Outcome, str]:
        """Pull those of `targets` that are not here; the worst outcome, and of which it is."""
        going = known_clean(self._store.root, project).going
        missing = [
            target
            for target in sorted(targets, key=lambda each: each.name)
            if not target_is_there(self._store, project, target, going)
        ]
        for first in range(0, len(missing), ARTIFACTS_AT_ONCE):
            some = missing[first : first + ARTIFACTS_AT_ONCE]
            for target, outcome in zip(some, self._pull_some(project, some), strict=True):
                if outcome is not Outcome.HERE:
                    return outcome, target.name
        return Outcome.HERE, ""

    def _pull_some(self, project: Project, targets: Sequence[Target]) -> list[Outcome]:
        """Pull artifacts and blobs at the same time, each under an id that is in the bucket."""
        outcomes = dict.fromkeys(targets, Outcome.ABSENT)
        missing = {Outcome.ABSENT, Outcome.CLEANED}
        for which in range(max(len(each.ids) for each in targets)):
            absent = [
                each for each in targets if outcomes[each] in missing and which < len(each.ids)
            ]
            flights = [
                self._start_artifact(Key(project, each.kind, each.ids[which])) for each in absent
            ]
            for each, flight in zip(absent, flights, strict=True):
                found = flight.result()
                if found is not Outcome.ABSENT:
                    outcomes[each] = found
        return [outcomes[each] for each in targets]

    def _received_entry(
        self, key: Key, described: Description, found: Object
    ) -> tuple[TemporaryFile, frozenset[Target]]:
        """An entry in a file as that of `_received`, and what it refers to.

        Of large ones there is one at a time in memory.

        Raises:
            As `_received`; Unusable also if it is no entry as this version stores it.
        """
        with self._large if found.size > SMALL_BYTES else nullcontext():
            body = b"".join(found.chunks())
            try:
                targets = checked_targets(key.kind, body)
            except Foreign as error:
                raise Unusable(str(error)) from None
            return self._received(described, [body]), targets

    def _received(self, described: Description, chunks: Iterable[bytes]) -> TemporaryFile:
        """The bytes of an object in a file that is ready to get its name; it must be discarded.

        Raises:
            Unusable: they are others than were put.
            BucketError: not all of them have come.
            OSError: the disk failed, or is full.
        """
        file = self._temporary.create()
        try:
            for chunk in chunks:
                file.write([chunk])
            return self._prepared(described, file)
        except BaseException:
            file.discard()
            raise

    def _prepared(self, described: Description, file: TemporaryFile) -> TemporaryFile:
        """Check what has come, and make it ready to get its name, with its times and its mark."""
        if file.digest() != described.digest:
            raise Unusable("it has other bytes than were put")
        now = time.time_ns()
        is_ahead = described.stored > now + WRONG_CLOCK_NS
        file.set_time(now if is_ahead else described.stored, used=now)
        file.mark = Mark(int(described.put), self._bucket.config.target)
        return self._store.prepare(file)


_Added = Published | MissingArtifact | TakenByClean
"""What becomes of a file that is ready, if the disk does not fail."""


class _Commits:
    """Commits what several threads have ready as one batch, as they come.

    A file store commits one batch at a time. Whoever gets to it does so for all that wait.
    """

    def __init__(self, commit: Callable[[Sequence[NewFile]], Sequence[_Added | OSError]]) -> None:
        self._commit = commit
        self._turn = threading.Lock()
        self._lock = threading.Lock()
        self._waiting: list[tuple[NewFile, Future[_Added | OSError]]] = []

    def commit(self, item: NewFile) -> _Added:
        """Commit `item`.

        Raises:
            OSError: the disk failed, or is full.
        """
        outcome: Future[_Added | OSError] = Future()
        with self._lock:
            self._waiting.append((item, outcome))
        with self._turn:
            with self._lock:
                batch, self._waiting = self._waiting, []
            try:
                done = self._commit([each for each, _ in batch]) if batch else []
            except BaseException as error:
                for _, waiter in batch:
                    waiter.set_exception(error)
                raise
            for (_, waiter), result in zip(batch, done, strict=True):
                waiter.set_result(result)
        found = outcome.result()
        if isinstance(found, OSError):
            raise found
        return found


def _described(found: Object) -> Description:
    """What an object's metadata say.

    Raises:
        Unusable: they are not those of this version, or there are no bytes.
    """
    described = description(found.metadata, found.last_modified)
    if not found.size:
        raise Unusable("it is empty")
    return described


def _reason(error: BucketError | OSError) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return str(error)
