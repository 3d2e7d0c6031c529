"""The service behind nginx, at full speed on a disk that is far too small for that: it never fills.

What eviction does among processes is `test_eviction_races.py`; a longer run with figures is
`python -m tests.soak.growth`.
"""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from tests.support.growth import SMALL_SIZES, Artifact, Client, Load
from tests.support.mounts import tmpfs
from tests.support.nginx import NOBODY, Nginx, nginx_before, shared_storage
from tests.support.service import Service, running_service
from tests.system.test_eviction_races import incomplete_entries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cache_actors.dev.tuist import StandInTuist

PASSES = 2
"""That each test waits for: the first one finds things as nobody has evicted yet."""

DEADLINE = 60.0
"""Seconds that anything may take."""


@dataclass
class Site:
    """What runs: the service, nginx in front of it, and the disk of its own below it."""

    service: Service
    nginx: Nginx

    @property
    def storage(self) -> Path:
        return self.service.storage

    def used(self) -> float:
        """The used share of the disk, bytes or files."""
        room = os.statvfs(self.storage)
        return 1 - min(room.f_bavail / room.f_blocks, room.f_favail / room.f_files)

    def passes(self) -> list[int]:
        """The processes of eviction that the service has started and that run now."""
        process = self.service.process
        assert process is not None
        with suppress(FileNotFoundError):
            children = Path(f"/proc/{process.pid}/task").glob("*/children")
            return [int(pid) for child in children for pid in child.read_text().split()]
        return []

    def wait_for_a_pass(self) -> int:
        """The process id of one that is running."""
        wait_until(lambda: self.passes() != [])
        return self.passes()[0]

    def has_evicted(self, passes: int) -> bool:
        """Whether so many passes have evicted something."""
        lines = self.service.log.read_text().rpartition("\n")[0].splitlines()
        events: list[dict[str, Any]] = [json.loads(line) for line in lines]
        evicted = [each for each in events if each["event"] == "evicted" and each["artifacts"]]
        return len(evicted) >= passes


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def running_site(tuist: StandInTuist, disk: str, **environment: str) -> Iterator[Site]:
    options = f"mode=2750,gid={NOBODY},strictatime,{disk}"
    with (
        shared_storage() as folder,
        tmpfs(folder, options) as storage,
        running_service(Service(storage, tuist.url, environment)) as service,
        nginx_before(f"127.0.0.1:{service.port}", storage, "debian") as nginx,
    ):
        yield Site(service, nginx)


def test_small_disk_never_fills_at_full_speed_whoever_is_killed(tuist: StandInTuist) -> None:
    with running_site(tuist, "size=192m") as site, Load(site.nginx.port, site.storage) as load:
        wait_until(lambda: site.has_evicted(1))
        with suppress(ProcessLookupError):
            os.kill(site.wait_for_a_pass(), signal.SIGKILL)
        site.wait_for_a_pass()
        site.service.stop(signal.SIGKILL)
        site.service.start()
        wait_until(lambda: site.has_evicted(PASSES))
        assert_all_is_well(site, load)


def test_inodes_are_a_bound_as_bytes_are(tuist: StandInTuist) -> None:
    marks = {"DISK_HIGH_WATERMARK_PERCENT": "60", "DISK_TARGET_PERCENT": "50"}
    with (
        running_site(tuist, "size=192m,nr_inodes=3000", **marks) as site,
        Load(site.nginx.port, site.storage, sizes=SMALL_SIZES) as load,
    ):
        wait_until(lambda: site.has_evicted(PASSES))
        assert_all_is_well(site, load)


def test_folder_stays_within_a_limit_of_its_own(tuist: StandInTuist) -> None:
    limit = {"STORAGE_MAX_BYTES": str(48 << 20)}
    with (
        running_site(tuist, "size=512m", **limit) as site,
        Load(site.nginx.port, site.storage) as load,
    ):
        wait_until(lambda: site.has_evicted(PASSES))
        assert_all_is_well(site, load)
        room = os.statvfs(site.storage)
        assert room.f_blocks * room.f_frsize - load.report.least[0] < 2 * (48 << 20)


def assert_all_is_well(site: Site, load: Load) -> None:
    """Nobody was told anything that did not hold, and once nobody builds, all comes to rest."""
    load.stop_building()
    wait_until(lambda: is_stored(site.nginx.port))
    load.stop()
    assert load.report.problems == []
    assert min(load.report.least) > 0
    assert incomplete_entries(site.storage) == []
    assert '"exception"' not in site.service.log.read_text()
    # Otherwise nothing has been tried.
    assert load.report.counts["just put: complete"] > 0
    assert load.report.counts["hot: complete"] > 0
    assert load.report.counts["retrieved: complete"] > 0
    assert load.report.counts["retrieved: gone"] > 0


def is_stored(port: int) -> bool:
    """Whether an upload works: it may be refused while eviction cannot keep up, and no longer."""
    client = Client(port)
    try:
        return client.upload(Artifact(uuid4().hex * 2, 2 << 20)) == HTTPStatus.NO_CONTENT
    finally:
        client.close()
