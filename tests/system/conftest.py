"""Fixtures of the system tests: real processes, talked to from outside."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cache_actors.dev.tuist import StandInTuist
from tests.support.nginx import NOBODY, shared_storage
from tests.support.rollout import Instances

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def tuist() -> Iterator[StandInTuist]:
    """A stand-in Tuist server at which `token` sees `acme/app`."""
    with StandInTuist({"token": ["acme/app"]}) as server:
        yield server


@pytest.fixture
def sockets() -> Iterator[Path]:
    """A folder for sockets, shared with the group that nginx's workers are in."""
    with tempfile.TemporaryDirectory(prefix="cache-actors-sockets-") as parent:
        Path(parent).chmod(0o755)
        folder = Path(parent) / "sockets"
        folder.mkdir()
        if os.geteuid() == 0:
            os.chown(folder, 0, NOBODY)
        folder.chmod(0o2770)
        yield folder


@pytest.fixture(params=[1, 2], ids=["1 worker", "2 workers"])
def instances(
    sockets: Path, tuist: StandInTuist, request: pytest.FixtureRequest
) -> Iterator[Instances]:
    """Instances to be started, which share their folders."""
    with shared_storage() as storage:
        instances = Instances(storage, sockets, tuist.url, request.param)
        yield instances
        instances.kill_all()
