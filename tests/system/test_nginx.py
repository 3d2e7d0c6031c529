"""nginx in front of the service: what it decides itself, and what happens when things go wrong.

The contract suite has what requests are answered with, and who may see what. Here is what depends
on time, on load, and on whether the service and the Tuist server run.
"""

import os
import stat
import subprocess
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from time import sleep

import httpx
import pytest
import trio

from tests.contract.examples import (
    bearer,
    cas_path,
    expect_error,
    expect_error_without_body,
    handles,
    kv_path,
    new_body,
    new_cas_id,
    new_kv_id,
)
from tests.contract.raw import RawConnection, RawResponse, pieces_of
from tests.support.nginx import BRIEF_KEEPALIVE, NOBODY, new_certificate, nginx_before
from tests.support.programs import find_program
from tests.support.service import client_of
from tests.support.strace import attached, family
from tests.support.tuist import HeldTuist
from tests.support.waiting import eventually
from tests.support.wire import QUERY

from .site import OTHER_PROJECT, PROJECT, TOKEN, Site, running_site

one_kind = pytest.mark.parametrize("which", ["debian"], indirect=True)
"""For what the kind of nginx makes no difference to."""


@pytest.fixture(scope="module")
def shared(which: str, shared_tuist: HeldTuist) -> Iterator[Site]:
    """The site that most tests share."""
    with running_site(which, shared_tuist) as site:
        yield site


@pytest.fixture
def site(shared: Site) -> Iterator[Site]:
    """The shared site, with a token that no other test has shown."""
    yield replace(shared, token=shared.new_token(PROJECT))
    shared.tuist.tokens.clear()


@pytest.fixture(scope="module")
def brief(which: str) -> Iterator[Site]:
    """A site whose decisions hold for two seconds, of which nginx remembers them for one."""
    settings = {"AUTH_SUCCESS_TTL": "2", "AUTH_FAILURE_TTL": "2", "DURABILITY": "relaxed"}
    with HeldTuist({TOKEN: [PROJECT]}) as tuist, running_site(which, tuist, settings) as site:
        yield site


# --- Decisions ----------------------------------------------------------------------------------


@one_kind
def test_tuists_answer_holds_for_as_long_as_a_decision_lives(brief: Site) -> None:
    cas_id = brief.stored()
    projects = {"loses": [PROJECT], "vanishes": [PROJECT], "gains": [], "appears": None}
    later = {"loses": [OTHER_PROJECT], "vanishes": None, "gains": [PROJECT], "appears": [PROJECT]}

    def see(sees: Mapping[str, list[str] | None]) -> None:
        for token, names in sees.items():
            if names is None:
                brief.tuist.tokens.pop(token, None)
            else:
                brief.tuist.tokens[token] = names

    def statuses() -> list[int]:
        return [brief.ask("GET", cas_path(cas_id), token=token).status_code for token in projects]

    see(projects)
    assert statuses() == [200, 200, 403, 401]
    see(later)
    eventually(lambda: statuses() == [403, 401, 200, 200])


# --- While Tuist is down ------------------------------------------------------------------------


@one_kind
def test_stale_yes_goes_on_while_tuist_is_down(brief: Site) -> None:
    site = brief
    cas_id = site.stored()
    with site.tuist.down():

        def tuist_is_missed() -> bool:
            assert site.ask("GET", cas_path(cas_id)).content == b"bytes"
            return site.service.logged("tuist_failed") != []

        eventually(tuist_is_missed)
        assert site.ask("GET", cas_path(cas_id)).content == b"bytes"
        site.upload(cas_id, b"bytes")
        site.stored()
        assert site.put(new_kv_id(), "value").status_code == 204


# --- Uploads ------------------------------------------------------------------------------------


@one_kind
@pytest.mark.parametrize(
    ("changes", "pauses"),
    [
        (BRIEF_KEEPALIVE, (0, 1, 1.8, 2, 2.2, 3)),
        pytest.param({}, (1, 4, 9, 14, 17), marks=pytest.mark.nightly),
    ],
    ids=["brief keep-alive", "that of production"],
)
def test_upload_into_an_idle_connection_never_fails(
    which: str, site: Site, changes: Mapping[str, str], pauses: tuple[float, ...]
) -> None:
    """nginx closes its connections before the service does, and uses none that is being closed."""
    body = new_body(200_000)  # too large to be sent again
    upstream = f"unix:{site.service.environment['SOCKET_PATH']}"

    def pause_between_uploads(seconds: float) -> tuple[int, int, str]:
        with (
            nginx_before(upstream, site.service.storage, which, changes) as nginx,
            client_of(nginx.url, headers=bearer(site.token)) as client,
        ):
            first = client.post(cas_path(new_cas_id()), content=body)
            sleep(seconds)  # this is what is tested
            second = client.post(cas_path(new_cas_id()), content=body)
            return first.status_code, second.status_code, nginx.error_log()

    with ThreadPoolExecutor(len(pauses)) as threads:
        outcomes = list(threads.map(pause_between_uploads, pauses))
    assert outcomes == [(204, 204, "")] * len(pauses)


