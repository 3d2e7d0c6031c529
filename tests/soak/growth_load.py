"""A load that makes a cache grow, through nginx, and looks whether what it was told holds.

Builders upload artifacts and put entries that refer to them, as fast as they can. Readers retrieve
entries and fetch their artifacts; some of them, the hot ones, all the time.
"""

import http.client
import itertools
import os
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from typing import Self

from cache_actors.storage.eviction.run import HURRIED_SECONDS
from cache_actors.storage.files.store import RECENT_NS

TYPICAL_SIZES = (10 << 10,) * 6 + (256 << 10,) * 3 + (2 << 20,)
SMALL_SIZES = (1 << 10, 4 << 10)
"""Of artifacts, in bytes."""

HOT = 10
"""Builds that are read again and again."""

REUSED = 0.3
"""Of the artifacts of a build, those that other builds have made: nginx answers their uploads."""

READ_PAUSE = 0.02
"""Seconds between two builds that a reader reads: if all are read all the time, none may go."""

KNOWN = 20_000
"""Builds that readers and builders choose from, at most."""

GRACE = HURRIED_SECONDS * 0.9
SPARED = HURRIED_SECONDS - RECENT_NS / 1e9
"""Seconds for which the artifacts of an entry that was retrieved, or put, are there in any case."""

TOKEN = "token"
QUERY = "account_handle=acme&project_handle=app"
TIMEOUT = 60


