"""System calls that fail at random, in any process of the service, while clients store and read.

Each answer is one of the contract's, what has been acknowledged is read byte for byte, also after a
restart, nothing is torn or left behind, and all of the service works once the fault is over.
"""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from cache_actors.cli.dev.tuist import StandInTuist
from tests.support.folders import files_below
from tests.support.service import Service, client_of, nodes_of, running_service
from tests.support.strace import attached, family, last_argument
from tests.support.waiting import eventually
from tests.system.test_storage_faults import Write

from .test_requests import STATUSES

EXAMPLES = 25
"""Examples of each number of workers, each of which is some seconds of strace."""

ANSWERS = STATUSES | {500}
"""Statuses that may be answered; 500 is for a disk that fails."""

SIZES = {"small": 3000, "large": 2 << 20, "unannounced": 2 << 20, "entry": 3000}
KINDS = [*SIZES, "gradle", "module"]
PART_BYTES = 200_000

CALLS = [
    *("openat", "read", "write,writev", "pwrite64,pwritev,pwritev2", "pread64,preadv,preadv2"),
    *("sendfile", "fsync", "fdatasync", "link,linkat", "rename,renameat,renameat2", "flock"),
    *("unlink,unlinkat", "mkdir,mkdirat", "rmdir", "fstat,newfstatat,statx,stat,lstat"),
    *("ftruncate", "fallocate", "fsetxattr", "fgetxattr", "utimensat", "chmod,fchmod,fchmodat"),
    *("getdents64", "accept4", "lseek", "copy_file_range", "fstatfs,statfs"),
]
ERRORS = ["EIO", "ENOSPC", "EDQUOT", "EINTR", "EMFILE", "ESTALE", "EROFS"]
PROCESSES = ["all", "writers", "others"]


@dataclass(frozen=True)
class Item:
    """Something that is stored, and may be again: with the same content, if it is no entry."""

    kind: str
    name: str = field(default_factory=lambda: uuid4().hex * 2)

    @property
    def _write(self) -> Write:
        return Write(self.kind, f"0~{self.name}", SIZES[self.kind])

    def read(self, client: httpx.Client) -> httpx.Response:
        """The answer to a read of it."""
        if self.kind in SIZES:
            return client.get(self._write.url)
        params = {"hash": self.name, "name": "App.zip"} if self.kind == "module" else {}
        return client.get(f"/api/cache/{self.kind}/{self.name}", params=params)

    def content(self, version: str) -> bytes:
        """What is read if this version has been stored."""
        if self.kind in SIZES:
            return self._write.content(version if self.kind == "entry" else self.name[:32])
        return self.name.encode() * (2 * PART_BYTES // len(self.name))

    def store(self, client: httpx.Client, version: str) -> httpx.Response:
        """Store a version; the answer is that to the last request of it, or to one that failed."""
        if self.kind in SIZES:
            return self._write.send(client, version if self.kind == "entry" else self.name[:32])
        content = self.content(version)
        if self.kind == "gradle":
            return client.put(f"/api/cache/gradle/{self.name}", content=content)
        module = {"hash": self.name, "name": "App.zip"}
        answer = client.post("/api/cache/module/start", params=module)
        if answer.status_code != 200 or answer.json()["upload_id"] is None:
            return answer
        upload = {"upload_id": answer.json()["upload_id"]}
        for number in 1, 2:
            part = content[(number - 1) * PART_BYTES : number * PART_BYTES]
            numbered = upload | {"part_number": str(number)}
            answer = client.post("/api/cache/module/part", params=numbered, content=part)
            if not answer.is_success:
                return answer
        return client.post("/api/cache/module/complete", params=upload, json={"parts": [1, 2]})


class Stored:
    """What may be read of each item: nothing of one that `quarantine` has, as the disk lost it.

    Attributes:
        acknowledged: what was acknowledged last.
        refused: what was sent since, and not acknowledged: that may have been stored all the same.
    """

    def __init__(self, quarantine: Path) -> None:
        self.quarantine = quarantine
        self.acknowledged: dict[Item, bytes] = {}
        self.refused: dict[Item, set[bytes]] = {}

    def quarantined(self) -> set[Path]:
        """The files in quarantine."""
        return {*files_below(self.quarantine)}

    def store(self, client: httpx.Client, item: Item) -> bool:
        """Store a new version of an item; return whether it was acknowledged."""
        version = uuid4().hex
        content = item.content(version)
        answer = item.store(client, version)
        assert answer.status_code in ANSWERS | {201}, (item, answer.text)
        if answer.is_success:
            self.acknowledged[item] = content
            self.refused.pop(item, None)
        else:
            assert list(answer.json()) == ["message"], (item, answer.text)
            self.refused.setdefault(item, set()).add(content)
        return answer.is_success

    def expect(self, item: Item, answer: httpx.Response, *, fault: bool = False) -> None:
        """An answer to a read is as it may be."""
        assert answer.status_code in ({*ANSWERS} if fault else {200, 404}), (item, answer.text)
        if answer.status_code == 200:
            known = {self.acknowledged.get(item)} | self.refused.get(item, set())
            assert (answer.content in known) is True, item
        elif not fault and item in self.acknowledged:
            assert [*self.quarantine.rglob(f"*{item.name}*")], item
            del self.acknowledged[item]


@pytest.fixture(scope="module", params=["1", "2"], ids=["1 worker", "2 workers"])
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Service, Stored]]:
    """A service, and what has been stored there."""
    with StandInTuist({"token": ["acme/app"]}) as tuist:
        storage = tmp_path_factory.mktemp("faults") / "cas"
        service = Service(storage, tuist.url, {"WORKERS": request.param})
        with running_service(service):
            yield service, Stored(storage / ".quarantine")


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@settings(max_examples=EXAMPLES, phases=[Phase.generate])  # as each changes what is stored
@given(
    calls=st.sampled_from(CALLS),
    error=st.sampled_from(ERRORS),
    first=st.integers(1, 12),
    times=st.integers(1, 6),
    processes=st.sampled_from(PROCESSES),
    end=st.sampled_from([None, None, signal.SIGTERM, signal.SIGKILL]),
)
def test_nothing_acknowledged_is_lost_when_system_calls_fail(
    running: tuple[Service, Stored],
    tmp_path_factory: pytest.TempPathFactory,
    calls: str,
    error: str,
    first: int,
    times: int,
    processes: str,
    end: signal.Signals | None,
) -> None:
    service, stored = running
    names = ",".join(f"?{name}" for name in calls.split(","))
    when = f"{first}..{first + times - 1}"  # of the calls of each thread
    items = [Item(kind) for kind in KINDS for _ in range(2)]
    items += [item for item in stored.acknowledged if item.kind == "entry"][-2:]
    before = stored.quarantined()
    output = tmp_path_factory.mktemp("trace") / "trace"
    options = ["-e", f"trace={names}", "-e", f"inject={names}:error={error}:when={when}"]
    with (
        attached(service, output, *options, pids=some_of(service, processes)),
        ThreadPoolExecutor(4) as threads,
    ):
        list(threads.map(lambda item: use(service, stored, item), items))
    assert service.is_running()
    eventually(lambda: is_whole(service))
    expect_all(service, stored, items)
    if end is not None:
        assert service.stop(end) == (0 if end == signal.SIGTERM else -signal.SIGKILL)
        service.start()
    if error != "EIO":
        assert stored.quarantined() == before
    with client_of(service.url) as client:
        for item in items:
            assert stored.store(client, item), item
    expect_all(service, stored, [*stored.acknowledged])
    eventually(lambda: not left_behind(service) and not nameless_files(service))


