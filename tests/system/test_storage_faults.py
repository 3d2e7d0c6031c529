"""A storage that is full, broken or forbidden, below the real process.

Whatever the fault: writes are refused with the right status and leave nothing behind, reads go on,
no actor crashes, and once the fault is gone the same writes work without a restart.
"""

import os
import random
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from cache_actors.cli.dev.tuist import StandInTuist
from tests.support.folders import files_below
from tests.support.lanes import let_others_go_first
from tests.support.mounts import remount, require_root, tmpfs
from tests.support.programs import find_program
from tests.support.service import (
    CHANGED_COMMAND,
    COMMAND,
    Service,
    client_of,
    constants,
    nodes_of,
    running_service,
)
from tests.support.strace import family, injected
from tests.support.waiting import eventually
from tests.support.wire import connect, read_response, status_of, upload_head
from tests.support.writers import PAUSE

Step = Callable[[], None]


MEBIBYTE = 1 << 20
SMALL = 3000
LARGE = 2 * MEBIBYTE
BALLAST = ".ballast"
NOBODY = 65534
OLD_SHARD = "00"


@dataclass(frozen=True)
class Write:
    """Something that can be stored again and again, with another content each time."""

    kind: str
    name: str
    size: int = SMALL

    @property
    def file(self) -> str:
        """Where it lies below the storage folder."""
        ending = ".json" if self.kind == "entry" else ""
        folder = "keyvalue" if self.kind == "entry" else "cas"
        return f"acme/app/{folder}/{self.name[2:4]}/{self.name}{ending}"

    @property
    def url(self) -> str:
        """Where it is read."""
        folder = "keyvalue" if self.kind == "entry" else "cas"
        return f"/api/cache/{folder}/{self.name}"

    def content(self, version: str) -> bytes:
        """What is read if this version has been stored."""
        if self.kind == "entry":
            return b'{"entries":[{"value":"%b"}]}' % (version.encode() * (self.size // 32))
        return f"{self.name} {version} ".encode().ljust(self.size, version[0].encode())

    def send(self, client: httpx.Client, version: str) -> httpx.Response:
        """Store a version."""
        content = self.content(version)
        if self.kind == "entry":
            body = b'{"cas_id":"%b",%b' % (self.name.encode(), content[1:])
            return client.put("/api/cache/keyvalue", content=body)
        if self.kind == "unannounced":
            pieces = (content[start : start + 65536] for start in range(0, len(content), 65536))
            return client.post(self.url, content=pieces)
        return client.post(self.url, content=content)


def writes_of(*kinds: str) -> list[Write]:
    """One of each kind into a folder that is there, and one into a new folder."""
    sizes = {"small": SMALL, "large": LARGE, "unannounced": LARGE, "entry": SMALL}
    return [
        Write(kind, f"0~{shard}-{kind}-{uuid4().hex}", sizes[kind])
        for kind in kinds
        for shard in (OLD_SHARD, uuid4().hex[:2])
    ]


KINDS = ("small", "large", "unannounced", "entry")
ARTIFACTS = ("small", "large", "unannounced")


@dataclass
class Cache:
    """A service, and what has been stored in it.

    Attributes:
        before: the files that were there before, below the storage folder.
    """

    service: Service
    client: httpx.Client
    stored: dict[Write, bytes] = field(default_factory=dict)
    before: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self.before = set(self.files())

    def files(self) -> dict[str, Path]:
        """What is stored and not temporary, by its name below the storage folder."""
        root = self.service.storage
        paths = {str(path.relative_to(root)): path for path in files_below(root)}
        skipped = (BALLAST, ".tmp/", ".log/", ".last-scrub")
        return {name: path for name, path in paths.items() if not name.startswith(skipped)}

    def store(self, write: Write) -> None:
        """Store a new version, which must work."""
        version = uuid4().hex
        answer = write.send(self.client, version)
        assert answer.status_code == 204, (write, answer.text)
        self.stored[write] = write.content(version)

    def fill(self) -> None:
        """Store what has to survive."""
        for kind in ("small", "large", "entry"):
            self.store(writes_of(kind)[0])

    def fill_the_disk(self) -> None:
        """Take all room of the storage's disk, also what a probe has just set aside.

        The service finds no room from then on, so that no other probe sets any aside.
        """
        take_all_room(self.service.storage)
        self.becomes("full")
        take_all_room(self.service.storage)

    def refuses(self, write: Write, status: int) -> None:
        """A new version is refused with `status`, and is not there afterwards."""
        version = uuid4().hex
        answer = write.send(self.client, version)
        assert answer.status_code == status, (write, answer.text)
        assert list(answer.json()) == ["message"]
        assert isinstance(answer.json()["message"], str)
        if write in self.stored:  # a replaced entry: the one before, or all of the new one
            new = write.content(version)
            assert self.client.get(write.url).content in {self.stored[write], new}
            self.stored[write] = self.client.get(write.url).content
        elif write.kind != "entry":
            assert self.client.get(write.url).status_code == 404
        else:  # one that could not be synced is complete at least
            read = self.client.get(write.url)
            assert read.status_code == 404 or read.content == write.content(version)

    def reads_go_on(self) -> None:
        """All that has been stored is read as it was."""
        for write, content in self.stored.items():
            answer = self.client.get(write.url)
            assert answer.status_code == 200, (write, answer.text)
            assert answer.content == content, write

    def is_up(self) -> None:
        """`/up` is 200, and no actor has crashed."""
        answer = self.client.get("/up")
        assert answer.status_code == 200
        for node in nodes_of(answer.json()["tree"]):
            assert node["restarts"] == 0, node

    def nothing_partial(self, *refused: Write) -> None:
        """There are complete files under their names, and no temporary ones."""
        whole = {write.file: content for write, content in self.stored.items()}
        entries = {write.file for write in refused if write.kind == "entry"}
        for name, path in self.files().items():
            assert name in whole.keys() | entries | self.before, f"{name} was never acknowledged"
            if name in whole:
                assert path.read_bytes() == whole[name], name
        no_files_below(self.service.storage / ".tmp")
        eventually(lambda: not self.nameless_files())

    def nameless_files(self) -> list[str]:
        """The files without a name that the service holds open, and with them their room."""
        found = []
        for pid in family(self.service.pid):
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(FileNotFoundError):
                    found.append(str(link.readlink()))
        return [target for target in found if target.endswith(" (deleted)")]

    def becomes(self, state: str) -> None:
        """`/up` says that the storage is in this state, soon, and why."""

        def storage() -> dict[str, Any]:
            answer = self.client.get("/up")
            assert answer.status_code == 200
            found: dict[str, Any] = answer.json()["storage"]
            return found

        eventually(lambda: storage()["state"] == state)
        assert (storage()["reason"] is None) == (state == "ok")
        ready = self.client.get("/ready")
        assert ready.status_code == (200 if state == "ok" else 503)
        assert ready.json()["status"] == ("ready" if state == "ok" else f"storage_{state}")

    def survives(
        self,
        begin: Step,
        end: Step,
        status: int,
        kinds: tuple[str, ...] = KINDS,
        during: Step = lambda: None,
    ) -> None:
        """The whole course of a fault: before, during, after."""
        process = self.service.pid
        self.fill()
        writes = writes_of(*kinds)
        if "entry" in kinds:
            writes += [write for write in self.stored if write.kind == "entry"]
        begin()
        try:
            for write in writes:
                self.refuses(write, status)
            self.reads_go_on()
            self.is_up()
            self.nothing_partial(*writes)
            during()
        finally:
            end()
        for write in writes:
            self.store(write)
        self.reads_go_on()
        self.is_up()
        self.nothing_partial()
        assert self.service.pid == process
        assert self.service.is_running()


@contextmanager
def cache_on(
    storage: Path,
    tuist: StandInTuist,
    environment: dict[str, str] | None = None,
    command: tuple[str, ...] = COMMAND,
) -> Iterator[Cache]:
    """A service with its storage there."""
    service = Service(storage, tuist.url, environment or {}, command)
    with running_service(service), client_of(service.url) as client:
        yield Cache(service, client)


@pytest.fixture(scope="module")
def shared(shared_tuist: StandInTuist, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cache]:
    """A service on an ordinary file system."""
    with cache_on(tmp_path_factory.mktemp("shared") / "cas", shared_tuist) as cache:
        yield cache


@pytest.fixture
def cache(shared: Cache) -> Cache:
    """The same, and what a test stores in it."""
    return Cache(shared.service, shared.client)


@pytest.fixture(scope="module")
def shared_small(
    shared_tuist: StandInTuist, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cache]:
    """A service on a small file system, which often looks whether it can be written to."""
    folder = tmp_path_factory.mktemp("small") / "cas"
    often = constants({"actors.housekeeper.PROBE_SECONDS": 0.2})
    with (
        tmpfs(folder, "size=64m,mode=0755") as storage,
        cache_on(storage, shared_tuist, often, CHANGED_COMMAND) as cache,
    ):
        yield cache


@pytest.fixture
def small_cache(shared_small: Cache) -> Cache:
    """The same, and what a test stores in it."""
    return Cache(shared_small.service, shared_small.client)


# Full.


def test_full_disk_is_507_until_there_is_room_again_and_up_says_so(small_cache: Cache) -> None:
    storage = small_cache.service.storage

    def end() -> None:
        give_room_back(storage)
        small_cache.becomes("ok")

    small_cache.becomes("ok")
    small_cache.survives(
        small_cache.fill_the_disk, end, 507, during=lambda: small_cache.becomes("full")
    )


def test_lack_of_inodes_is_507_until_there_are_some_again(
    tmp_path: Path, tuist: StandInTuist
) -> None:
    with (
        tmpfs(tmp_path / "cas", "size=48m,nr_inodes=200,mode=0755") as storage,
        cache_on(storage, tuist) as cache,
    ):
        cache.survives(lambda: take_all_inodes(storage), lambda: give_room_back(storage), 507)


def test_large_upload_is_refused_before_its_body_is_sent(small_cache: Cache) -> None:
    storage = small_cache.service.storage
    take_all_room(storage)
    try:
        with connect(small_cache.service) as connection:
            connection.sendall(upload_head(20_000_000))
            assert status_of(read_response(connection)) == 507
    finally:
        give_room_back(storage)
    small_cache.nothing_partial()


# Forbidden.


def test_read_only_disk_is_500_until_it_is_writable_again_and_up_says_so(
    small_cache: Cache,
) -> None:
    storage = small_cache.service.storage

    def end() -> None:
        remount(storage, "rw")
        small_cache.becomes("ok")

    small_cache.becomes("ok")
    small_cache.survives(
        lambda: remount(storage, "ro"), end, 500, during=lambda: small_cache.becomes("failing")
    )


def test_folders_that_may_not_be_written_to_are_500_until_they_may(tuist: StandInTuist) -> None:
    require_root()
    user = [find_program("setpriv"), f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    # Python may lie where only root may look; its processes have to be started all the same.
    user += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    with tempfile.TemporaryDirectory(prefix="cache-actors-storage-") as folder:
        Path(folder).chmod(0o755)
        storage = Path(folder) / "cas"
        storage.mkdir()
        os.chown(storage, NOBODY, NOBODY)
        with cache_on(storage, tuist, command=(*user, *COMMAND)) as cache:
            status = Path(f"/proc/{cache.service.pid}/status").read_text()
            assert f"Uid:\t{NOBODY}\t{NOBODY}" in status
            project = storage / "acme" / "app"
            cache.survives(lambda: lock_up(project, 0, 0o555), lambda: lock_up(project), 500)


# Failing system calls.

INJECTIONS: list[tuple[tuple[str, ...], tuple[str, ...], str, int]] = [
    (("fsync",), ("large",), "EIO", 500),  # of a folder; small files are in the log
    (("fdatasync",), KINDS, "ENOSPC", 507),
    (("link", "linkat"), ARTIFACTS, "EIO", 500),
    (("rename", "renameat", "renameat2"), ("entry",), "ENOSPC", 507),
    (("writev", "pwritev", "pwrite64", "pwritev2"), KINDS, "EIO", 500),
    (("fallocate",), ("large",), "ENOSPC", 507),
    (("setxattr", "fsetxattr"), KINDS, "EIO", 500),
]


@pytest.mark.parametrize(
    ("names", "kinds", "error", "status"), INJECTIONS, ids=[names[0] for names, *_ in INJECTIONS]
)
def test_system_call_that_fails_refuses_the_write_and_nothing_else(
    cache: Cache,
    tmp_path: Path,
    names: tuple[str, ...],
    kinds: tuple[str, ...],
    error: str,
    status: int,
) -> None:
    fault = ExitStack()
    injection = injected(cache.service, tmp_path / "trace", names, error)
    cache.survives(lambda: fault.enter_context(injection), fault.close, status, kinds)


# Two devices.


def test_device_where_uploads_wait_may_be_another_and_either_may_be_full(
    tmp_path: Path, tuist: StandInTuist
) -> None:
    with (
        tmpfs(tmp_path / "cas", "size=48m,mode=0755") as storage,
        tmpfs(tmp_path / "tmp", "size=48m,mode=0755") as waiting,
        cache_on(storage, tuist, {"TMP_DIR": str(waiting)}) as cache,
    ):

        def small_ones_are_stored() -> None:
            for write in writes_of("small", "entry"):
                cache.store(write)

        for full, begin, kinds, during in (
            (storage, cache.fill_the_disk, KINDS, partial(no_files_below, waiting)),
            (
                waiting,
                partial(take_all_room, waiting),
                ("large", "unannounced"),
                small_ones_are_stored,
            ),
        ):
            cache.survives(begin, partial(give_room_back, full), 507, kinds, during)
            no_files_below(waiting)


# Several processes.


class Crowd:
    """Many clients of several services with one storage, who check all that they read.

    They rest after each request and go last, so that a service that starts gets on too.
    They store the same things again and again, each time with another content.
    """

    def __init__(self, services: list[Service]) -> None:
        self.services = services
        self.over = threading.Event()
        self.reads = 0
        self.sent: dict[Write, set[bytes]] = {
            Write(
                ("small", "large", "entry")[number % 3], f"0~{number % 5:02}-{number}", size
            ): set()
            for number, size in enumerate([SMALL, 300_000, SMALL] * 10)
        }
        self.acknowledged: set[Write] = set()
        self._seen: dict[Write, bytes] = {}

    def work(self) -> None:
        """Write and read at random until it is over."""
        let_others_go_first()
        with ExitStack() as stack:
            clients = [stack.enter_context(client_of(each.url)) for each in self.services]
            while not self.over.is_set():
                do = random.choice([self._write, self.read])
                with suppress(httpx.TransportError):  # the one that was killed
                    do(random.choice(list(self.sent)), random.choice(clients))
                self.over.wait(PAUSE)

    def _write(self, write: Write, client: httpx.Client) -> None:
        version = uuid4().hex
        self.sent[write].add(write.content(version))
        answer = write.send(client, version)
        assert answer.status_code == 204, (write, answer.text)
        self.acknowledged.add(write)

    def read(self, write: Write, client: httpx.Client) -> None:
        """Read one of them, which must be what somebody sent, and an artifact never another."""
        may_be_missing = write not in self.acknowledged
        answer = client.get(write.url)
        self.reads += 1
        if answer.status_code == 404 and may_be_missing:
            return
        assert answer.status_code == 200, (write, answer.text)
        assert answer.content in self.sent[write], write
        if write.kind != "entry":
            assert self._seen.setdefault(write, answer.content) == answer.content, write


@pytest.mark.timeout(600)
def test_processes_share_a_storage_while_one_of_them_is_killed(
    tmp_path: Path, tuist: StandInTuist
) -> None:
    storage = tmp_path / "cas"
    with ExitStack() as stack, ThreadPoolExecutor(4) as threads:
        services = [
            stack.enter_context(running_service(Service(storage, tuist.url))) for _ in range(2)
        ]
        crowd = Crowd(services)
        working = [threads.submit(crowd.work) for _ in range(4)]
        try:
            for wanted in 50, 100:
                eventually(lambda n=wanted: crowd.reads >= n or any(w.done() for w in working))  # type: ignore[misc]
                services[1].stop(signal.SIGKILL)
                services[1].start()
        finally:
            crowd.over.set()
        for each in working:
            each.result()
        assert len(crowd.acknowledged) > 20
        for service in services:
            with client_of(service.url) as client:
                for write in crowd.acknowledged:
                    crowd.read(write, client)
            assert service.stop() == 0
    assert list((storage / ".tmp").iterdir()) == []
    found = {str(path.relative_to(storage)) for path in files_below(storage)}
    assert found - {".last-scrub"} <= {write.file for write in crowd.sent}


# What they share.


def no_files_below(folder: Path) -> None:
    """There is no file below `folder`, or not for long: the service tries whether it can write."""
    eventually(lambda: not [path for path in files_below(folder) if path.name != BALLAST])


def take_all_room(folder: Path) -> None:
    """Leave not one byte of the file system at `folder`."""
    ballast = os.open(folder / BALLAST, os.O_CREAT | os.O_WRONLY)
    try:
        with suppress(OSError):
            while True:
                os.write(ballast, bytes(65536))
        with suppress(OSError):
            while True:
                os.write(ballast, bytes(1))
    finally:
        os.close(ballast)
    assert os.statvfs(folder).f_bavail == 0


def take_all_inodes(folder: Path) -> None:
    """Leave not one inode of the file system at `folder`."""
    with suppress(OSError):
        for number in range(100_000):
            (folder / f"{BALLAST}{number}").touch()
    assert os.statvfs(folder).f_favail == 0


def give_room_back(folder: Path) -> None:
    """Undo either."""
    for path in folder.glob(f"{BALLAST}*"):
        path.unlink()


def lock_up(folder: Path, owner: int = NOBODY, mode: int = 0o2750) -> None:
    """Hand `folder` and the folders below to `owner`."""
    for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        os.chown(path, owner, owner)
        path.chmod(mode)
