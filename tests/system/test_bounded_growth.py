"""The service behind nginx, at full speed on a disk that is far too small for that: it never fills.

What eviction does among processes is `test_eviction_races.py`; a longer run with figures is
`python -m tests.soak.growth`.
"""

import os
from http import HTTPStatus
from uuid import uuid4

import pytest

from cache_actors.cli.dev.tuist import StandInTuist
from tests.soak.growth_load import SMALL_SIZES, Artifact, Client, Load
from tests.soak.growth_site import Site, running_site
from tests.support.cache_workers import incomplete_entries
from tests.support.waiting import eventually

PASSES = 2
"""That each test waits for: the first one finds things as nobody has evicted yet."""

TRIED = ("just put: complete", "hot: complete", "retrieved: complete", "retrieved: gone")
"""What has to have happened, or else nothing has been tried."""

LONG = 240.0
"""Seconds that passes may take to come about on a busy machine."""

CALM = 0.02
"""Seconds between two builds, where it is not full speed that is tried."""

pytestmark = [pytest.mark.alone, pytest.mark.timeout(600)]


def test_small_disk_never_fills_at_full_speed_whoever_is_killed(tuist: StandInTuist) -> None:
    with running_site(tuist, "size=192m") as site, Load(site.nginx.port, site.storage) as load:
        site.kill_a_pass()
        site.kill_the_service()
        expect_all_is_well(site, load)


@pytest.mark.nightly
def test_inodes_are_a_bound_as_bytes_are(tuist: StandInTuist) -> None:
    marks = {"DISK_HIGH_WATERMARK_PERCENT": "60", "DISK_TARGET_PERCENT": "50"}
    with (
        running_site(tuist, "size=192m,nr_inodes=3000", **marks) as site,
        Load(site.nginx.port, site.storage, sizes=SMALL_SIZES, pause=CALM) as load,
    ):
        expect_all_is_well(site, load)


@pytest.mark.nightly
def test_folder_stays_within_a_limit_of_its_own(tuist: StandInTuist) -> None:
    limit = {"STORAGE_MAX_BYTES": str(48 << 20)}
    with (
        running_site(tuist, "size=512m", **limit) as site,
        Load(site.nginx.port, site.storage, pause=CALM) as load,
    ):
        expect_all_is_well(site, load)
        room = os.statvfs(site.storage)
        assert room.f_blocks * room.f_frsize - load.report.least[0] < 2 * (48 << 20)


def expect_all_is_well(site: Site, load: Load) -> None:
    """Nobody was told anything that did not hold, and once nobody builds, all comes to rest."""
    eventually(lambda: len(site.evictions()) >= PASSES, LONG)
    eventually(lambda: all(load.report.counts[what] for what in TRIED), LONG)
    load.stop_building()
    eventually(lambda: is_stored(site.nginx.port))
    load.stop()
    assert load.report.problems == []
    assert min(load.report.least) > 0
    assert incomplete_entries(site.storage) == []
    assert '"exception"' not in site.service.log.read_text()


def is_stored(port: int) -> bool:
    """Whether an upload works: it may be refused while eviction cannot keep up, and no longer."""
    client = Client(port)
    try:
        return client.upload(Artifact(uuid4().hex * 2, 2 << 20)) == HTTPStatus.NO_CONTENT
    finally:
        client.close()
