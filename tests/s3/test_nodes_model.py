"""The model of two nodes and a bucket: what a node answers as an entry, it has the artifacts of.

Uploads, puts, pushes, pulls, evictions, cleans and losses, on either node and in the bucket, come
in any order; and some in the middle of a pull, which may also end there, as in a crash.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cache_actors.kinds import Kind
from cache_actors.s3.cleans import Cleans
from cache_actors.s3.errors import BucketError
from cache_actors.s3.names import object_name
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
from cache_actors.storage.layout import TEMPORARY, Key
from cache_actors.storage.references import references_in
from cache_actors.storage.trash import clean, has_older
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
        self.cleans = Cleans(bucket)
        self.pusher = Pusher(root, bucket)
        self.meanwhile: Callable[[], None] = lambda: None
        self.puller = Puller(
            self.store,
            self.temporary,
            bucket,
            self.cleans,
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
        self.store.publish([Publication(path, [b"artifact %d" % number])])

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
        new = self.cleans.refresh()
        self.puller.settle()
        for project, cut in new.items():
            if has_older(self.root, project, cut.stored):
                clean(self.root, project, durable=False)

    def clean(self) -> None:
        self.cleans.clean(APP)
        self.puller.settle()
        clean(self.root, APP, durable=False)
        self.cleans.remove(APP)

    def answers(self) -> Iterator[tuple[Path, bytes]]:
        folder = APP.path(self.root) / Kind.KEYVALUE.folder
        return ((file, file.read_bytes()) for file in folder.rglob("*.json"))


class TwoNodes(RuleBasedStateMachine):
    """Two nodes, and a bucket."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.bucket = WatchedBucket()
        self.nodes = [Node(self.folder / name, self.bucket) for name in ("one", "two")]

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
        step=st.sampled_from(["evict", "put", "clean", "lose", "crash", "hear", "push"]),
    )
    def pull_and_meanwhile(self, node: int, key: Key, other: int, step: str) -> None:
        """Something happens when the artifacts of an entry have come, and itself has not."""
        here, there = self.nodes[node], self.nodes[1 - node]
        there.upload(other)
        there.put(key, {other})
        self.push(1 - node, key)
        key.path(here.root).unlink(missing_ok=True)

        def crash() -> None:
            raise OSError("the process is gone")

        steps: dict[str, Callable[[], None]] = {
            "evict": lambda: here.evict(1.0),
            "put": lambda: here.put(key, {other}),
            "clean": there.clean,
            "lose": lambda: self.lose(Key(APP, Kind.CAS, artifact_id(other))),
            "hear": here.hear_of_cleans,
            "push": lambda: self.push(1 - node, key),
            "crash": crash,
        }
        here.meanwhile = steps[step]
        self.pull(node, key)
        here.meanwhile = lambda: None

    @rule(node=nodes, share=st.sampled_from([0.3, 1.0]))
    def evict(self, node: int, share: float) -> None:
        self.nodes[node].evict(share)

    @rule(node=nodes)
    def clean(self, node: int) -> None:
        self.nodes[node].clean()

    @rule(node=nodes)
    def hear_of_cleans(self, node: int) -> None:
        self.nodes[node].hear_of_cleans()

    @rule(node=nodes)
    def lose_the_disk(self, node: int) -> None:
        shutil.rmtree(APP.path(self.nodes[node].root), ignore_errors=True)

    @rule(key=keys)
    def lose(self, key: Key) -> None:
        """The bucket loses an object."""
        self.bucket.delete(object_name(CONFIG.prefix, key))

    @rule(key=keys)
    def garble(self, key: Key) -> None:
        """The bucket has other bytes for an object, as many as before."""
        name = object_name(CONFIG.prefix, key)
        found = self.bucket.get(name)
        if found is not None:
            data = bytes(byte ^ 1 for byte in b"".join(found.chunks()))
            self.bucket.put(name, data, found.metadata)

    @invariant()
    def entry_has_its_artifacts(self) -> None:
        for node in self.nodes:
            for file, body in node.answers():
                for artifact in references_in(body):
                    path = Key(APP, Kind.CAS, artifact).path(node.root)
                    assert path.read_bytes() == b"artifact %d" % number_of(artifact), file


def number_of(artifact: str) -> int:
    return next(number for number in range(4) if artifact_id(number) == artifact)


TwoNodes.TestCase.settings = settings(suppress_health_check=list(HealthCheck))
TestTwoNodes = TwoNodes.TestCase
