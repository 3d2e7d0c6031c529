"""The model of two nodes and a bucket: entries are whole, what is cleaned is gone, the rest stays.

Uploads, puts, pushes, pulls, evictions, cleans and losses, on either node and in the bucket, come
in any order; and some in the middle of a pull, which may also end there, as in a crash. A node
hears of a clean at some time, and follows it step by step; it may be killed at any of them.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from unittest import mock

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cache_actors.kinds import Kind
from cache_actors.s3.bucket import Bucket
from cache_actors.s3.cleans import exchange_cleans
from cache_actors.s3.errors import BucketError
from cache_actors.s3.names import STORED, object_name
from cache_actors.s3.outcome import Outcome
from cache_actors.s3.pull import Puller
from cache_actors.s3.push import Pusher
from cache_actors.storage.capacity import Amount
from cache_actors.storage.entries import EntryWrite, EntryWriter
from cache_actors.storage.eviction.cutoff import cutoff
from cache_actors.storage.eviction.scan import Scan
from cache_actors.storage.eviction.sweep import Sweep
from cache_actors.storage.files.store import FileStore, Publication
from cache_actors.storage.files.temporary import TemporaryFolder
from cache_actors.storage.follow_clean import follow_clean
from cache_actors.storage.known_cleans import known_clean, note_clean
from cache_actors.storage.layout import TEMPORARY, Key, key_at
from cache_actors.storage.references import references_in
from cache_actors.storage.trash import Removed, clean
from tests.support.stored import artifact_id, body_of, value_of

from .pushes import APP, CONFIG, WatchedBucket

DAY = 86_400

nodes = st.integers(0, 1)
numbers = st.integers(0, 3)
names = st.sampled_from(["aaaa", "bbbb"])
artifact_keys = numbers.map(lambda number: Key(APP, Kind.CAS, artifact_id(number)))
entry_keys = names.map(lambda name: Key(APP, Kind.KEYVALUE, name))
keys = artifact_keys | entry_keys


class Node:
    """A node: its disk, and everyone who works on it."""

    def __init__(self, root: Path, bucket: WatchedBucket) -> None:
        root.mkdir()
        self.root = root
        self.temporary = TemporaryFolder(root / TEMPORARY)
        self.store = FileStore(root, self.temporary, durable=False)
        self.entries = EntryWriter(self.store, require_artifacts=True)
        self.bucket = bucket
        self.gone = 0  # nothing is left that was stored then, or earlier
        self.going: tuple[int, set[tuple[Path, int]]] = (0, set())
        self.following: Iterator[Removed] = iter(())
        self.pusher = Pusher(root, bucket)
        self.meanwhile: Callable[[], None] = lambda: None
        self.puller = Puller(
            self.store,
            self.temporary,
            bucket,
            entry_seconds=14 * DAY,
            max_entry_bytes=10_000,
            flights=4,
            stored=lambda _: None,
            noticed=lambda *_: None,
        )
        pull_all = self.puller._pull_all

        def interrupted(*arguments: object) -> object:
            found = pull_all(*arguments)  # type: ignore[arg-type]
            step, self.meanwhile = self.meanwhile, lambda: None
            step()
            return found

        self.puller._pull_all = interrupted  # type: ignore[method-assign, assignment]

    def upload(self, number: int) -> None:
        path = Key(APP, Kind.CAS, artifact_id(number)).path(self.root)
        self.store.publish([Publication(str(path), [b"artifact %d" % number])])
        assert path.stat().st_mtime_ns > known_clean(self.root, APP).going, "it is about to go"

    def put(self, key: Key, wanted: set[int]) -> None:
        artifacts = frozenset(map(artifact_id, wanted))
        self.entries.put([EntryWrite(key, body_of(value_of(*artifacts)), artifacts)])

    def evict(self, share: float) -> None:
        now = self._now()
        scan = Scan(now)
        list(scan.run(self.root, None))
        cut = cutoff(scan.histogram, Amount(int(scan.bytes * share)), 0)
        list(Sweep(self.root, cut, grace=0).run([APP]))

    def _now(self) -> int:
        """The time, once the coarser clock of files is there too."""
        now, probe = time.time_ns(), self.root.with_suffix(".clock")
        probe.touch()
        while probe.stat().st_ctime_ns <= now:
            probe.touch()
        return now

    def hear_of_cleans(self) -> None:
        exchange_cleans(self.bucket, self.root, durable=False)

    def clean(self) -> None:
        self.gone = time.time_ns()
        note_clean(self.root, APP, self.gone, durable=False)
        clean(self.root, APP, durable=False)
        exchange_cleans(self.bucket, self.root, durable=False)

    def follow(self, steps: int) -> None:
        """Follow the latest clean by some steps, beginning again if it is another one."""
        known = known_clean(self.root, APP)
        if not known.going:
            return
        if self.going[0] != known.time:
            self.crash()
        for _ in range(steps):
            before = self.newer(known.time)
            if next(self.following, None) is None:
                self.following = follow_clean(self.root, APP, known.time, durable=False)
            assert before <= self.newer(known.time), "something newer is gone"
        if known_clean(self.root, APP).is_followed:
            self.gone = max(self.gone, known.time)

    def crash(self) -> None:
        """Kill who follows a clean."""
        self.following = iter(())  # which closes the one before, and so releases its lock

    def files(self) -> dict[Path, int]:
        """All stored files, with their modification times."""
        found = APP.path(self.root).rglob("*")
        return {path: path.stat().st_mtime_ns for path in found if path.is_file()}

    def stored_keys(self) -> set[Key]:
        """The keys of all stored files."""
        found = (key_at(path.relative_to(self.root).parts) for path in self.files())
        return {key for key in found if key is not None}

    def newer(self, when: int) -> set[Path]:
        """What a clean at `when` has to leave: what is newer, with all that it refers to."""
        young = {path for path, stored in self.files().items() if stored > when}
        return {
            path
            for path in young
            if path.suffix != ".json"
            or all(
                Key(APP, Kind.CAS, each).path(self.root) in young
                for each in references_in(path.read_bytes())
            )
        }

    def answers(self) -> Iterator[tuple[Path, bytes]]:
        folder = APP.path(self.root) / Kind.KEYVALUE.folder
        return ((file, file.read_bytes()) for file in folder.rglob("*.json"))


class TwoNodes(RuleBasedStateMachine):
    """Two nodes, and a bucket."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.bucket = WatchedBucket()
        self.bucket.delete = self.never_deleted  # type: ignore[method-assign]
        self.nodes = [Node(self.folder / name, self.bucket) for name in ("one", "two")]
        self.is_sound = True  # whether the bucket has kept all that was put

    def never_deleted(self, name: str) -> None:
        raise AssertionError(f"{name} may be another version by now")

    def teardown(self) -> None:
        for node in self.nodes:
            node.temporary.remove()
        shutil.rmtree(self.folder)

    @rule(node=nodes, number=numbers)
    def upload(self, node: int, number: int) -> None:
        self.nodes[node].upload(number)

    @rule(node=nodes, key=entry_keys, wanted=st.sets(numbers, max_size=2))
    def put(self, node: int, key: Key, wanted: set[int]) -> None:
        self.nodes[node].put(key, wanted)

    @rule(node=nodes, key=keys)
    def push(self, node: int, key: Key) -> None:
        with suppress(BucketError):
            self.nodes[node].pusher.push(key)

    @rule(node=nodes, key=keys)
    def pull(self, node: int, key: Key) -> None:
        outcome = self.nodes[node].puller.start(key, lambda: None).result(60)
        assert (outcome is Outcome.HERE) <= key.path(self.nodes[node].root).exists()

    @rule(
        node=nodes,
        key=entry_keys,
        other=numbers,
        has_artifact=st.booleans(),
        step=st.sampled_from(
            ["evict", "put", "clean", "clean here", "lose", "crash", "hear", "follow", "push"]
        ),
    )
    def pull_and_meanwhile(
        self, node: int, key: Key, other: int, has_artifact: bool, step: str
    ) -> None:
        """Something happens when the artifacts of an entry have come, and itself has not."""
        here, there = self.nodes[node], self.nodes[1 - node]
        there.upload(other)
        there.put(key, {other} if has_artifact else set())
        self.push(1 - node, key)
        key.path(here.root).unlink(missing_ok=True)

        def crash() -> None:
            raise OSError("the process is gone")

        steps: dict[str, Callable[[], None]] = {
            "evict": lambda: here.evict(1.0),
            "put": lambda: here.put(key, {other}),
            "clean": there.clean,
            "clean here": here.clean,
            "lose": lambda: self.lose(Key(APP, Kind.CAS, artifact_id(other))),
            "hear": here.hear_of_cleans,
            "follow": lambda: here.follow(2),
            "push": lambda: self.push(1 - node, key),
            "crash": crash,
        }
        here.meanwhile = steps[step]
        self.pull(node, key)
        here.meanwhile = lambda: None

    @rule(
        node=nodes,
        old=numbers,
        key=entry_keys,
        wanted=st.sets(numbers, min_size=1, max_size=2),
        step=st.sampled_from(["before it hears", "before it follows", "while it follows"]),
        steps=st.integers(1, 12),
    )
    def clean_and_meanwhile(
        self, node: int, old: int, key: Key, wanted: set[int], step: str, steps: int
    ) -> None:
        """A node stores while it follows another one's clean, or before."""
        here, there = self.nodes[node], self.nodes[1 - node]
        here.upload(old)
        here.put(key, {old})
        self.push(node, key)
        there.clean()
        for now in "before it hears", "before it follows", "while it follows":
            if now == step:
                for number in wanted:
                    here.upload(number)
                here.put(key, wanted)
                self.push(node, key)
            if now == "before it hears":
                here.hear_of_cleans()
            else:
                here.follow(steps)

    @rule(node=nodes, number=numbers)
    def push_late(self, node: int, number: int) -> None:
        """A node that has not heard of a clean puts an older version in place of a newer one."""
        key = Key(APP, Kind.CAS, artifact_id(number))
        self.nodes[1 - node].upload(number)
        self.nodes[node].clean()
        self.nodes[node].upload(number)
        self.push(node, key)
        self.push(1 - node, key)

    @rule(node=nodes, share=st.sampled_from([0.3, 1.0]))
    def evict(self, node: int, share: float) -> None:
        self.nodes[node].evict(share)

    @rule(node=nodes)
    def clean(self, node: int) -> None:
        self.nodes[node].clean()

    @rule(node=nodes)
    def hear_of_cleans(self, node: int) -> None:
        self.nodes[node].hear_of_cleans()

    @rule(node=nodes, steps=st.integers(1, 12))
    def follow(self, node: int, steps: int) -> None:
        self.nodes[node].follow(steps)

    @rule(node=nodes)
    def crash(self, node: int) -> None:
        self.nodes[node].crash()

    @rule()
    def a_minute_goes_by(self) -> None:
        """Both nodes know of all cleans, and have put all that they have; a third one finds it."""
        for node in self.nodes:
            node.hear_of_cleans()
        for node in self.nodes:  # the second has told of its own by now
            node.hear_of_cleans()
            node.follow(100)
        latest = known_clean(self.nodes[0].root, APP)
        with mock.patch("cache_actors.storage.known_cleans.SETTLING_SECONDS", 0):
            for node in self.nodes:
                assert node.newer(latest.time) == node.files().keys()
                for key in node.stored_keys():
                    node.pusher.push(key, None if self.is_sound else time.time() + DAY)
        self.is_sound = True
        self.everything_can_be_pulled(latest.time)

    def everything_can_be_pulled(self, cleaned: int) -> None:
        third = Node(self.folder / "three", self.bucket)
        try:
            third.hear_of_cleans()
            for key in {key for node in self.nodes for key in node.stored_keys()}:
                found = self.bucket.get(object_name(CONFIG.prefix, key))
                assert found is not None
                assert int(found.metadata[STORED]) > cleaned
                assert third.puller.start(key, lambda: None).result(60) is Outcome.HERE
        finally:
            third.temporary.remove()
            shutil.rmtree(third.root)

    @rule(node=nodes)
    def lose_the_disk(self, node: int) -> None:
        shutil.rmtree(APP.path(self.nodes[node].root), ignore_errors=True)

    @rule(key=keys)
    def lose(self, key: Key) -> None:
        """The bucket loses an object."""
        self.is_sound = False
        Bucket.delete(self.bucket, object_name(CONFIG.prefix, key))

    @rule(key=keys)
    def garble(self, key: Key) -> None:
        """The bucket has other bytes for an object, as many as before."""
        name = object_name(CONFIG.prefix, key)
        found = self.bucket.get(name)
        if found is not None:
            data = bytes(byte ^ 1 for byte in b"".join(found.chunks()))
            self.bucket.put(name, data, found.metadata)
            self.is_sound = False

    @invariant()
    def entry_has_its_artifacts(self) -> None:
        for node in self.nodes:
            for file, body in node.answers():
                for artifact in references_in(body):
                    path = Key(APP, Kind.CAS, artifact).path(node.root)
                    assert path.read_bytes() == b"artifact %d" % number_of(artifact), file

    @invariant()
    def what_is_cleaned_is_gone_and_does_not_come_back(self) -> None:
        for node in self.nodes:
            files = node.files()
            assert all(stored > node.gone for stored in files.values())
            known = known_clean(node.root, APP)
            old = {(path, stored) for path, stored in files.items() if stored <= known.going}
            if node.going[0] == known.time:
                assert old <= node.going[1]
            node.going = known.time, old


def number_of(artifact: str) -> int:
    return next(number for number in range(4) if artifact_id(number) == artifact)


TwoNodes.TestCase.settings = settings(suppress_health_check=list(HealthCheck))
TestTwoNodes = TwoNodes.TestCase
