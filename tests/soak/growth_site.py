"""What runs below a load that makes the cache grow: the service on a disk of its own, and nginx."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache_actors.dev.tuist import StandInTuist
from tests.support.disk_processes import disk_processes
from tests.support.mounts import tmpfs
from tests.support.nginx import NOBODY, Nginx, nginx_before, shared_storage
from tests.support.service import Service, running_service
from tests.support.strace import family
from tests.support.waiting import eventually


@dataclass
class Site:
    """What runs: the service, nginx in front of it, and the disk of its own below it."""

    service: Service
    nginx: Nginx

    @property
    def storage(self) -> Path:
        return self.service.storage

    def passes(self) -> list[int]:
        """The processes of eviction that the service has started and that run now."""
        writing = disk_processes(self.service.pid)
        with suppress(FileNotFoundError):
            return [pid for pid in family(self.service.pid)[1:] if pid not in writing]
        return []

    def kill_a_pass(self) -> None:
        """Wait for one that is running, and kill it."""
        eventually(lambda: self.passes() != [])
        with suppress(ProcessLookupError, IndexError):  # it has just ended
            os.kill(self.passes()[0], signal.SIGKILL)

    def kill_the_service(self) -> None:
        """Kill the service while a pass is running, and start it again."""
        eventually(lambda: self.passes() != [])
        self.service.stop(signal.SIGKILL)
        self.service.start()

    def evictions(self) -> list[dict[str, Any]]:
        """What the service has logged of passes that have evicted something."""
        return [each for each in self.service.logged("evicted") if each["artifacts"]]


@contextmanager
def running_site(tuist: StandInTuist, disk: str, **environment: str) -> Iterator[Site]:
    """All that runs, on a tmpfs with the mount options `disk`."""
    environment = {"DISK_HIGH_WATERMARK_PERCENT": "85"} | environment
    options = f"mode=2750,gid={NOBODY},strictatime,{disk}"
    with (
        shared_storage() as folder,
        tmpfs(folder, options) as storage,
        running_service(Service(storage, tuist.url, environment)) as service,
        nginx_before(f"127.0.0.1:{service.port}", storage, "debian") as nginx,
    ):
        yield Site(service, nginx)