@dataclass(frozen=True, slots=True)
class Artifact:
    """An artifact, whose content follows from its id."""

    id: str
    size: int

    @property
    def path(self) -> str:
        return f"cas/{self.id}"

    def data(self) -> bytes:
        return (self.id.encode() * (self.size // len(self.id) + 1))[: self.size]


@dataclass(frozen=True, slots=True)
class Build:
    """An entry that has been acknowledged, and its artifacts."""

    entry: str
    artifacts: tuple[Artifact, ...]

    @property
    def path(self) -> str:
        return f"keyvalue/{self.entry}"

    def data(self) -> bytes:
        values = ",".join(f'{{"value":"{each.id}"}}' for each in self.artifacts)
        return f'{{"entries":[{values}]}}'.encode()


class Client:
    """A connection to nginx, made again when it is closed."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)

    def upload(self, artifact: Artifact) -> int:
        """Store an artifact; return the status."""
        return self._ask("POST", artifact.path, artifact.data())[0]

    def put(self, build: Build) -> int:
        """Store the entry of a build; return the status."""
        head = f'{{"cas_id":"{build.entry}",'.encode()
        return self._ask("PUT", "keyvalue", head + build.data()[1:])[0]

    def get(self, path: str) -> tuple[int, bytes]:
        """Read something; return status and body."""
        return self._ask("GET", path)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        try:
            self._connection.request(method, f"/api/cache/{path}?{QUERY}", body, headers)
            with self._connection.getresponse() as answer:
                return answer.status, answer.read()
        except BaseException:
            self._connection.close()
            raise


@dataclass
class Report:
    """What has come of a load.

    Attributes:
        counts: of what happened, by a few words.
        problems: what should not have been.
        least: the least room that there was, in bytes and in files.
        uploaded: bytes.
        longest_refusal: seconds in which all uploads and puts were refused for want of room.
    """

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    least: tuple[int, int] = (1 << 62, 1 << 62)
    uploaded: int = 0
    longest_refusal: float = 0.0


class Load:
    """Builders and readers, as a context manager: when it is left they have all come to their end.

    Args:
        port: where nginx listens on loopback.
        storage: the storage folder, for a look at its room.
        sizes: of artifacts.
        pause: seconds that each builder rests after a build; without them they work at full speed.
    """

    def __init__(
        self,
        port: int,
        storage: Path,
        *,
        sizes: tuple[int, ...] = TYPICAL_SIZES,
        builders: int = 4,
        readers: int = 2,
        pause: float = 0.0,
    ) -> None:
        self.report = Report()
        self._port = port
        self._storage = storage
        self._sizes = sizes
        self._pause = pause
        self._builds: deque[Build] = deque(maxlen=KNOWN)
        self._numbers = itertools.count()
        self._accepted_at = 0.0
        self._salt = random.SystemRandom().randbytes(8).hex()
        self._over, self._built = threading.Event(), threading.Event()
        self._builders = [
            threading.Thread(target=self._run, args=(self._build, self._built))
            for _ in range(builders)
        ]
        self._others = [
            threading.Thread(target=self._run, args=(self._read, self._over))
            for _ in range(readers)
        ]
        self._others.append(threading.Thread(target=self._keep_hot))
        self._others.append(threading.Thread(target=self._watch_the_room))

    def __enter__(self) -> Self:
        for thread in [*self._builders, *self._others]:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop_building(self) -> None:
        """Let builders come to their end, and readers go on."""
        self._built.set()
        for thread in self._builders:
            thread.join()

    def stop(self) -> None:
        """Let everyone come to their end."""
        self.stop_building()
        self._over.set()
        for thread in self._others:
            thread.join()

    # --- What is done, again and again ----------------------------------------------------------

    def _run(self, work: Callable[[Client], None], over: threading.Event) -> None:
        with closing(Client(self._port)) as client:
            while not over.is_set():
                with self._broken_connections_allowed():
                    work(client)

    @contextmanager
    def _broken_connections_allowed(self) -> Iterator[None]:
        """Connections may break, as the service is killed; answers may not fail to come."""
        try:
            yield
        except TimeoutError:
            self.report.problems.append("no answer")
        except (ConnectionError, http.client.HTTPException):
            pass

    def _build(self, client: Client) -> None:
        self._built.wait(self._pause)
        artifacts = tuple(self._artifact() for _ in range(random.randint(1, 3)))
        build = Build(f"0~{self._name()}=", artifacts)
        for each in artifacts:
            if not self._accepted("upload", client.upload(each)):
                return
            self.report.uploaded += each.size
        began = time.monotonic()
        if not self._accepted("put", client.put(build)):
            return
        self._builds.append(build)
        if random.random() < 0.1:
            self._check(client, build, began, SPARED, "just put", must_exist=True)

    def _accepted(self, what: str, status: int) -> bool:
        """Whether a write has been; one that was not has to say why."""
        self.report.counts[f"{what} {status}"] += 1
        now = time.monotonic()
        if status == HTTPStatus.NO_CONTENT:
            self._accepted_at = now
            return True
        if status == HTTPStatus.INSUFFICIENT_STORAGE:
            lasts = now - self._accepted_at
            self.report.longest_refusal = max(lasts, self.report.longest_refusal)
            self._built.wait(0.05)
        elif status in (429, HTTPStatus.SERVICE_UNAVAILABLE):  # too much at once, or it was killed
            self._built.wait(0.05)
        elif status != HTTPStatus.CONFLICT:  # an artifact of another build has been evicted
            self.report.problems.append(f"{what}: {status}")
        return False

    def _read(self, client: Client) -> None:
        self._over.wait(READ_PAUSE)
        if not self._builds:
            return
        build = random.choice(self._builds)
        self._check(client, build, time.monotonic(), GRACE, "retrieved", must_exist=False)

    def _keep_hot(self) -> None:
        """Read the first builds once in a while: they have to stay."""
        while not self._over.is_set() and len(self._builds) < HOT:
            self._over.wait(0.01)
        read_at = dict.fromkeys(itertools.islice(self._builds, HOT), time.monotonic())
        with closing(Client(self._port)) as client:
            while not self._over.wait(0.2):
                for build, before in read_at.items():
                    began = time.monotonic()
                    with self._broken_connections_allowed():
                        if self._check(client, build, before, GRACE, "hot", must_exist=True):
                            read_at[build] = began

    def _check(
        self,
        client: Client,
        build: Build,
        began: float,
        holds: float,
        what: str,
        *,
        must_exist: bool,
    ) -> bool:
        """Retrieve an entry and its artifacts, and say whether they are complete.

        The artifacts, and the entry if it `must_exist`, have to be there until `holds` seconds
        have passed since `began`; later they may be gone.
        """
        parts: list[Build | Artifact] = [build, *build.artifacts]
        for part in parts:
            status, body = client.get(part.path)
            is_late = time.monotonic() - began > holds
            if status == HTTPStatus.NOT_FOUND:
                self.report.counts[f"{what}: gone"] += 1
                if not is_late and (must_exist or part is not build):
                    self.report.problems.append(f"{what}: {part} is gone")
                return False
            if status != HTTPStatus.OK or body != part.data():
                self.report.problems.append(f"{what}: {status} {part} {body[:100]!r}")
                return False
        self.report.counts[f"{what}: complete"] += 1
        return True

    def _watch_the_room(self) -> None:
        while not self._over.wait(0.005):
            room = os.statvfs(self._storage)
            least_bytes, least_files = self.report.least
            free = room.f_bavail * room.f_frsize
            self.report.least = min(least_bytes, free), min(least_files, room.f_favail)

    # --- Names -----------------------------------------------------------------------------------

    def _artifact(self) -> Artifact:
        if self._builds and random.random() < REUSED:
            return random.choice(random.choice(self._builds).artifacts)
        return Artifact(self._name().upper(), random.choice(self._sizes))

    def _name(self) -> str:
        return sha256(f"{self._salt} {next(self._numbers)}".encode()).hexdigest()
