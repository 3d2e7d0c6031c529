"""One service for all calls: each test makes its own blobs and actions."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.service import Service, running_service
from tests.support.tuist import HeldTuist

from .client import GrpcConnection

LIMITS = {
    "GRPC_MAX_CAS_BYTES": "8388608",
    "GRPC_MAX_AC_BYTES": "1048576",
    "MAX_BLOB_BYTES": "33554432",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep what shares the service in one group."""
    for item in items:
        if item.nodeid.startswith("tests/grpc/") and "service" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("grpc"))


@pytest.fixture(scope="session")
def tuist() -> Iterator[HeldTuist]:
    tokens = {
        "token": ["acme/app", "acme/lib", "other/lib"],
        "reader": ["acme/lib"],
        "nobody": [],
        "unpaid": ["acme/unpaid"],
    }
    with HeldTuist(tokens) as server:
        server.unpaid = ["acme/unpaid"]
        yield server


@pytest.fixture(scope="session")
def service(tuist: HeldTuist, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    storage: Path = tmp_path_factory.mktemp("grpc") / "cas"
    with running_service(Service(storage, tuist.url, dict(LIMITS))) as service:
        yield service


@pytest.fixture
def client(service: Service) -> Iterator[GrpcConnection]:
    with GrpcConnection(service.port) as connection:
        yield connection
