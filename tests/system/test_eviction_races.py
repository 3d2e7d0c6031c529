"""Eviction beside everyone else, as processes: no entry is ever without its artifacts.

What the steps of one process may come to is `tests/storage/eviction/test_model.py`; what may
happen within a step is kept apart by a lock: see `test_entries.py` and `eviction/test_sweep.py`.
"""

import itertools
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cache_actors.kinds import Kind
from cache_actors.storage.entries import EntryWrite, EntryWriter
from cache_actors.storage.files.store import FileStore, Publication, Replacement
from cache_actors.storage.files.temporary import TemporaryFolder
from cache_actors.storage.layout import TEMPORARY, Key
from tests.support.cache_workers import SPARED, artifact, entry, incomplete_entries
from tests.support.lanes import NIGHTLY
from tests.support.mounts import tmpfs
from tests.support.stored import set_age
from tests.support.waiting import eventually

KILLS = 20 if NIGHTLY else 3
WRITERS = 2
LONG = 240.0
"""Seconds until a pass counts as hanging: its priority is low, and all cores may be busy."""

pytestmark = pytest.mark.timeout(900)

PASSES = 2
MAX_LIFE_SECONDS = 1.5
"""Seconds after which a pass that is going to be killed is, at the latest."""

LIMITS = ["--max-bytes=12000000", "--target=80", "--high=80"]
"""So low that passes hurry all the time."""

WORKER = [sys.executable, "-m", "tests.support.cache_workers"]
EVICT = [sys.executable, "-m", "cache_actors", "evict", "--json"]
EXIT_RUNNING = 3


@dataclass
class Passes:
    """Passes of eviction, one after the other, of which some are killed.

    Attributes:
        evicted: how many artifacts went, by pass; without those that were killed.
        killed: how many were.
        problems: what other passes ended with.
    """

    root: Path
    random: random.Random
    evicted: list[int] = field(default_factory=list)
    killed: int = 0
    problems: list[str] = field(default_factory=list)

    def run(self, over: threading.Event) -> None:
        for kills in itertools.cycle([False, True]):
            if over.is_set():
                break
            with running_pass(self.root) as process:
                if kills:
                    over.wait(self.random.uniform(0.1, MAX_LIFE_SECONDS))
                    process.kill()
                    self.killed += process.wait() < 0
                else:
                    self._take_in(process, over)

    def _take_in(self, process: subprocess.Popen[bytes], over: threading.Event) -> None:
        said, complaint = process.communicate(timeout=LONG)
        if process.returncode == EXIT_RUNNING:
            over.wait(0.05)
        elif process.returncode != 0:
            self.problems.append(complaint.decode())
        else:
            self.evicted.append(json.loads(said)["artifacts"])


@contextmanager
def running_pass(root: Path, limits: Sequence[str] = LIMITS) -> Iterator[subprocess.Popen[bytes]]:
    """A pass of eviction; killed in the end if it still runs."""
    process = subprocess.Popen(
        [*EVICT, f"--storage={root}", *limits],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


class Worker:
    """A writer or a reader, which is started again when it has been killed."""

    def __init__(self, output: Path, *arguments: str) -> None:
        self.output = output
        self._arguments = arguments
        self._lives = 0
        self.start()

    def start(self) -> None:
        what, root, seed, *rest = self._arguments
        self._lives += 1
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                [*WORKER, what, root, f"{seed}.{self._lives}", *rest], stdout=output, stderr=output
            )

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def problems(self) -> list[str]:
        """What it has said."""
        return self.output.read_text().splitlines()


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    with tmpfs(tmp_path / "cas", "size=1g,mode=755,strictatime") as root:
        yield root


