"""The real service as a process of its own, for tests that talk to it from outside."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import httpx

from .waiting import eventually

COMMAND = (sys.executable, "-m", "cache_actors", "serve")

CHANGED_COMMAND = (sys.executable, "-m", "tests.support.changed_service")
"""Runs a service with other times, or with faults: its environment says which."""

HANDLES = {"account_handle": "acme", "project_handle": "app"}

ID = "00112233445566778899AABBCCDDEEFF00112233445566778899AABBCCDDEEFF"
"""An artifact's, for tests that need no more than one."""

FIRST_PORT, PORTS_PER_PROCESS = 10_000, 500
"""Below those that the kernel hands out by itself."""


def free_port() -> int:
    """A port on loopback that nobody listens on, and that nobody else will be given by tests."""
    _, ports = _ports()
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError("unreachable")


@cache
def _ports() -> tuple[socket.socket, Iterator[int]]:
    """The ports of this process of tests, over and over, and what keeps others from them.

    The claim is an abstract Unix socket, which goes with the process, however that ends.
    """
    for number in range(40):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0cache-actors-tests-{number}")
        except OSError:
            claim.close()
            continue
        first = FIRST_PORT + number * PORTS_PER_PROCESS
        return claim, itertools.cycle(range(first, first + PORTS_PER_PROCESS))
    raise AssertionError("too many tests run at once on this machine")


@dataclass
class Service:
    """A running `cache-actors serve` (or another `command` that behaves like it)."""

    storage: Path
    server_url: str
    environment: dict[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = COMMAND
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The id of its process, or of the parent of its workers."""
        assert self.process is not None
        return self.process.pid

    @property
    def log(self) -> Path:
        """The file that its standard output and error go to."""
        return self.storage.with_name(self.storage.name + ".log")

    def log_tail(self) -> str:
        """The end of its log."""
        return self.log.read_text()[-2000:]

    def logged(self, event: str) -> list[dict[str, Any]]:
        """What it has logged of one event."""
        lines = map(json.loads, self.log.read_text().rpartition("\n")[0].splitlines())
        return [line for line in lines if line["event"] == event]

    def start(self, *, wait: bool = True) -> None:
        """Start the process and, unless told otherwise, wait until `/up` says that it is up."""
        environment = {
            "PATH": os.environ["PATH"],
            "SERVER_URL": self.server_url,
            "CAS_STORAGE_DIR": str(self.storage),
            "PORT": str(self.port),
            "DISK_HIGH_WATERMARK_PERCENT": "100",  # whatever disk the tests run on
            **self.environment,
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        if wait:
            self.wait_until_up()

    def is_running(self) -> bool:
        """Whether its process has not ended yet."""
        return self.process is not None and self.process.poll() is None

    def wait_until_up(self) -> None:
        """Return once `/up` answers 200."""
        eventually(self._is_up)

    def _is_up(self) -> bool:
        assert self.is_running(), f"it ended:\n{self.log_tail()}"
        with suppress(httpx.TransportError):
            return self.up().is_success
        return False

    def up(self, path: str = "/up") -> httpx.Response:
        """What it says of itself, on a new connection."""
        return httpx.get(self.url + path, trust_env=False, verify=False, timeout=60)  # noqa: S501

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes of the tree in `/up`."""
        return nodes_of(self.up().json()["tree"])

    def wait_for_log(self, text: str, times: int = 1) -> None:
        """Return once it has logged `text` so many times."""
        eventually(lambda: self.log.exists() and self.log.read_text().count(text) >= times)

    def let_it_arrive(self, processes: int = 1) -> None:
        """Let what has been sent arrive: requests that are sent later have been answered."""
        for _ in range(2 * processes):
            self.up()

    def begin_stop(self) -> None:
        """Send SIGTERM, and return once the service has noticed."""
        assert self.process is not None
        before = len(self.logged("stopping"))
        self.process.send_signal(signal.SIGTERM)
        eventually(lambda: len(self.logged("stopping")) > before)

    def stop(self, how: signal.Signals = signal.SIGTERM, timeout: float = 60) -> int:
        """Send a signal, wait for the end, and return the exit status."""
        assert self.process is not None
        self.process.send_signal(how)
        return self.wait(timeout)

    def wait(self, timeout: float = 60) -> int:
        """Wait for the end and return the exit status."""
        assert self.process is not None
        return self.process.wait(timeout)

    def kill(self) -> None:
        """End it, if it still runs."""
        if self.is_running():
            self.stop(signal.SIGKILL)

    def stored(self, artifact_id: str) -> bytes:
        """An artifact of `acme/app` as it lies on disk."""
        return (self.storage / "acme/app/cas" / artifact_id[2:4] / artifact_id).read_bytes()

    def resident_bytes(self) -> int:
        """Its resident memory."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def running_service(service: Service, *, wait: bool = True) -> Iterator[Service]:
    """`service`, up unless that is not waited for; killed in the end if it still runs."""
    service.storage.mkdir(parents=True, exist_ok=True)
    try:
        service.start(wait=wait)
        yield service
    finally:
        service.kill()


def client_of(url: str, **how: Any) -> httpx.Client:
    """A client of what is at `url`, which shows `token` and names the project `acme/app`.

    It does not look at certificates, also because loading those that it would trust takes long.
    """
    usual: dict[str, Any] = {
        "headers": {"Authorization": "Bearer token"},
        "params": HANDLES,
        "timeout": 60,
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=None),
    }
    return httpx.Client(base_url=url, trust_env=False, verify=False, **usual | how)  # noqa: S501


def client_at(path: Path) -> httpx.Client:
    """A client of what listens on a Unix socket."""
    transport = httpx.HTTPTransport(uds=str(path), verify=False)
    return client_of("http://cache", transport=transport)


def nodes_of(node: dict[str, Any]) -> list[dict[str, Any]]:
    """A node of the tree in `/up`, and all below it."""
    return [node, *(below for child in node.get("children", ()) for below in nodes_of(child))]


def constants(values: dict[str, float]) -> dict[str, str]:
    """The environment in which `CHANGED_COMMAND` gives constants other values.

    Args:
        values: by the constant, as in `actors.hands.END_SECONDS`.
    """
    return {"CONSTANTS": json.dumps(values)}
