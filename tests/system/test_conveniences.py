"""A convenience is no condition: what only remembers, counts or logs may fail, and nobody notices.

Nobody but the operator, that is: see `test_operator_is_told_...`.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.examples import bearer, cas_path, handles, kv_path, new_cas_id, new_kv_id
from tests.support.metrics import Scrape
from tests.support.mounts import remount, require_root, tmpfs
from tests.support.nginx import NOBODY, new_certificate, nginx_before, shared_storage
from tests.support.service import COMMAND, Service, client_of, running_service
from tests.support.tuist import HeldTuist
from tests.support.waiting import eventually

from .site import OTHER_PROJECT, PROJECT, Site, running_site

Trouble = Callable[[Path], AbstractContextManager[None]]


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """The file system has no block left."""
    with tmpfs(folder, "size=16k,mode=0777"):
        folder.joinpath("filler").write_bytes(bytes(16384))
        yield


@contextmanager
def without_inodes(folder: Path) -> Iterator[None]:
    """The file system has no inode left."""
    with tmpfs(folder, "nr_inodes=2,mode=0777"):
        folder.joinpath("filler").touch()
        yield


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """The file system cannot be written to."""
    with tmpfs(folder, "size=1m,mode=0777"):
        remount(folder, "ro")
        yield


@contextmanager
def gone(folder: Path) -> Iterator[None]:
    """A cleaner of temporary files has been there; whoever removed it makes it again."""
    shutil.rmtree(folder)
    yield
    folder.mkdir(mode=0o700)
    os.chown(folder, NOBODY, NOBODY)


@contextmanager
def foreign(folder: Path) -> Iterator[None]:
    """The folder, with what is in it, is somebody else's."""
    os.chown(folder, 0, 0)
    folder.chmod(0o700)
    yield
    os.chown(folder, NOBODY, NOBODY)


@contextmanager
def replaced(folder: Path) -> Iterator[None]:
    """There is a file in its place."""
    aside = folder.with_name("aside")
    folder.rename(aside)
    folder.touch()
    yield
    folder.unlink()
    aside.rename(folder)


TROUBLES = [full, without_inodes, read_only, gone, foreign, replaced]


@pytest.fixture(scope="module")
def site(which: str, shared_tuist: HeldTuist) -> Iterator[Site]:
    """A site whose nginx may complain of all that is done to it."""
    require_root()
    with running_site(which, shared_tuist, complaints=True) as site:
        yield site


