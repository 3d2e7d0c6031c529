"""What runs in a soak: the stand-in Tuist server, the service, nginx, and a small disk."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from cache_actors.cli.dev.tuist import StandInTuist
from cache_actors.nginx.binary import installed_nginx
from cache_actors.storage.layout import Project
from tests.support.nginx import NOBODY, Nginx, nginx_before
from tests.support.service import Service

DISK_BYTES = 512 << 20
UP_SECONDS = 60.0

APP, OTHER = Project("acme", "app"), Project("acme", "other")
TOKENS = {APP: "token-of-app", OTHER: "token-of-other"}
"""The token that sees a project, and no other."""

COMMAND = (sys.executable, "-m", "tests.soak.service")


@dataclass(frozen=True)
class Site:
    """What runs.

    Attributes:
        flags: the folder by which the service is broken; see tests/soak/service.py.
        workers: of the service.
        disk_is_small: whether the storage is a disk of its own, of `DISK_BYTES`, to be filled.
    """

    tuist: StandInTuist
    service: Service
    nginx: Nginx
    flags: Path
    workers: int
    disk_is_small: bool

    @property
    def storage(self) -> Path:
        """The storage folder."""
        return self.service.storage

    def start(self) -> None:
        """Start the service, and do not wait for it."""
        self.service.start(wait=False)

    def kill(self) -> bool:
        """Kill the service, and say whether it was running."""
        process = self.service.process
        if process is None or process.poll() is not None:
            return False
        process.kill()
        process.wait()
        return True

    def is_running(self) -> bool:
        """Whether the service's process runs."""
        process = self.service.process
        return process is not None and process.poll() is None

    def is_up(self) -> bool:
        """Whether the service is up and complete."""
        return self.state().startswith("200 ")

    def state(self) -> str:
        """What `/up` answers: its status and body, or why there is none."""
        try:
            answer = httpx.get(self.service.url + "/up", trust_env=False, timeout=5)
        except httpx.TransportError as error:
            return repr(error)
        return f"{answer.status_code} {answer.text}"

    def wait_until_up(self) -> bool:
        """Wait for the service, starting it if it has ended; say whether it came up."""
        deadline = time.monotonic() + UP_SECONDS
        while time.monotonic() < deadline:
            if not self.is_running():
                self.start()
            if self.is_up():
                return True
            time.sleep(0.02)
        return False

    def injected(self, what: str) -> int:
        """How often something was injected: `crashed` or `injected`."""
        path = self.flags / what
        return path.stat().st_size if path.exists() else 0


@contextmanager
def running_site(workers: int = 1) -> Iterator[Site]:
    """All that runs, with so many workers of the service; in the end all of it is gone."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cache-soak-")))
        folder.chmod(0o755)
        storage, flags = folder / "cas", folder / "flags"
        flags.mkdir()
        storage.mkdir()
        small = stack.enter_context(small_disk(storage))
        if os.geteuid() == 0:
            os.chown(storage, 0, NOBODY)
        storage.chmod(0o2750)
        tokens = {token: [str(project)] for project, token in TOKENS.items()}
        tuist = stack.enter_context(StandInTuist(tokens))
        environment = {"SOAK_FLAGS": str(flags), "LOG_LEVEL": "warning"}
        environment["WORKERS"] = str(workers)
        environment["DISK_HIGH_WATERMARK_PERCENT"] = "100"  # what is evicted cannot be looked for
        service = Service(storage, tuist.url, environment, COMMAND)
        which = "wheel" if installed_nginx() is None else "debian"
        nginx = stack.enter_context(nginx_before(f"127.0.0.1:{service.port}", storage, which))
        site = Site(tuist, service, nginx, flags, workers, small)
        stack.callback(site.kill)
        site.start()
        if not site.wait_until_up():
            raise RuntimeError(f"The service does not come up:\n{service.log_tail()}")
        yield site


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A disk of limited size at `folder`, if we may; whether there is one."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if os.geteuid() != 0 or mount is None or umount is None:
        yield False
        return
    command = [mount, "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "cache-soak", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        yield False
        return
    try:
        yield True
    finally:
        if subprocess.run([umount, str(folder)], check=False).returncode != 0:
            subprocess.run([umount, "-l", str(folder)], check=True)  # something still looks at it
