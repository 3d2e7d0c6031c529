"""Uploads, puts, reads, evictions, cleans, crashes in any order: no entry is without its artifacts,
and no action is answered without its blobs.

Passes of eviction are generators here, and anything may happen between two of their steps. What
happens within a step, in other processes, is left to `tests/system/test_eviction_races.py`.
"""

import base64
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cache_actors.kinds import Kind
from cache_actors.storage.actions import BlobReference, packed_action
from cache_actors.storage.capacity import Amount
from cache_actors.storage.entries import EntryWrite, EntryWriter, MissingArtifact, has_blobs
from cache_actors.storage.eviction.cutoff import Cutoff, cutoff
from cache_actors.storage.eviction.scan import Scan
from cache_actors.storage.eviction.sweep import Step, Sweep
from cache_actors.storage.files.last_use import last_use
from cache_actors.storage.files.store import RECENT_NS, FileStore, Lookup, Publication
from cache_actors.storage.files.temporary import TemporaryFolder
from cache_actors.storage.layout import TEMPORARY, Key, Project
from cache_actors.storage.references import references, references_in, targets_in
from cache_actors.storage.trash import clean, empty_trash

PROJECTS = [Project("acme", "app"), Project("acme", "lib")]
ARTIFACTS = [hashlib.sha256(bytes([number])).hexdigest().upper() for number in range(4)]
BLOBS = {hashlib.sha256(bytes([number])).hexdigest(): bytes([number]) for number in range(3)}
ACTIONS = [f"{number:064x}" for number in range(2)]
ENTRIES = [f"0~{name}=" for name in "abc"]
TMPFS = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108
"""Where syncs are free."""

PROTECTED = 1.0
"""Seconds; what was used within them is not evicted. The least that a real pass has."""

projects = st.sampled_from([PROJECTS[0], *PROJECTS])
artifacts = st.sampled_from(ARTIFACTS)
entries = st.sampled_from(ENTRIES)
blobs = st.sampled_from(list(BLOBS))
actions = st.sampled_from(ACTIONS)
shares = st.sampled_from([0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0])


def value_of(artifact_ids: list[str], *, plain: bool) -> list[str]:
    """The values of an entry that refers to those artifacts."""
    if plain:
        return [each.lower() for each in artifact_ids]
    fields = b"".join(b"\x0a\x42\x12\x40" + each.encode() for each in artifact_ids)
    return [base64.b64encode(b"\x08\x01" + fields).decode()]