def some_of(service: Service, processes: str) -> list[int]:
    """The processes of a service that are meant."""
    pids = [pid for pid in family(service.pid) if last_argument(pid)]  # none that has just ended
    writers = [pid for pid in pids if is_writer(pid)]
    return {"all": pids, "writers": writers, "others": [*{*pids} - {*writers}]}[processes]


def is_writer(pid: int) -> bool:
    """Whether a process commits for an actor."""
    return b"writer_process" in Path(f"/proc/{pid}/cmdline").read_bytes()


def use(service: Service, stored: Stored, item: Item) -> None:
    """Store an item and read it, as a client of its own."""
    with client_of(service.url) as client:
        for _ in range(2):
            stored.store(client, item)
            with suppress(httpx.RemoteProtocolError):  # cut off, rather than made up
                stored.expect(item, item.read(client), fault=True)


def expect_all(service: Service, stored: Stored, items: list[Item]) -> None:
    """All that is stored can be read as it was acknowledged."""
    with client_of(service.url) as client:
        for item in items:
            stored.expect(item, item.read(client))


def is_whole(service: Service) -> bool:
    """Whether all of a service runs, and its storage is well."""
    with suppress(httpx.TransportError):
        answer = service.up()
        if answer.status_code == 200:
            body = answer.json()
            return body["storage"]["state"] == "ok" and all(
                node["state"] == "running" for node in nodes_of(body["tree"])
            )
    return False


def left_behind(service: Service) -> list[Path]:
    """The temporary files, without what is known of modules' uploads for a while."""
    temporary = service.storage / ".tmp"
    known = {temporary / "uploads", temporary / "completed"}
    return [path for path in files_below(temporary) if known.isdisjoint(path.parents)]


def nameless_files(service: Service) -> list[str]:
    """The files without a name that a service holds open in its storage."""
    found = []
    for pid in family(service.pid):
        with suppress(FileNotFoundError):  # a process that has just ended
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(FileNotFoundError):
                    found.append(str(link.readlink()))
    return [name for name in found if name.startswith(str(service.storage)) and name.endswith(")")]
