"""Fixtures of the system tests: real processes, talked to from outside."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.nginx import shared_storage
from tests.support.rollout import Instances
from tests.support.tuist import HeldTuist

from .site import socket_folder


@pytest.fixture
def tuist() -> Iterator[HeldTuist]:
    """A stand-in Tuist server at which `token` sees `acme/app`."""
    with HeldTuist({"token": ["acme/app"]}) as server:
        yield server


@pytest.fixture(scope="module")
def shared_tuist() -> Iterator[HeldTuist]:
    """The same, for all tests of a module."""
    with HeldTuist({"token": ["acme/app"]}) as server:
        yield server


@pytest.fixture(scope="module", params=["wheel", "debian"])
def which(request: pytest.FixtureRequest) -> str:
    """The kind of nginx; each has its own site in a module."""
    return str(request.param)


@pytest.fixture
def sockets() -> Iterator[Path]:
    """A folder for sockets, and for nginx's log, which nginx's workers may write to."""
    with socket_folder(0o2770) as folder:
        yield folder


@pytest.fixture
def one_worker(sockets: Path, tuist: HeldTuist) -> Iterator[Instances]:
    """Instances to be started, which share their folders, and are one process each."""
    with running_instances(sockets, tuist, 1) as instances:
        yield instances


@pytest.fixture(
    params=[1, pytest.param(2, marks=pytest.mark.nightly)], ids=["1 worker", "2 workers"]
)
def instances(
    sockets: Path, tuist: HeldTuist, request: pytest.FixtureRequest
) -> Iterator[Instances]:
    """The same, of one process, and of several."""
    with running_instances(sockets, tuist, request.param) as instances:
        yield instances


@contextmanager
def running_instances(sockets: Path, tuist: HeldTuist, workers: int) -> Iterator[Instances]:
    with shared_storage() as storage:
        instances = Instances(storage, sockets, tuist.url, workers)
        try:
            yield instances
        finally:
            instances.kill_all()