class Cache(RuleBasedStateMachine):
    """A storage folder and everyone who works on it."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(mkdtemp(prefix="eviction-model-", dir=TMPFS))
        self.root = self.folder / "cas"
        self.root.mkdir()
        self.passing: Iterator[Step] | None = None
        self.cut: Cutoff | None = None
        self.damaged: set[Path] = set()
        self.uses: dict[Path, int] = {}  # of what must be there: when it was used last
        self.artifacts: dict[Path, list[Path]] = {}  # of each entry
        self._start()

    def _start(self) -> None:
        self.temporary = TemporaryFolder(self.root / TEMPORARY)
        self.store = FileStore(self.root, self.temporary, durable=False)

    def teardown(self) -> None:
        self.temporary.remove()
        shutil.rmtree(self.folder)

    # What clients do.

    @rule(project=projects, artifact=artifacts)
    def upload(self, project: Project, artifact: str) -> None:
        path = Key(project, Kind.CAS, artifact).path(self.root)
        self.store.publish([Publication(str(path), [artifact.encode()])])
        assert path.exists()
        self.damaged.discard(path)
        self.uses[path] = time.time_ns()

    @rule(
        project=projects,
        entry=entries,
        ids=st.lists(artifacts, max_size=3),
        plain=st.booleans(),
        required=st.booleans(),
    )
    def put(
        self, project: Project, entry: str, ids: list[str], plain: bool, required: bool
    ) -> None:
        values = value_of(ids, plain=plain) if ids else ["unknown form"]
        body = '{"entries":[' + ",".join(f'{{"value":"{each}"}}' for each in values) + "]}"
        assert references(values) == references_in(body.encode()) == set(ids)
        there = {each: Key(project, Kind.CAS, each).path(self.root).exists() for each in ids}
        if not required and not all(there.values()):
            return  # such an entry is its client's own fault
        written = Key(project, Kind.KEYVALUE, entry)
        writer = EntryWriter(self.store, require_artifacts=required)
        [outcome] = writer.put([EntryWrite(written, body.encode(), frozenset(ids))])
        if all(there.values()):
            assert outcome is None
            now = time.time_ns()
            path = written.path(self.root)
            self.artifacts[path] = [Key(project, Kind.CAS, each).path(self.root) for each in ids]
            self.uses |= dict.fromkeys([path, *self.artifacts[path]], now)
        else:
            assert isinstance(outcome, MissingArtifact)

    @rule(
        project=projects,
        entry=entries,
        ids=st.lists(artifacts, min_size=1, max_size=2, unique=True),
        plain=st.booleans(),
    )
    def build(self, project: Project, entry: str, ids: list[str], plain: bool) -> None:
        """A build that misses: it uploads what is not there yet, then puts the entry."""
        for each in ids:
            self.upload(project, each)
        self.put(project, entry, ids, plain, required=True)

    @rule(project=projects, name=artifacts | entries)
    def read(self, project: Project, name: str) -> None:
        """As nginx does: without a lock, and the access time moves by itself."""
        kind = Kind.CAS if name in ARTIFACTS else Kind.KEYVALUE
        path = Key(project, kind, name).path(self.root)
        now = time.time_ns()
        with suppress(FileNotFoundError):
            os.utime(path, ns=(now, path.stat().st_mtime_ns))
            self.uses[path] = now

    @rule(project=projects, blob=blobs)
    def upload_blob(self, project: Project, blob: str) -> None:
        path = Key(project, Kind.BLOB, blob).path(self.root)
        self.store.publish([Publication(str(path), [BLOBS[blob]])])
        self.damaged.discard(path)
        self.uses[path] = time.time_ns()

    @rule(
        project=projects,
        action=actions,
        ids=st.lists(blobs, max_size=2, unique=True),
        sizes=st.sampled_from([1, 1, 1, 2]),
    )
    def put_action(self, project: Project, action: str, ids: list[str], sizes: int) -> None:
        body = packed_action([BlobReference(each, sizes).packed() for each in ids], b"result")
        paths = [Key(project, Kind.BLOB, each).path(self.root) for each in ids]
        is_whole = sizes == 1 or not ids
        is_whole = is_whole and all(path.exists() for path in paths)
        key = Key(project, Kind.ACTION, action)
        writer = EntryWriter(self.store, require_artifacts=False)
        [outcome] = writer.put([EntryWrite(key, body)])
        assert (outcome is None) is is_whole
        if is_whole:
            self.artifacts[key.path(self.root)] = paths
            self.uses |= dict.fromkeys([key.path(self.root), *paths], time.time_ns())

    @rule(project=projects, action=actions)
    def ask_for_action(self, project: Project, action: str) -> None:
        path = Key(project, Kind.ACTION, action).path(self.root)
        [found] = self.store.load([Lookup(str(path), None)])
        assert not isinstance(found, OSError)
        if found is None:
            return
        paths = self.artifacts[path]
        is_answered = has_blobs(self.store, project, found.data, len(paths))
        assert is_answered is all(each.exists() for each in paths)
        if is_answered:
            self.uses |= dict.fromkeys(paths, time.time_ns())

    @rule(
        project=projects,
        action=actions,
        ids=st.lists(blobs, min_size=1, max_size=2, unique=True),
        lost=st.booleans(),
    )
    def build_action(self, project: Project, action: str, ids: list[str], lost: bool) -> None:
        """A build that misses, then one that asks; a blob may have been lost between them."""
        for each in ids:
            self.upload_blob(project, each)
        self.put_action(project, action, ids, 1)
        if lost:
            self.damage(project, ids[0])
        self.ask_for_action(project, action)

    # What happens to everyone.

    @precondition(lambda self: self.passing is None)
    @rule(hours=st.sampled_from([0.001, 1, 24, 24 * 30]))
    def time_goes_by(self, hours: float) -> None:
        step = int(hours * 3600e9)
        for path in self._files():
            status = path.stat()
            os.utime(path, ns=(status.st_atime_ns - step, status.st_mtime_ns - step))
        self.uses = {path: used - step for path, used in self.uses.items()}

    @rule(project=projects, artifact=artifacts | blobs)
    def damage(self, project: Project, artifact: str) -> None:
        """An artifact turns out to be broken; its entries stay until a pass finds them."""
        kind = Kind.BLOB if artifact in BLOBS else Kind.CAS
        path = Key(project, kind, artifact).path(self.root)
        with suppress(FileNotFoundError):
            self.store.quarantine.take(path, path.stat().st_ino)
            self.damaged.add(path)
            self.uses.pop(path, None)

    @rule(project=projects, emptied=st.booleans())
    def clean(self, project: Project, emptied: bool) -> None:
        """All that is the project's goes, and may lie in the trash for a while."""
        clean(self.root, project, durable=False)
        if emptied:
            list(empty_trash(self.root))
        folder = project.path(self.root)
        assert not folder.exists()
        self.uses = {path: use for path, use in self.uses.items() if folder not in path.parents}
        self.damaged = {path for path in self.damaged if folder not in path.parents}

    @rule()
    def crash(self) -> None:
        """The service is killed and started again, in the middle of whatever."""
        self.temporary.remove()
        self._start()

    # Eviction.

    @precondition(lambda self: self.passing is None)
    @rule(share=shares, only=st.none() | projects)
    def begin_pass(self, share: float, only: Project | None) -> None:
        scan = Scan(time.time_ns())
        list(scan.run(self.root, only))
        excess = Amount(int(scan.bytes * share))
        self.cut = cutoff(scan.histogram, excess, PROTECTED)
        self.passing = Sweep(self.root, self.cut, grace=0).run([only] if only else PROJECTS)

    @precondition(lambda self: self.passing is None)
    @rule(hours=st.sampled_from([1, 24]), share=shares)
    def evict_after(self, hours: float, share: float) -> None:
        self.time_goes_by(hours)
        self.begin_pass(share, None)
        self.finish()

    @precondition(lambda self: self.passing is not None)
    @rule(steps=st.integers(1, 5))
    def go_on(self, steps: int) -> None:
        assert self.passing is not None
        for _ in range(steps):
            if next(self.passing, None) is None:
                self.passing = None
                return

    @precondition(lambda self: self.passing is not None)
    @rule()
    def finish(self) -> None:
        assert self.passing is not None
        list(self.passing)
        self.passing = None

    @precondition(lambda self: self.passing is not None)
    @rule()
    def kill_the_pass(self) -> None:
        self.passing = None

    # What holds at any time.

    @invariant()
    def no_entry_is_without_its_artifacts(self) -> None:
        for path in self._files():
            project = Project(*path.relative_to(self.root).parts[:2])
            for target in targets_in(path.read_bytes()):
                keys = [Key(project, target.kind, each) for each in target.ids]
                artifact_paths = [key.path(self.root) for key in keys]
                assert any(each.exists() or each in self.damaged for each in artifact_paths), path

    @invariant()
    def nothing_is_gone_that_the_rule_spares(self) -> None:
        gone = {path: used for path, used in self.uses.items() if not path.exists()}
        for path, used in gone.items():
            assert self.cut is not None
            artifacts = self.artifacts.get(path, [])
            assert self._was_taken(path, used) or any(
                each in self.damaged or self._was_taken(each, used) for each in artifacts
            ), path
        for path in gone:
            del self.uses[path]

    def _was_taken(self, path: Path, used: int) -> bool:
        """Whether the last rule takes it, if it was used then, or later for itself."""
        assert self.cut is not None
        used = max(used, self.uses.get(path, 0)) - RECENT_NS  # the disk may know of no later one
        is_protected = self.cut.now - used <= PROTECTED * 1e9
        return not is_protected and self.cut.takes(used, path.name.removesuffix(".json"))

    @invariant()
    def everything_was_used_when_the_model_says(self) -> None:
        for path, used in self.uses.items():
            if path.exists():
                assert last_use(path.stat()) >= used - 1_000_000_000, path

    def _files(self) -> list[Path]:
        return [path for path in self.root.glob("[!.]*/*/*/*/*") if path.is_file()]


Cache.TestCase.settings = settings(suppress_health_check=list(HealthCheck))
TestCache = Cache.TestCase
