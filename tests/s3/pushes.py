"""A storage folder with records, and a bucket in memory, for tests of pushes."""

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from obstore.store import MemoryStore

from cache_actors.kinds import Kind
from cache_actors.s3.bucket import SMALL_SECONDS, Listed, Object
from cache_actors.s3.config import BucketConfig
from cache_actors.s3.errors import BucketError
from cache_actors.s3.installation import ClaimedBucket
from cache_actors.s3.names import STORED, key_of, object_name
from cache_actors.storage.actions import packed_action
from cache_actors.storage.integrity.checksum import (
    Mark,
    StoredChecksum,
    read_checksum,
    write_checksum,
)
from cache_actors.storage.layout import Key, Project
from cache_actors.storage.references import references_in
from tests.support.stored import artifact_id, body_of, value_of

APP = Project("acme", "app")
CONFIG = BucketConfig("builds", prefix="cache")
SERVER = "https://tuist.example"
DAY = 86_400


class WatchedBucket(ClaimedBucket):
    """A claimed bucket in memory that remembers what was put, and that a test can hold or break.

    Attributes:
        puts: the names of objects, in the order in which puts ended.
        put_at: when each object was put, in seconds since the epoch.
        before_put: called with each name before it is put; may raise, or wait.
    """

    def __init__(self, config: BucketConfig = CONFIG) -> None:
        store = MemoryStore()
        super().__init__(config, SERVER, connect=lambda *_: store)
        self.claim()
        self.puts: list[str] = []
        self.put_at: dict[str, float] = {}
        self.before_put: Callable[[str], None] = lambda _: None

    def put(self, name: str, data: Any, metadata: Any) -> None:
        with self._request("trial"):
            self.before_put(name)
        super().put(name, data, metadata)
        self.puts.append(name)
        self.put_at[name] = time.time()

    def get(self, name: str, seconds: float = SMALL_SECONDS) -> Object | None:
        found = super().get(name, seconds)
        if found is not None:
            found.last_modified = self.put_at.get(name, found.last_modified)
        return found

    def delete(self, name: str) -> None:
        super().delete(name)
        self.put_at.pop(name, None)

    def time_goes_by(self, seconds: int) -> None:
        """Make all objects older, and what they were made of."""
        for name in self.put_at:
            found = self.get(name)
            assert found is not None
            metadata = dict(found.metadata)
            if STORED in metadata:
                metadata[STORED] = str(int(metadata[STORED]) - seconds * 10**9)
            super().put(name, b"".join(found.chunks()), metadata)
            self.put_at[name] -= seconds

    def pushed(self) -> list[Key]:
        """The keys of what was put, in order."""
        return [key for name in self.puts if (key := key_of(self.config.prefix, name))]

    def content(self, key: Key) -> bytes | None:
        """The bytes of the object of `key`."""
        found = self.get(object_name(self.config.prefix, key))
        return None if found is None else b"".join(found.chunks())

    def dangling(self) -> list[tuple[str, str]]:
        """Entries in the bucket, each with an artifact of it that is not there."""
        names = {each.name for each in self.list("")}
        return [
            (name, artifact)
            for name in names
            if (key := key_of(self.config.prefix, name)) and key.kind.refers
            for artifact in references_in(self.content(key) or b"")
            if object_name(self.config.prefix, Key(key.project, Kind.CAS, artifact)) not in names
        ]

    @contextmanager
    def held(self, key: Key) -> Iterator[threading.Event]:
        """Hold puts of `key` until the context ends; yields an event for when one has come."""
        reached, gate = threading.Event(), threading.Event()
        name = object_name(self.config.prefix, key)

        def hold(put: str) -> None:
            if put == name:
                reached.set()
                assert gate.wait(60), "nobody lets it go"

        self.before_put = hold
        try:
            yield reached
        finally:
            self.before_put = lambda _: None
            gate.set()

    def fail(self, *errors: BucketError) -> None:
        """Have puts fail with these errors, one after the other."""
        left = list(errors)

        def fail(_: str) -> None:
            if left:
                raise left.pop(0)

        self.before_put = fail

    def list(self, folder: str) -> Iterator[Listed]:
        for each in super().list(folder):
            yield replace(each, last_modified=self.put_at.get(each.name, each.last_modified))


@dataclass
class Disk:
    """The storage folder `root`, with files as the service stores them."""

    root: Path
    target: int = field(default=CONFIG.target)

    def artifact(self, number: int, content: bytes | None = None) -> Key:
        """Store the CAS artifact `number`."""
        key = Key(APP, Kind.CAS, artifact_id(number))
        self.write(key, b"artifact %d" % number if content is None else content)
        return key

    def entry(self, name: str, *artifacts: int, salt: str = "") -> Key:
        """Store an entry, in place of the one before, that refers to artifacts by number."""
        key = Key(APP, Kind.KEYVALUE, name)
        self.write(key, body_of(value_of(*map(artifact_id, artifacts)), salt or "salt"))
        return key

    def file(self, kind: Kind, content: bytes | None = None) -> Key:
        """Store a file, with an id that a blob with its bytes has."""
        if content is None:
            content = packed_action([], b"") if kind is Kind.ACTION else body_of("dg==")
        key = Key(APP, kind, hashlib.sha256(content).hexdigest())
        self.write(key, content)
        return key

    def write(self, key: Key, content: bytes) -> None:
        path = key.path(self.root)
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.new")
        new.write_bytes(content)
        fd = os.open(new, os.O_RDWR)
        write_checksum(fd, StoredChecksum(hashlib.sha256(content).digest(), len(content)))
        os.close(fd)
        new.replace(path)

    def record(self, key: Key) -> StoredChecksum | None:
        return read_checksum(key.path(self.root))

    def mark(self, key: Key, days_ago: float, target: int | None = None) -> None:
        """Mark a file as put so many days ago."""
        record = self.record(key)
        assert record is not None
        mark = Mark(int(time.time() - days_ago * DAY), self.target if target is None else target)
        fd = os.open(key.path(self.root), os.O_RDWR)
        write_checksum(fd, replace(record, mark=mark))
        os.close(fd)

    def is_marked(self, key: Key) -> bool:
        """Whether the file of `key` is marked as put within the last hour."""
        record = self.record(key)
        mark = record.mark if record else None
        return mark is not None and mark.target == self.target and mark.put > time.time() - 3600
