"""The model of eviction, with a bucket: what is there is whole, and what is not goes last.

To uploads, puts, reads, evictions, cleans and crashes in any order come pushes of any file at any
time, walks, outages of the bucket, and its own rule that removes what is old.
"""

import os
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePath

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from cache_actors.kinds import Kind
from cache_actors.s3.errors import Unreachable
from cache_actors.s3.names import key_of, object_name
from cache_actors.s3.push import Pusher
from cache_actors.s3.walk import unshared
from cache_actors.storage.capacity import Amount
from cache_actors.storage.eviction.cutoff import cutoff, evictable
from cache_actors.storage.eviction.scan import Scan
from cache_actors.storage.eviction.shared import CLOCK_NS, SharedFiles
from cache_actors.storage.eviction.sweep import Sweep
from cache_actors.storage.integrity.checksum import read_checksum, write_checksum
from cache_actors.storage.layout import Key, Project, key_at
from cache_actors.storage.references import references_in, spellings
from tests.storage.eviction.test_model import (
    ARTIFACTS,
    PROJECTS,
    PROTECTED,
    Cache,
    artifacts,
    entries,
    projects,
    shares,
)

from .pushes import CONFIG, WatchedBucket

ENTRY_SECONDS = 14 * 86_400.0
"""Age from which an entry in the bucket is not believed."""

EXPIRY_SECONDS = 30 * 86_400.0
"""Age from which the bucket's own rule removes objects."""

names = artifacts | entries


class SharedCache(Cache):
    """A storage folder, a bucket, and everyone who works on them."""

    def __init__(self) -> None:
        super().__init__()
        self.bucket = WatchedBucket()
        self.pusher = Pusher(self.root, self.bucket)
        self.is_down = False

        def refuse(_: str) -> None:
            if self.is_down:
                raise Unreachable("down")

        self.bucket.before_put = refuse

    def _key(self, project: Project, name: str) -> Key:
        parts = [name[2:4], name if name in ARTIFACTS else f"{name}.json"]
        kind = "cas" if name in ARTIFACTS else "keyvalue"
        key = key_at((project.account, project.name, kind, *parts))
        assert key is not None
        return key

    def _push(self, key: Key) -> None:
        self.bucket.breaker.succeeded()  # it is not what is tried here
        with suppress(Unreachable):
            self.pusher.push(key)

    @rule(project=projects, name=names)
    def push(self, project: Project, name: str) -> None:
        self._push(self._key(project, name))

    @rule(down=st.booleans())
    def outage(self, down: bool) -> None:
        self.is_down = down

    @rule()
    def walk(self) -> None:
        for folder in unshared(self.root, CONFIG.target, entries=True):
            for each in folder:
                self._push(each.key)

    @precondition(lambda self: self.passing is None)
    @rule(hours=st.sampled_from([1, 24, 24 * 5, 24 * 8, 24 * 30]))
    def time_goes_by(self, hours: float) -> None:
        super().time_goes_by(hours)
        for path in self._files():
            self._age_mark(path, int(hours * 3600))
        self.bucket.time_goes_by(int(hours * 3600))

    def _age_mark(self, path: Path, seconds: int) -> None:
        record = read_checksum(path)
        if record is not None and record.mark is not None:
            fd = os.open(path, os.O_RDWR)
            mark = replace(record.mark, put=record.mark.put - seconds)
            write_checksum(fd, replace(record, mark=mark))
            os.close(fd)

    @rule()
    def bucket_removes_what_is_old(self) -> None:
        for name, put in list(self.bucket.put_at.items()):
            if put < time.time() - EXPIRY_SECONDS:
                self.bucket.delete(name)

    @precondition(lambda self: self.passing is None)
    @rule(share=shares, only=st.none() | projects)
    def begin_pass(self, share: float, only: Project | None) -> None:
        now = self._now()
        shared = SharedFiles(self.root, CONFIG.target, entries=True, now=now + CLOCK_NS)
        scan = Scan(now, shared)
        list(scan.run(self.root, only))
        excess = Amount(int(scan.bytes * share))
        self.cut = cutoff(scan.histogram, excess, PROTECTED)
        first = evictable(scan.histogram, PROTECTED)
        last = cutoff(scan.unshared, Amount(max(0, excess.bytes - first.bytes)), PROTECTED)
        sweep = Sweep(self.root, self.cut, grace=0, last=last, shared=shared)
        self.passing = sweep.run([only] if only else PROJECTS)

    def _now(self) -> int:
        """The time, once the coarser clock of files is there too."""
        now = time.time_ns()
        probe = self.folder / "clock"
        while not probe.exists() or probe.stat().st_ctime_ns <= now:
            probe.write_bytes(b"")
            probe.unlink(missing_ok=True)
            probe.touch()
        return now

    @invariant()
    def no_entry_in_the_bucket_is_without_its_artifacts(self) -> None:
        believed = time.time() - ENTRY_SECONDS
        for name, put in self.bucket.put_at.items():
            key = key_of(CONFIG.prefix, name)
            if key is None or not key.kind.refers or put < believed:
                continue
            for each in references_in(self.bucket.content(key) or b""):
                places = [Key(key.project, Kind.CAS, s) for s in spellings(each)]
                assert any(object_name(CONFIG.prefix, p) in self.bucket.put_at for p in places), (
                    name
                )

    @invariant()
    def what_is_marked_was_put(self) -> None:
        for path in self._files():
            record = read_checksum(path)
            if record is not None and record.mark is not None:
                key = key_at(PurePath(path).relative_to(self.root).parts)
                assert key is not None
                is_old = record.mark.put < time.time() - EXPIRY_SECONDS
                assert is_old or object_name(CONFIG.prefix, key) in self.bucket.put_at


SharedCache.TestCase.settings = settings(suppress_health_check=list(HealthCheck))
TestSharedCache = SharedCache.TestCase
