"""The real service in a process of its own, for tests from outside."""

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
"""Command of a service with faults or changed constants, controlled by its environment."""

HANDLES = {"account_handle": "acme", "project_handle": "app"}

ID = "00112233445566778899AABBCCDDEEFF00112233445566778899AABBCCDDEEFF"
"""Id of an artifact, for tests that need only one."""

FIRST_PORT, PORTS_PER_PROCESS = 10_000, 500
"""Range of the tests' ports, below the ephemeral ports that the kernel assigns."""


def free_port() -> int:
    """A free port on loopback that no other process of tests uses."""
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
    """The ports of this process of tests, in a cycle, and the claim on them.

    The claim is an abstract Unix socket, which the kernel removes when the process ends.
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
        """The base URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The id of the process, which with workers is their parent."""
        assert self.process is not None
        return self.process.pid

    @property
    def log(self) -> Path:
        """The file with the service's standard output and error."""
        return self.storage.with_name(self.storage.name + ".log")

    def log_tail(self) -> str:
        """The end of the log."""
        return self.log.read_text()[-2000:]

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The log lines of an event."""
        lines = map(json.loads, self.log.read_text().rpartition("\n")[0].splitlines())
        return [line for line in lines if line["event"] == event]

    def start(self, *, wait: bool = True) -> None:
        """Start the process and, if `wait`, return once `/up` answers 200."""
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
        """Whether the process runs."""
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
        """The response to `GET path`, on a new connection."""
        return httpx.get(self.url + path, trust_env=False, verify=False, timeout=60)  # noqa: S501

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes of the tree in `/up`."""
        return nodes_of(self.up().json()["tree"])

    def wait_for_log(self, text: str, times: int = 1) -> None:
        """Return once the log has `text` in it, at least `times` times."""
        eventually(lambda: self.log.exists() and self.log.read_text().count(text) >= times)

    def let_it_arrive(self, processes: int = 1) -> None:
        """Return once sent bytes have arrived, as later requests have been answered."""
        for _ in range(2 * processes):
            self.up()

    def begin_stop(self) -> None:
        """Send SIGTERM, and return once the service has logged that it stops."""
        assert self.process is not None
        before = len(self.logged("stopping"))
        self.process.send_signal(signal.SIGTERM)
        eventually(lambda: len(self.logged("stopping")) > before)

    def stop(self, how: signal.Signals = signal.SIGTERM, timeout: float = 60) -> int:
        """Send a signal, wait for the process's end, and return its exit status."""
        assert self.process is not None
        self.process.send_signal(how)
        return self.wait(timeout)

    def wait(self, timeout: float = 60) -> int:
        """Wait for the process's end, and return its exit status."""
        assert self.process is not None
        return self.process.wait(timeout)

    def kill(self) -> None:
        """Kill the process if it runs."""
        if self.is_running():
            self.stop(signal.SIGKILL)

    def stored(self, artifact_id: str) -> bytes:
        """The bytes on disk of a CAS artifact in `acme/app`."""
        return (self.storage / "acme/app/cas" / artifact_id[2:4] / artifact_id).read_bytes()

    def resident_bytes(self) -> int:
        """The resident memory of the process, in bytes."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def running_service(service: Service, *, wait: bool = True) -> Iterator[Service]:
    """Run `service`, up if `wait`, and kill it in the end if it still runs."""
    service.storage.mkdir(parents=True, exist_ok=True)
    try:
        service.start(wait=wait)
        yield service
    finally:
        service.kill()


def client_of(url: str, **how: Any) -> httpx.Client:
    """A client for the server at `url`, with the token `token` and the project `acme/app`.

    The client verifies no certificates, also because loading trusted ones is slow.
    """
    usual: dict[str, Any] = {
        "headers": {"Authorization": "Bearer token"},
        "params": HANDLES,
        "timeout": 60,
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=None),
    }
    return httpx.Client(base_url=url, trust_env=False, verify=False, **usual | how)  # noqa: S501


def client_at(path: Path) -> httpx.Client:
    """A client for the server at a Unix socket."""
    transport = httpx.HTTPTransport(uds=str(path), verify=False)
    return client_of("http://cache", transport=transport)


def nodes_of(node: dict[str, Any]) -> list[dict[str, Any]]:
    """A node of the tree in `/up`, and all nodes below it."""
    return [node, *(below for child in node.get("children", ()) for below in nodes_of(child))]


def constants(values: dict[str, float]) -> dict[str, str]:
    """The environment with which `CHANGED_COMMAND` changes constants.

    Args:
        values: new values by constant, such as `actor_process.client.END_SECONDS`.
    """
    return {"CONSTANTS": json.dumps(values)}
