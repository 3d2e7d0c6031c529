"""The real service as a process of its own, for tests that talk to it from outside."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from .waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

START_SECONDS = 60
"""Several processes on a busy machine take a while."""

COMMAND = (sys.executable, "-m", "cache_actors", "serve")


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
    def log(self) -> Path:
        """The file that its standard output and error go to."""
        return self.storage.with_name(self.storage.name + ".log")

    def log_tail(self) -> str:
        """The end of its log."""
        return self.log.read_text()[-2000:]

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

    def wait_until_up(self) -> None:
        """Return once `/up` answers 200."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert self.process is not None
            assert self.process.poll() is None, f"it ended:\n{self.log_tail()}"
            try:
                if httpx.get(self.url + "/up", trust_env=False).status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.02)
        raise AssertionError(f"not up after {START_SECONDS} s:\n{self.log_tail()}")

    def wait_for_log(self, text: str, times: int = 1) -> None:
        """Return once it has logged `text` so many times."""
        eventually(lambda: self.log.exists() and self.log.read_text().count(text) >= times)

    def stop(self, how: signal.Signals = signal.SIGTERM, timeout: float = 60) -> int:
        """Send a signal, wait for the end, and return the exit status."""
        assert self.process is not None
        self.process.send_signal(how)
        return self.wait(timeout)

    def wait(self, timeout: float = 60) -> int:
        """Wait for the end and return the exit status."""
        assert self.process is not None
        return self.process.wait(timeout)

    def resident_bytes(self) -> int:
        """Its resident memory."""
        assert self.process is not None
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def running_service(service: Service) -> Iterator[Service]:
    """`service`, up and running; killed in the end if it still runs."""
    service.storage.mkdir(parents=True, exist_ok=True)
    try:
        service.start()
        yield service
    finally:
        if service.process is not None and service.process.poll() is None:
            service.process.kill()
            service.process.wait()
