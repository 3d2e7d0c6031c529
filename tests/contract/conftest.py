"""The contract suite talks to a base URL, whoever answers there: one of four fronts.

In `make test`, `direct` and `wheel` run everything. The other two run what can differ there (see
`every_front` and `both_nginx` in `examples.py`): `workers` are the same parser and routes, and
`debian` an older nginx with the same configuration. `make test-all` runs the full product.

Two projects and four tokens exist: `TOKEN` sees both projects, `OTHER_TOKEN` only the second,
`NO_PROJECTS` none, and any other token is unknown to Tuist. Tests make their own ids and bodies,
and those that change the stand-in Tuist server put it back, so that none depends on another.
"""

import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest

from tests.support.nginx import nginx_before, shared_storage
from tests.support.service import Service, running_service
from tests.support.tuist import HeldTuist

from .examples import bearer, handles, parts_of
from .facts import HASTE, LIMITS, NO_PROJECTS, OTHER_PROJECT, OTHER_TOKEN, PROJECT, TOKEN
from .raw import TIMEOUT, RawConnection

WORKERS = 2

EVERYWHERE = ("direct", "wheel")
"""The fronts that run everything in `make test`."""

LARGE_BODIES = {"artifacts", "keyvalue", "files_on_disk", "library_traps"}
"""Modules that take half of the time together."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave to the night what the other fronts need not run, and make groups of like length."""
    for item in items:
        if not item.nodeid.startswith("tests/contract/"):
            continue
        front = item.callspec.params.get("front") if hasattr(item, "callspec") else None
        also = {name for marker in item.iter_markers("also_on") for name in marker.args}
        if front not in {None, *EVERYWHERE, *also}:
            item.add_marker(pytest.mark.nightly)
        large = item.path.stem.removeprefix("test_") in LARGE_BODIES
        half = "large" if large and front in {None, *EVERYWHERE} else "rest"
        item.add_marker(pytest.mark.xdist_group(f"contract-{front or 'direct'}-{half}"))


@pytest.fixture(scope="session")
def tuist() -> Iterator[HeldTuist]:
    """The stand-in Tuist server that the service asks."""
    tokens = {TOKEN: [PROJECT, OTHER_PROJECT], OTHER_TOKEN: [OTHER_PROJECT], NO_PROJECTS: []}
    with HeldTuist(tokens) as server:
        yield server


@pytest.fixture(scope="session")
def service(tuist: HeldTuist) -> Iterator[Service]:
    """The service itself."""
    with (
        shared_storage() as storage,
        running_service(Service(storage, tuist.url, dict(LIMITS))) as service,
    ):
        yield service


@pytest.fixture(scope="session", params=["direct", "workers", "wheel", "debian"])
def front(request: pytest.FixtureRequest) -> str:
    """Who the clients of the suite talk to: the service itself, one of several processes with the
    same storage, or one of two kinds of nginx."""
    return str(request.param)


@pytest.fixture(scope="session")
def processes(front: str) -> int:
    """How many processes the clients of the suite talk to. Each remembers its own decisions."""
    return WORKERS if front == "workers" else 1


@pytest.fixture(scope="session")
def answering(front: str, service: Service) -> Iterator[Service]:
    """The service that answers the clients of the suite in the end."""
    if front != "workers":
        yield service
        return
    environment = LIMITS | {"WORKERS": str(WORKERS)}
    several = Service(service.storage, service.server_url, environment)
    with running_service(several):
        yield several
        _expect_unharmed(several)


@pytest.fixture(scope="session")
def base_url(front: str, answering: Service) -> Iterator[str]:
    """Where the clients of the suite connect to."""
    with _in_front(front, answering) as url:
        yield url


@pytest.fixture(scope="session")
def hasty(tuist: HeldTuist) -> Iterator[Service]:
    """A service of its own, where time-outs and lives are short: only for what comes too late."""
    with (
        shared_storage() as storage,
        running_service(Service(storage, tuist.url, LIMITS | HASTE)) as service,
    ):
        yield service
        _expect_unharmed(service)


@pytest.fixture(scope="session")
def hasty_url(front: str, hasty: Service) -> Iterator[str]:
    """Where clients of the hasty service connect to."""
    with _in_front(front, hasty) as url:
        yield url


@pytest.fixture(scope="session")
def hasty_client(hasty_url: str) -> Iterator[httpx.Client]:
    """As `client`, but of the hasty service."""
    with _client(hasty_url, headers=bearer(TOKEN), params=handles(PROJECT)) as client:
        yield client


@contextmanager
def _in_front(front: str, service: Service) -> Iterator[str]:
    """The URL of what stands in front of `service`."""
    if front not in {"wheel", "debian"}:
        yield service.url
        return
    upstream = f"127.0.0.1:{service.port}"
    limit = int(LIMITS["MAX_UPLOAD_BYTES"])
    with nginx_before(upstream, service.storage, front, max_upload_bytes=limit) as nginx:
        yield nginx.url


@pytest.fixture(scope="session")
def client(base_url: str) -> Iterator[httpx.Client]:
    """A client that may see the project `PROJECT`, which each request names."""
    with _client(base_url, headers=bearer(TOKEN), params=handles(PROJECT)) as client:
        yield client


@pytest.fixture(scope="session")
def stranger(base_url: str) -> Iterator[httpx.Client]:
    """A client that shows no token and names no project by itself."""
    with _client(base_url) as client:
        yield client


@pytest.fixture
def connect(base_url: str) -> Iterator[Callable[..., RawConnection]]:
    """Opens bare connections, which are closed after the test."""
    with ExitStack() as connections:
        yield lambda **how: connections.enter_context(RawConnection(base_url, **how))


@pytest.fixture
def raw(connect: Callable[..., RawConnection]) -> RawConnection:
    """A bare connection."""
    return connect()


@pytest.fixture
def changeable_tuist(tuist: HeldTuist) -> Iterator[HeldTuist]:
    """The stand-in Tuist server, put back after the test."""
    tokens = {token: list(names) for token, names in tuist.tokens.items()}
    yield tuist
    tuist.status, tuist.tokens = None, tokens


@pytest.fixture
def new_token(changeable_tuist: HeldTuist) -> Callable[..., str]:
    """Makes tokens that nobody has shown before; each sees the projects it is made with."""

    def new_token(*projects: str) -> str:
        token = f"new-{secrets.token_hex(8)}"
        changeable_tuist.tokens[token] = list(projects)
        return token

    return new_token


@pytest.fixture(scope="module", autouse=True)
def _unharmed(service: Service) -> Iterator[None]:
    """Whatever a module did: every part of the service runs, none was restarted, no bug was hit."""
    yield
    _expect_unharmed(service)


def _expect_unharmed(service: Service) -> None:
    health = httpx.get(service.url + "/up", trust_env=False)
    assert health.status_code == httpx.codes.OK, health.text
    parts = list(parts_of(health.json()["tree"]))
    assert len(parts) > 1
    assert [part for part in parts if part["state"] != "running" or part["restarts"] != 0] == []
    assert "Traceback" not in service.log.read_text()


def _client(base_url: str, headers: dict[str, str] | None = None, **how: Any) -> httpx.Client:
    """A client that uses each connection once.

    Behind nginx a request that is refused before its body has been read may cost its connection
    (docs/nginx.md), which would be the next test's. Kept connections have tests of their own. It is
    the server that is told to close them: httpx, told to keep none, closes some that another thread
    has just been given.
    """
    once = {**(headers or {}), "Connection": "close"}
    return httpx.Client(base_url=base_url, trust_env=False, timeout=TIMEOUT, headers=once, **how)