# --- While the service is down ------------------------------------------------------------------


def test_what_nginx_can_do_alone_goes_on_when_the_service_is_killed(site: Site) -> None:
    cas_id, kv_id = site.stored(), new_kv_id()
    site.put(kv_id, "value")
    assert site.ask("GET", cas_path(cas_id)).status_code == 200
    new_token = site.new_token(PROJECT)
    with site.service_killed():
        for _ in range(3):
            assert site.ask("GET", cas_path(cas_id)).content == b"bytes"
            assert site.ask("HEAD", cas_path(cas_id)).status_code == 200
            site.upload(cas_id, b"bytes")
            for method in ("GET", "PUT"):
                entries = site.ask(method, kv_path(kv_id))
                assert entries.json() == {"entries": [{"value": "value"}]}
            expect_error(site.ask("GET", cas_path(new_cas_id())), 404, "Artifact does not exist")
            for response in (
                site.put(kv_id, "another"),
                site.ask("POST", cas_path(new_cas_id()), content=b"a"),
                site.ask("POST", cas_path(new_cas_id()), content=new_body(2_000_000)),
                site.ask("POST", cas_path(new_cas_id()), content=pieces_of(new_body(2_000_000))),
                site.ask("GET", cas_path(cas_id), token=new_token),
                site.ask("POST", cas_path(cas_id), token=new_token, content=b"a"),
                site.ask("PUT", kv_path(kv_id), token=new_token),
                site.ask("GET", "/up"),
                site.ask("DELETE", cas_path(cas_id)),
            ):
                expect_error(response, 503)
                assert int(response.headers["Retry-After"]) >= 1
        assert "connect() to unix:" in site.nginx.error_log()
    assert site.put(kv_id, "another").status_code == 204
    assert site.ask("GET", cas_path(cas_id), token=new_token).status_code == 200
    site.stored()


@one_kind
def test_reads_ask_nobody_and_a_restart_of_the_service_loses_none(site: Site) -> None:
    cas_id, kv_id = site.stored(new_body(100_000)), new_kv_id()
    site.put(kv_id, "value")
    assert site.ask("GET", cas_path(cas_id)).status_code == 200
    before = len(site.requests("/_auth_cas"))
    over = threading.Event()
    answers: list[int] = []

    def read(path: str) -> None:
        answers.extend(answer.status_code for answer in read_until(over, site, path))

    def let_them_read() -> None:
        so_far = len(answers)
        eventually(lambda: len(answers) > so_far + 500)

    with ThreadPoolExecutor(4) as threads:
        readers = [threads.submit(read, path) for path in (cas_path(cas_id), kv_path(kv_id)) * 2]
        try:
            let_them_read()
            assert site.service.stop() == 0
            let_them_read()
            site.start_again()
            let_them_read()
        finally:
            over.set()
        for reader in readers:
            reader.result()
    assert set(answers) == {200}
    assert len(site.requests("/_auth_cas")) == before
    assert site.requests(cas_path(cas_id), "GET") == site.requests(kv_path(kv_id), "GET") == []


@one_kind
def test_artifacts_are_handed_to_sendfile_and_entries_are_read(site: Site, tmp_path: Path) -> None:
    """The decision, which comes last, has a say in it too."""
    cas_id, kv_id, calls = site.stored(new_body(50_000)), new_kv_id(), tmp_path / "calls"
    site.put(kv_id, "value")
    for path, is_handed in ((cas_path(cas_id), True), (kv_path(kv_id), False)):
        with attached(
            site.service, calls, "-e", "trace=sendfile,recvfrom", pids=family(site.nginx.pid)
        ):
            assert site.ask("GET", path).status_code == 200
        assert "recvfrom" in calls.read_text()
        assert ("sendfile" in calls.read_text()) is is_handed