@pytest.fixture(scope="module")
def secured(
    which: str, shared_tuist: HeldTuist, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """The same, over TLS, so that clients speak HTTP/2."""
    require_root()
    certificate, key = new_certificate(tmp_path_factory.mktemp("tls"))
    with running_site(
        which, shared_tuist, complaints=True, tls_cert=certificate, tls_key=key
    ) as site:
        yield site


def decisions(site: Site) -> Path:
    """Where nginx remembers them."""
    return site.nginx.options.runtime / "decisions"


def read(client: httpx.Client, site: Site, cas_id: str, token: str, project: str = PROJECT) -> int:
    """The status of a read."""
    headers = {"Authorization": f"Bearer {token}"}
    account, handle = project.split("/")
    query = {"account_handle": account, "project_handle": handle}
    return client.get(cas_path(cas_id), headers=headers, params=query).status_code


# --- Decisions ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("which")
@pytest.mark.parametrize(
    ("speaks", "trouble"),
    [
        *(("http1", each) for each in TROUBLES),
        *(("http2", each) for each in (full, gone)),
        *(
            pytest.param("http2", each, marks=pytest.mark.nightly)
            for each in TROUBLES
            if each not in (full, gone)
        ),
    ],
)
def test_request_is_answered_though_its_decision_cannot_be_remembered(
    request: pytest.FixtureRequest, speaks: str, trouble: Trouble
) -> None:
    site: Site = request.getfixturevalue("site" if speaks == "http1" else "secured")
    cas_id = site.stored(b"bytes")
    known, new, stranger = site.token, site.new_token(PROJECT), site.new_token(OTHER_PROJECT)
    with ExitStack() as stack:
        client = stack.enter_context(
            client_of(site.nginx.url, headers={}, params={}, http2=speaks == "http2")
        )
        assert read(client, site, cas_id, known) == 200
        with trouble(decisions(site)):
            for _ in range(3):
                assert read(client, site, cas_id, known) == 200
                assert read(client, site, cas_id, new) == 200
                assert read(client, site, cas_id, stranger) == 403
                assert read(client, site, cas_id, new, OTHER_PROJECT) == 403
                assert read(client, site, cas_id, "nobody's") == 401
                assert read(client, site, new_cas_id(), new) == 404
                site.upload(cas_id, b"bytes", token=new)
                site.stored(token=new)
        assert read(client, site, cas_id, new) == 200
        before = len(site.requests("/_auth_cas"))
        assert [read(client, site, cas_id, new) for _ in range(10)] == [200] * 10
        assert len(site.requests("/_auth_cas")) == before


def test_refusals_take_no_room_from_decisions(site: Site) -> None:
    cas_id = site.stored()
    site.tuist.tokens["refused"] = [OTHER_PROJECT]

    def files() -> int:
        return sum(len(names) for _, _, names in os.walk(decisions(site)))

    before = files()
    for number in range(20):
        assert read(site.client, site, cas_id, f"random-{number}") == 401
    assert read(site.client, site, cas_id, "refused") == 403
    assert files() == before


def test_operator_is_told_that_decisions_are_not_remembered(site: Site) -> None:
    cas_id = site.stored()
    with gone(decisions(site)):
        eventually(lambda: read(site.client, site, cas_id, site.token) == 200 and told(site))
    assert told(site) == ["decisions_not_remembered"]
    assert scraped(site, "decisions_not_remembered") > 0


def told(site: Site) -> list[str]:
    """What `/up` says of nginx."""
    troubles: list[str] = site.direct.get("/up").json()["nginx"]["troubles"]
    return troubles


def scraped(site: Site, trouble: str) -> float:
    """What `/metrics` says of it."""
    return Scrape(site.direct.get("/metrics").text).value(
        "cache_actors_nginx_troubles_total", trouble=trouble
    )


# --- Files that nginx cannot open ---


@pytest.mark.usefixtures("which")
@pytest.mark.parametrize(
    "below",
    ["../..", "..", ".", "cas", "cas/{shard}/{cas_id}"],
    ids=["storage", "account", "project", "kind", "file"],
)
def test_file_that_nginx_may_not_open_is_no_miss(site: Site, below: str) -> None:
    token = site.new_token("closed/closed")
    how: dict[str, Any] = {"token": token, "project": "closed/closed"}
    cas_id, kv_id = site.stored(b"bytes", **how), new_kv_id()
    site.put(kv_id, "value", **how)
    project = site.service.storage / "closed/closed"
    path = project / below.format(shard=cas_id[2:4], cas_id=cas_id)
    mode = path.stat().st_mode
    path.chmod(0o700)
    try:
        eventually(lambda: site.requests(cas_path(cas_id), "GET") or not reads(site, cas_id, how))
        assert site.ask("GET", cas_path(cas_id), **how).content == b"bytes"
        if below.startswith("."):
            assert site.ask("PUT", kv_path(kv_id), **how).status_code == 200
        assert site.ask("GET", cas_path(new_cas_id()), **how).status_code == 404
        assert site.ask("PUT", kv_path(new_kv_id()), **how).status_code == 404
        assert "files_not_opened" in told(site)
    finally:
        path.chmod(mode)


def test_module_that_has_just_gone_is_no_trouble(site: Site, which: str) -> None:
    query = handles(PROJECT) | {"hash": new_cas_id(), "name": "App.zip"}
    how: dict[str, Any] = {"headers": bearer(site.token), "params": query}
    path = f"/api/cache/module/{query['hash']}"
    upload = site.client.post("/api/cache/module/start", **how).json()["upload_id"]
    query |= {"upload_id": upload, "part_number": "1"}
    assert site.client.post("/api/cache/module/part", content=b"bytes", **how).is_success
    assert site.client.post("/api/cache/module/complete", json={"parts": [1]}, **how).is_success
    (file,) = site.service.storage.joinpath(PROJECT, "module").glob("*/*")
    file.chmod(0o600)
    assert site.client.get(path, **how).content == b"bytes"
    counted = scraped(site, "files_not_opened")
    assert counted > 0
    upstream = site.nginx.options.upstream
    with shared_storage() as without, nginx_before(upstream, without, which) as nginx:
        with client_of(nginx.url, headers={}, params={}) as client:
            assert client.get(path, **how).content == b"bytes"
        assert scraped(site, "files_not_opened") == counted
        without.chmod(0o700)
        with client_of(nginx.url, headers={}, params={}) as client:
            assert client.get(path, **how).content == b"bytes"
        assert scraped(site, "files_not_opened") == counted + 1


def reads(site: Site, cas_id: str, how: dict[str, Any]) -> bool:
    """Whether it can be read: nginx keeps files open for two seconds."""
    return site.ask("GET", cas_path(cas_id), **how).content == b"bytes"


@pytest.mark.parametrize(
    "which", ["debian", pytest.param("wheel", marks=pytest.mark.nightly)], indirect=True
)
def test_lack_of_descriptors_makes_no_misses(which: str, tuist: HeldTuist) -> None:
    with running_site(which, tuist, open_files=150, complaints=True) as site:
        cas_ids = [site.stored() for _ in range(300)]

        def read_all(numbers: range) -> set[int]:
            with client_of(site.nginx.url, headers={}, params={}) as client:
                return {read(client, site, cas_ids[number], site.token) for number in numbers}

        with ThreadPoolExecutor(30) as threads:
            statuses = threads.map(read_all, [range(first, 300, 30) for first in range(30)])
            seen = set().union(*statuses)
        assert 200 in seen
        assert seen <= {200, 503}
        assert "(24: " in site.nginx.error_log()


# --- The log of answers ---------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o644, 0o600], ids=["readable", "closed"])
def test_log_that_nginx_has_made_is_counted_if_it_can_be_read(
    tuist: HeldTuist, sockets: Path, mode: int
) -> None:
    """nginx was there first, as another user, and root is let do no more than others may."""
    require_root()
    log = sockets / "answers.log"
    log.write_bytes(b"artifact GET 200 100 0.001 -\n")
    log.chmod(mode)
    os.chown(log, NOBODY, NOBODY)
    command = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", *COMMAND)
    with (
        shared_storage() as storage,
        running_service(Service(storage, tuist.url, {"NGINX_LOG": str(log)}, command)) as service,
    ):
        trouble = "log_not_emptied" if mode == 0o644 else "log_not_counted"
        eventually(lambda: service.up().json()["nginx"]["troubles"] == [trouble])
        with log.open("ab") as file:
            file.write(b"artifact GET 200 100 0.001 -\n" * 3)
        counted = partial(reads_by_nginx, service)
        if mode == 0o644:
            eventually(lambda: counted() == 3)
        assert len(service.logged("nginx_log_failed")) == 1
        os.chown(log, 0, NOBODY)
        log.chmod(0o660)
        eventually(lambda: log.stat().st_size == 0)
        with log.open("ab") as file:
            file.write(b"artifact GET 200 100 0.001 -\n" * 7)
        eventually(lambda: counted() == (10 if mode == 0o644 else 4 + 7))
        assert log.stat().st_size == 0


def reads_by_nginx(service: Service) -> float:
    """How many of them the service has counted."""
    return Scrape(service.up("/metrics").text).value("cache_actors_reads_total", by="nginx")
