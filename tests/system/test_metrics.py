"""Metrics of a site: every answer is counted once, whoever gave it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cache_actors.http.server.request_cycle import BODY_HEADER
from cache_actors.transfer.upload import SMALL_BYTES
from tests.contract.examples import cas_path, kv_path, new_cas_id, new_kv_id
from tests.contract.raw import RawConnection
from tests.support.metrics import Scrape
from tests.support.nginx import EAGER_LOG, nginx_before, shared_storage
from tests.support.service import (
    CHANGED_COMMAND,
    Service,
    client_at,
    client_of,
    constants,
    free_port,
    running_service,
)
from tests.support.tuist import HeldTuist
from tests.support.waiting import eventually

from .site import PROJECT, Site, running_site, socket_folder

REQUESTS = "cache_actors_requests_total"
INSIDE = ("decision", "up", "ready", "metrics")

EAGER = constants({"actors.nginx_counter.READ_LOG_SECONDS": 0.1})
"""The environment of a service that looks more often at what nginx has logged."""

TOO_LARGE = 26_214_401
"""Bytes, by one more than nginx and the service take."""

one_kind = pytest.mark.parametrize("which", ["debian"], indirect=True)
"""For what the kind of nginx makes no difference to."""


@pytest.fixture(scope="module")
def shared(which: str, shared_tuist: HeldTuist) -> Iterator[Site]:
    """A site whose service counts what nginx answers, and whose nginx hands metrics on."""
    with (
        socket_folder(0o2770) as folder,
        running_site(
            which,
            shared_tuist,
            {"NGINX_LOG": str(folder / "answers.log"), **EAGER},
            command=CHANGED_COMMAND,
            changes=EAGER_LOG,
            answers_log=folder / "answers.log",
            metrics_port=free_port(),
        ) as site,
    ):
        yield site


@pytest.fixture
def site(shared: Site) -> Site:
    """The shared site, with a token that no other test has shown."""
    return replace(shared, token=shared.new_token(PROJECT))


def scrape(socket: Path) -> Scrape:
    """What the service at a Unix socket says."""
    with client_at(socket) as client:
        response = client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    return Scrape(response.text)


def metrics_of(site: Site) -> Scrape:
    return scrape(Path(site.service.environment["SOCKET_PATH"]))


def from_clients(found: Scrape) -> float:
    """How many requests of clients have been counted."""
    return found.value(REQUESTS) - sum(found.value(REQUESTS, route=route) for route in INSIDE)


def test_every_answer_is_counted_once_whoever_gave_it(site: Site) -> None:
    cas_id, kv_id, body = new_cas_id(), new_kv_id(), b"x" * 1000
    before = metrics_of(site)
    asked = [
        site.ask("POST", cas_path(cas_id), content=body),
        site.ask("POST", cas_path(cas_id), content=body),
        site.ask("GET", cas_path(cas_id)),
        site.ask("GET", cas_path(cas_id), headers={"Range": "bytes=0-9"}),
        site.ask("HEAD", cas_path(cas_id)),
        site.ask("GET", cas_path(new_cas_id())),
        site.put(kv_id, "value"),
        site.ask("GET", kv_path(kv_id)),
        site.ask("PUT", kv_path(kv_id)),
        site.ask("GET", kv_path(new_kv_id())),
        site.ask("GET", cas_path(cas_id), token=f"unknown-{cas_id}"),
        site.ask("DELETE", cas_path(cas_id)),
        site.ask("GET", "/nowhere"),
        site.ask("GET", f"/api/cache/cas/{cas_id}/.."),
    ]
    with RawConnection(site.nginx.url) as connection:
        assert connection.ask("GET /up", "Bad Header").status_code == 400
    expected = from_clients(before) + len(asked) + 1
    eventually(lambda: from_clients(metrics_of(site)) >= expected)
    found = metrics_of(site)
    assert from_clients(found) == expected

    def value(name: str, **labels: str) -> float:
        name = f"cache_actors_{name}"
        return found.value(name, **labels) - before.value(name, **labels)

    assert value("reads_total", by="nginx", kind="artifact", result="hit") == 3
    assert value("reads_total", by="nginx", kind="artifact", result="miss") == 1
    assert value("reads_total", by="nginx", kind="entry", result="hit") == 2
    assert value("reads_total", by="nginx", kind="entry", result="miss") == 1
    assert value("reads_total", by="service") == 0
    assert value("downloaded_bytes_total", kind="artifact") == len(body) + 10
    assert value("writes_total", by="service", kind="artifact", result="stored") == 1
    assert value("writes_total", by="nginx", kind="artifact", result="duplicate") == 1
    assert value("writes_total", by="service", kind="entry", result="stored") == 1
    assert value("uploaded_bytes_total", kind="artifact") == len(body)
    assert value("requests_total", by="nginx", status="401") == 1
    assert value("nginx_lines_ignored_total") == 0
    assert value("decisions_total", outcome="granted", source="tuist") == 1
    assert value("decisions_total", outcome="granted", source="memory") >= 1
    assert value("decisions_total", outcome="unauthorized", source="tuist") == 1
    assert value("tuist_request_duration_seconds_count") == 2
    assert value("commit_files_sum", kind="artifact") == 1
    assert value("commit_files_sum", kind="entry") == 1
    assert value("sync_duration_seconds_count") >= 4

    def lately() -> dict[str, Any]:
        recent: dict[str, Any] = site.client.get("/up").json()["recent"]
        return recent

    # Once the steps of time have ended that they fall into: what nginx has answered counts later.
    eventually(lambda: sum(lately()["requests_per_second"]) * 5 >= len(asked))
    eventually(lambda: any(lately()["latency_ms_p95"]))
    eventually(lambda: any(lately()["nginx_latency_ms_p95"]))


@one_kind
def test_no_label_is_a_secret_or_has_no_bound(site: Site) -> None:
    cas_id, token = new_cas_id(), "a-token-of-somebody"
    before = from_clients(metrics_of(site))
    for path in cas_path(cas_id), f"/{cas_id}", f"/api/cache/keyvalue/{cas_id}":
        for method in "GET", "PUT", "BREW":
            site.ask(method, path, token=token, headers={"X-Request-ID": "an-id"})
    eventually(lambda: from_clients(metrics_of(site)) == before + 9)
    labels = metrics_of(site).labels()
    secret = {cas_id, cas_id.lower(), token, "BREW", "an-id", *PROJECT.split("/")}
    assert [label for label in labels if any(each in label for each in secret)] == []


@one_kind
def test_what_nginx_answers_without_the_service_is_counted_when_it_is_back(site: Site) -> None:
    cas_id = site.stored()
    assert site.ask("GET", cas_path(cas_id)).status_code == 200
    with site.service_killed():
        for number in range(5):
            assert site.ask("GET", cas_path(cas_id)).status_code == 200
            assert site.ask("POST", cas_path(new_cas_id()), content=b"a").status_code == 503
            unknown = f"unknown-{number}"
            assert site.ask("GET", cas_path(cas_id), token=unknown).status_code == 503
    eventually(lambda: metrics_of(site).value(REQUESTS, by="nginx", status="503") == 10)
    found = metrics_of(site)
    assert found.value("cache_actors_reads_total", by="nginx", result="hit") >= 5
    unavailable = {"by": "nginx", "result": "unavailable"}
    assert found.value("cache_actors_writes_total", **unavailable) == 5


@pytest.mark.parametrize("refused_by", ["nginx", "service"])
def test_upload_that_is_too_large_is_counted_as_that(site: Site, refused_by: str) -> None:
    """By nginx before it has looked where it goes, and over HTTP/2 by the service."""

    def counted() -> float:
        found = metrics_of(site)
        return found.value("cache_actors_writes_total", by=refused_by, result="too_large")

    before, path = counted(), cas_path(new_cas_id())
    if refused_by == "nginx":
        with RawConnection(site.nginx.url) as connection:
            answer = connection.ask(f"POST {path}", f"Content-Length: {TOO_LARGE}")
        assert answer.status_code == 413
    else:
        headers = {BODY_HEADER: "1"}
        assert site.direct.post(path, content=bytes(TOO_LARGE), headers=headers).status_code == 413
    eventually(lambda: counted() == before + 1)


def test_nginx_hands_metrics_on_to_prometheus_and_nothing_else(site: Site) -> None:
    with client_of(f"http://127.0.0.1:{site.nginx.options.metrics_port}") as client:
        answer = client.get("/metrics")
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert Scrape(answer.text).value("cache_actors_build_info") == 1
        for path in "/", "/up", "/_auth_cas", "/metrics/":
            assert client.get(path).status_code == 404, path
    assert site.client.get("/metrics").status_code == 404


def test_instance_that_takes_over_answers_prometheus_and_counts_from_then_on(
    which: str, tuist: HeldTuist, sockets: Path
) -> None:
    log, current, port = sockets / "answers.log", sockets / "current.sock", free_port()
    misses = {"by": "nginx", "kind": "artifact", "result": "miss"}
    with (
        shared_storage() as storage,
        instance(storage, tuist, sockets),
        nginx_before(
            f"unix:{current}", storage, which, EAGER_LOG, answers_log=log, metrics_port=port
        ) as nginx,
        client_of(nginx.url) as client,
        client_of(f"http://127.0.0.1:{port}") as prometheus,
    ):

        def miss(times: int) -> None:
            for _ in range(times):
                assert client.get(cas_path(new_cas_id())).status_code == 404

        def counted(socket: Path) -> float:
            return scrape(socket).value("cache_actors_reads_total", **misses)

        def answering() -> float:
            return Scrape(prometheus.get("/metrics").text).value("process_start_time_seconds")

        old_socket, old = current.resolve(), answering()
        miss(3)
        eventually(lambda: counted(old_socket) == 3)
        with ThreadPoolExecutor(8) as clients:  # nginx keeps their connections to the old instance
            list(clients.map(lambda _: client.get("/up"), range(8)))
        with instance(storage, tuist, sockets):
            new_socket, new = current.resolve(), answering()
            assert new_socket != old_socket
            assert new != old
            assert {answering() for _ in range(10)} == {new}
            miss(4)
            eventually(lambda: counted(new_socket) == 4)
            assert counted(old_socket) == 3


@contextmanager
def instance(storage: Path, tuist: HeldTuist, folder: Path) -> Iterator[Service]:
    """An instance of the service to which `current.sock` leads."""
    before = folder.joinpath("current.sock").resolve()
    environment = {"SOCKET_DIR": str(folder), "NGINX_LOG": str(folder / "answers.log"), **EAGER}
    service = Service(storage, tuist.url, environment, CHANGED_COMMAND)
    with running_service(service, wait=False):
        eventually(lambda: folder.joinpath("current.sock").resolve() not in (before, None))
        yield service


# A full storage.


def test_refusal_for_lack_of_room_says_what_there_is_too_little_of(
    tmp_path: Path, tuist: HeldTuist
) -> None:
    service = Service(tmp_path / "cas", tuist.url, {"STORAGE_MAX_BYTES": "100"})
    with running_service(service), client_of(service.url) as client:
        for content in (b"x" * 101, bytes(SMALL_BYTES + 1)):
            assert client.post(cas_path(new_cas_id()), content=content).status_code == 507
        told = Scrape(client.get("/metrics").text)
    assert told.value("cache_actors_storage_full_total", shortage="limit") == 2
    assert told.value("cache_actors_storage_full_total", shortage="bytes") == 0
    failures = service.logged("storage_failed")
    assert [line["shortage"] for line in failures] == ["limit", "limit"]