# --- What stays inside --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["_auth_cas", "metrics", "_cache_decision", "_cache_decision_on_entry", "_cache_entry"],
)
def test_inner_locations_cannot_be_reached(site: Site, name: str) -> None:
    first, rest = name[0], name[1:]
    last = f"%{ord(name[-1]):02x}"
    spellings = [
        f"/{name}",
        f"/{name}/",
        f"/{name}/.",
        f"/{name};a",
        f"/{name}#a",
        f"/{name}%3F{QUERY}",
        f"/{name[:-1]}{last}",
        f"/%{ord(first):02X}{rest}",
        f"/%25{ord(first):02X}{rest}",
        "/" + "".join(f"%{ord(letter):02X}" for letter in name),
        f"//{name}",
        f"///{name}",
        f"/./{name}",
        f"/%2e/{name}",
        f"/%2F{name}",
        f"/up/../{name}",
        f"/up/%2e%2e/{name}",
        f"/up/..%2f{name}",
        f"/api/cache/cas/../../../{name}",
        f"/a//../{name}",
        f"/{name}/../{name}",
        f"/{name.upper()}",
        f"/#/../{name}",
        f"/up%23/../{name}",
        f"/up\\..\\{name}",
        f"http://cache/{name}",
        f"http://cache//{name}",
    ]
    reached = []
    for spelling in spellings:
        for method in ("GET", "HEAD", "POST"):
            target = spelling if "%3F" in spelling else f"{spelling}?{QUERY}"
            with RawConnection(site.nginx.url, timeout=60) as connection:
                call = f"{method} {target}"
                response = connection.ask(call, site.authorization, "Content-Length: 0")
            if response.status_code != 404 or "X-Cache-Project" in response.headers:
                reached.append((call, response.status_code))
            elif method != "HEAD":
                expect_error(response, 404)
    assert reached == []
    assert site.questions(site.token) == 0


def test_internal_pages_cannot_be_reached(site: Site) -> None:
    for page in "bad_request", "timed_out", "too_large", "uri_too_long", "not_implemented":
        for method in ("GET", "POST"):
            expect_error(site.ask(method, f"/_cache_{page}"), 404)
        expect_error_without_body(site.ask("HEAD", f"/_cache_{page}"), 404)


@pytest.mark.skipif(os.geteuid() != 0, reason="nginx's workers are another user only for root")
def test_workers_may_read_the_storage_and_write_nowhere_in_it(site: Site) -> None:
    cas_id, kv_id = site.stored(), new_kv_id()
    site.put(kv_id, "value")
    storage = site.service.storage
    readable = set(found_by_nobody(storage, "-type", "f", "-readable"))
    entry = f"{storage}/{PROJECT}/keyvalue/{kv_id[2:4]}/{kv_id}.json"
    assert {str(site.file(cas_id)), entry} <= readable
    assert found_by_nobody(storage, "-writable") == []
    decisions = site.nginx.options.runtime / "decisions"
    assert stat.S_IMODE(decisions.stat().st_mode) == 0o700
    assert found_by_nobody(decisions, "-type", "f") != [], "decisions have been remembered"


# --- TLS and HTTP/2 -----------------------------------------------------------------------------


async def test_http2_works_with_hundreds_of_requests_at_once(
    which: str, tmp_path: Path, site: Site
) -> None:
    certificate, key = new_certificate(tmp_path)
    upstream = f"unix:{site.service.environment['SOCKET_PATH']}"
    body, kv_id = new_body(10_000), new_kv_id()
    site.put(kv_id, "value")
    paths = [cas_path(site.stored(body)), kv_path(kv_id)]
    with nginx_before(
        upstream, site.service.storage, which, tls_cert=certificate, tls_key=key
    ) as nginx:
        async with httpx.AsyncClient(
            base_url=nginx.url,
            headers=bearer(site.token),
            params=handles(PROJECT),
            http2=True,
            verify=False,  # noqa: S501
            trust_env=False,
            timeout=60,
            limits=httpx.Limits(max_connections=1),
        ) as client:
            new = cas_path(new_cas_id())
            for _ in range(2):
                stored = await client.post(new, content=body)
                assert (stored.http_version, stored.status_code) == ("HTTP/2", 204)
            pair = {"cas_id": kv_id, "entries": [{"value": "another"}]}
            assert (await client.put("/api/cache/keyvalue", json=pair)).status_code == 204
            assert (await client.put(paths[1])).json() == {"entries": pair["entries"]}
            expect_error(await client.get(new, headers=bearer("unknown")), 401)
            answers: list[httpx.Response] = []

            async def read(path: str) -> None:
                answers.append(await client.get(path))

            async with trio.open_nursery() as nursery:
                for path in paths * 150:
                    nursery.start_soon(read, path)
        assert (
            "http2_max_concurrent_streams 512;"
            in (nginx.options.runtime / "nginx.conf").read_text()
        )
    assert [answer.status_code for answer in answers] == [200] * 300
    assert sum(answer.content == body for answer in answers) == 150


# --- What they are tested with -----------------------------------------------------------------


def read_until(over: threading.Event, site: Site, path: str) -> Iterator[RawResponse]:
    """Read `path` again and again, on one connection for as long as nginx keeps it open."""
    while not over.is_set():
        with RawConnection(site.nginx.url, timeout=60) as connection:
            while not over.is_set():
                answer = connection.ask(f"GET {path}?{QUERY}", site.authorization)
                yield answer
                if answer.headers["Connection"] == "close":
                    break


def found_by_nobody(folder: Path, *conditions: str) -> list[str]:
    """What nginx's user finds in `folder`, as far as it may look into it."""
    run = subprocess.run(
        [find_program("find"), folder, *conditions],
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return run.stdout.splitlines()