@pytest.mark.alone
def test_no_entry_is_found_without_its_artifacts_whoever_is_killed(
    root: Path, tmp_path: Path
) -> None:
    seed = random.SystemRandom().randrange(1_000_000)
    rng = random.Random(seed)
    ledger = tmp_path / "ledger"
    writers = [
        Worker(tmp_path / f"writer{number}", "write", str(root), f"{seed}.{number}", str(ledger))
        for number in range(WRITERS)
    ]
    readers = [
        Worker(tmp_path / f"reader{number}", "read", str(root), f"{seed}.{number}", how)
        for number, how in enumerate(["strictatime", "noatime"])
    ]
    passes = [Passes(root, random.Random(f"{seed} {number}")) for number in range(PASSES)]
    over = threading.Event()
    loops = [threading.Thread(target=each.run, args=(over,)) for each in passes]
    for loop in loops:
        loop.start()
    try:
        for _ in range(KILLS):
            wait_for_puts(ledger)
            victim = rng.choice(writers)
            victim.kill()
            victim.start()
        eventually(lambda: is_tried(passes), LONG)
        over.set()
        for loop in loops:
            loop.join()
        last = evict_once_more(root)
    finally:
        over.set()
        for worker in [*writers, *readers]:
            worker.kill()

    assert [line for each in [*writers, *readers] for line in each.problems()] == [], seed
    assert incomplete_entries(root) == [], seed
    assert missing(ledger, since=last - SPARED) == [], seed
    assert [line for each in passes for line in each.problems] == [], seed


def wait_for_puts(ledger: Path) -> None:
    """Return once some more entries have been put."""
    before = lines_in(ledger)
    eventually(lambda: lines_in(ledger) > before + 50, LONG)


def lines_in(ledger: Path) -> int:
    return ledger.read_bytes().count(b"\n") if ledger.exists() else 0


def is_tried(passes: list[Passes]) -> bool:
    """Whether passes have evicted something, and been killed."""
    return any(sum(each.evicted) for each in passes) and any(each.killed for each in passes)


def evict_once_more(root: Path) -> float:
    """Run a pass that nobody kills; return when it took its look at the disk."""
    with running_pass(root) as process:
        said, complaint = process.communicate(timeout=LONG)
    assert process.returncode == 0, complaint
    report = json.loads(said)
    return float(report["ended"] - report["seconds"])


def missing(ledger: Path, since: float) -> list[str]:
    """The files that are gone of what was put since then."""
    rows = [line.split() for line in ledger.read_text().splitlines()]
    recent = [files for began, *files in rows if float(began) >= since]
    assert recent
    return [path for files in recent for path in files if not Path(path).exists()]


class SlowStore(FileStore):
    """A store that does not write entries until it may."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, TemporaryFolder(root / TEMPORARY), durable=False)
        self.reached, self.may_go_on = threading.Event(), threading.Event()

    def replace(self, batch: Sequence[Replacement]) -> list[OSError | None]:
        self.reached.set()
        assert self.may_go_on.wait(LONG)
        return super().replace(batch)


def test_pass_waits_for_an_entry_that_takes_long_to_write(root: Path) -> None:
    store, new = SlowStore(root), entry(0)
    file = Key(new.project, Kind.CAS, artifact(0)).path(root)
    store.publish([Publication(str(file), [b"artifact"])])
    body = f'{{"entries":[{{"value":"{artifact(0)}"}}]}}'.encode()
    write = EntryWrite(new, body, frozenset({artifact(0)}))
    with ThreadPoolExecutor(1) as threads:
        put = threads.submit(EntryWriter(store, require_artifacts=True).put, [write])
        assert store.reached.wait(LONG)
        set_age(file, time.time_ns() - 60_000_000_000)  # the disk takes a minute for the entry
        with running_pass(root, ["--max-bytes=1", "--target=1", "--high=1"]) as process:
            try:
                eventually(lambda: waits_for_a_lock(process), LONG)
            finally:
                store.may_go_on.set()
            assert put.result() == [None]
            assert process.wait(LONG) == 0
    assert not new.path(root).exists() or file.exists()


def waits_for_a_lock(process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None
    lines = Path("/proc/locks").read_text().splitlines()
    return any("->" in line and str(process.pid) in line.split() for line in lines)
