"""nginx in front of the service: what it decides itself, and what happens when things go wrong.

The contract suite has what one request is answered with. Here is what depends on time, on load, on
who may see what, and on whether the service and the Tuist server run.
"""

from __future__ import annotations

import os
import socket
import ssl
import stat
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from time import sleep
from typing import TYPE_CHECKING

import pytest
from h2.connection import H2Connection
from h2.events import DataReceived, RemoteSettingsChanged, ResponseReceived, StreamEnded

from tests.contract.examples import (
    bearer,
    cas_path,
    expect_error,
    expect_error_without_body,
    kv_path,
    new_body,
    new_cas_id,
    new_kv_id,
)
from tests.contract.raw import RawConnection, RawResponse, chunked, pieces_of
from tests.support.nginx import BRIEF_KEEPALIVE, NOBODY, Nginx, new_certificate, nginx_before
from tests.support.programs import find_program
from tests.support.service import client_of
from tests.support.waiting import eventually
from tests.support.wire import QUERY

from .site import OTHER_PROJECT, PROJECT, Site, running_site

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from tests.support.tuist import HeldTuist

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


@pytest.fixture
def brief(which: str, tuist: HeldTuist) -> Iterator[Site]:
    """A site whose decisions hold for two seconds, of which nginx remembers them for one."""
    settings = {"AUTH_SUCCESS_TTL": "2", "AUTH_FAILURE_TTL": "2", "DURABILITY": "relaxed"}
    with running_site(which, tuist, settings) as site:
        yield site


# --- Who may see what ---------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(PROJECT, OTHER_PROJECT), (OTHER_PROJECT, PROJECT)])
def test_yes_for_one_project_never_opens_another(site: Site, order: tuple[str, ...]) -> None:
    owner = site.new_token(PROJECT, OTHER_PROJECT)
    cas_id, kv_id = new_cas_id(), new_kv_id()
    for project in order:
        site.upload(cas_id, project.encode(), token=owner, project=project)
        site.put(kv_id, project, token=owner, project=project)
    for project in order * 3:
        calls: list[tuple[str, str]] = [
            ("GET", cas_path(cas_id)),
            ("POST", cas_path(cas_id)),
            ("GET", kv_path(kv_id)),
            ("PUT", kv_path(kv_id)),
        ]
        for method, path in calls:
            response = site.ask(method, path, project=project)
            if project == OTHER_PROJECT:
                expect_error(response, 403, "You don't have access to this project")
            else:
                assert response.is_success
                assert response.content in (b"", b"acme/app", b'{"entries":[{"value":"acme/app"}]}')
        new_upload = site.ask("POST", cas_path(new_cas_id()), project=project, content=b"a")
        assert new_upload.status_code == (403 if project == OTHER_PROJECT else 204)


@pytest.mark.parametrize("order", [1, -1])
def test_yes_for_one_token_never_lets_in_another(site: Site, order: int) -> None:
    allowed = {site.token: PROJECT, site.new_token(OTHER_PROJECT): OTHER_PROJECT}
    cas_id = new_cas_id()
    for token, project in allowed.items():
        site.upload(cas_id, project.encode(), token=token, project=project)
    for project in (PROJECT, OTHER_PROJECT) * 2:
        for token in list(allowed)[::order]:
            response = site.ask("GET", cas_path(cas_id), token=token, project=project)
            if allowed[token] == project:
                assert response.content == project.encode()
            else:
                expect_error(response, 403, "You don't have access to this project")
        expect_error(site.ask("GET", cas_path(cas_id), token="x", project=project), 401)


def test_project_in_another_case_is_the_same_project(site: Site) -> None:
    cas_id, kv_id = new_cas_id(), new_kv_id()
    site.upload(cas_id, b"bytes", project="Acme/APP")
    assert site.put(kv_id, "value", project="ACME/App").status_code == 204
    for project in ("acme/app", "ACME/APP", "aCME/aPP"):
        assert site.ask("GET", cas_path(cas_id), project=project).content == b"bytes"
        entries = site.ask("PUT", kv_path(kv_id), project=project)
        assert entries.json() == {"entries": [{"value": "value"}]}
        site.upload(cas_id, b"others", project=project)
    assert site.file(cas_id).read_bytes() == b"bytes"
    accounts = [path.name for path in site.service.storage.iterdir() if path.name[0] != "."]
    assert accounts == ["acme"]
    assert len(site.requests(cas_path(cas_id), "POST")) == 1


# --- Decisions ----------------------------------------------------------------------------------


@one_kind
def test_ten_thousand_reads_ask_nobody(site: Site) -> None:
    cas_id, kv_id = site.stored(new_body(500)), new_kv_id()
    site.put(kv_id, "value")
    assert site.ask("GET", cas_path(cas_id)).status_code == 200
    before = len(site.requests("/_auth_cas"))

    def read(_: int) -> int:
        with RawConnection(site.nginx.url, timeout=60) as connection:
            batch = b"".join(
                connection.head(f"GET {path}?{QUERY}", site.authorization)
                for path in (cas_path(cas_id), kv_path(kv_id)) * 25
            )
            good = 0
            for _ in range(50):
                connection.send(batch)
                good += sum(connection.response().status_code == 200 for _ in range(50))
            return good

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(read, range(4))) == [2500] * 4
    assert len(site.requests("/_auth_cas")) == before
    assert site.questions(site.token) == 1
    assert site.requests(cas_path(cas_id), "GET") == []


def test_burst_with_a_new_token_asks_tuist_once_and_holds_up_nobody_else(site: Site) -> None:
    cas_id = site.stored()
    token = site.new_token(PROJECT)
    call = f"GET {cas_path(cas_id)}?{QUERY}"
    with ExitStack() as stack:
        burst = [stack.enter_context(RawConnection(site.nginx.url, timeout=60)) for _ in range(100)]
        with site.tuist.held():
            for connection in burst:
                connection.begin(call, f"Authorization: Bearer {token}")
            eventually(lambda: site.questions(token) > 0)
            assert site.ask("GET", cas_path(cas_id)).content == b"bytes"
            site.stored()
        assert [connection.response().status_code for connection in burst] == [200] * 100
    assert site.questions(token) == 1


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


@one_kind
def test_unknown_token_is_let_in_when_tuist_is_back(site: Site) -> None:
    cas_id = site.stored()
    token = site.new_token(PROJECT)
    with site.tuist.down():
        for method in ("GET", "POST"):
            response = site.ask(method, cas_path(cas_id), token=token)
            expect_error(response, 503)
            assert 1 <= int(response.headers["Retry-After"]) <= 3
    eventually(lambda: site.ask("GET", cas_path(cas_id), token=token).status_code == 200)


# --- Nothing stale ------------------------------------------------------------------------------


def test_replaced_entry_is_never_served_stale(site: Site) -> None:
    kv_id = new_kv_id()
    site.put(kv_id, "0")
    over = threading.Event()

    def watch() -> list[int]:
        answers = read_until(over, site, kv_path(kv_id))
        return [int(answer.json()["entries"][0]["value"]) for answer in answers]

    with ThreadPoolExecutor(1) as threads:
        watcher = threads.submit(watch)
        try:
            for number in range(100):
                assert site.put(kv_id, str(number)).status_code == 204
                response = site.ask(("GET", "PUT")[number % 2], kv_path(kv_id))
                assert response.json() == {"entries": [{"value": str(number)}]}
        finally:
            over.set()
        seen = watcher.result()
    assert seen == sorted(seen)
    assert len(set(seen)) > 10


# --- Uploads ------------------------------------------------------------------------------------


def test_upload_of_what_exists_does_not_reach_the_service(site: Site) -> None:
    cas_id = site.stored(b"bytes")
    call = f"POST {cas_path(cas_id)}?{QUERY}"
    large = new_body(1_000_000)
    with RawConnection(site.nginx.url, timeout=60) as connection:
        for _ in range(3):
            for headers, body in (
                (["Content-Length: 5"], b"bytes"),
                (["Content-Length: 0"], b""),
                ([], b""),
                ([f"Content-Length: {len(large)}"], large),
                (["Transfer-Encoding: chunked"], chunked(b"by", b"tes")),
                (["Transfer-Encoding: chunked"], chunked(*pieces_of(large))),
                (["Transfer-Encoding: chunked"], chunked()),
            ):
                assert (
                    connection.ask(call, site.authorization, *headers, body=body).status_code == 204
                )
                read = connection.ask(f"GET {cas_path(cas_id)}?{QUERY}", site.authorization)
                assert read.content == b"bytes"
    assert len(site.requests(cas_path(cas_id))) == 1


@pytest.mark.parametrize("body", [None, b"bytes"], ids=["without-body", "with-body"])
def test_other_methods_change_nothing(site: Site, body: bytes | None) -> None:
    cas_id = site.stored(b"as it was")
    for method in ("DELETE", "PATCH", "PUT", "TRACE", "OPTIONS"):
        expect_error(site.ask(method, cas_path(cas_id), content=body), 405)
        assert site.file(cas_id).read_bytes() == b"as it was"
        assert site.ask("GET", cas_path(cas_id)).content == b"as it was"


def test_upload_that_waits_for_100_is_answered_before_its_body_if_it_is_not_wanted(
    site: Site,
) -> None:
    old, new, refused = site.stored(b"old"), new_cas_id(), new_cas_id()
    expect = ("Content-Length: 5", "Expect: 100-continue")
    with RawConnection(site.nginx.url, timeout=60) as connection:
        connection.begin(f"POST {cas_path(new)}?{QUERY}", site.authorization, *expect)
        assert connection.response().status_code == 100
        connection.send(b"bytes")
        assert connection.response().status_code == 204
        connection.begin(f"POST {cas_path(old)}?{QUERY}", site.authorization, *expect)
        assert final_response(connection).status_code == 204  # though it may send its body
        connection.send(b"bytes")
        read = connection.ask(f"GET {cas_path(old)}?{QUERY}", site.authorization)
        assert read.content == b"old"
    with RawConnection(site.nginx.url, timeout=60) as connection:
        connection.begin(f"POST {cas_path(refused)}?{QUERY}", "Authorization: Bearer x", *expect)
        expect_error(final_response(connection), 401, "Unauthorized")
    assert site.file(new).read_bytes() == b"bytes"
    assert not site.file(refused).exists()


@pytest.mark.parametrize("framing", ["Content-Length: 4000000", "Transfer-Encoding: chunked"])
def test_client_that_goes_away_stores_nothing_and_harms_nobody(site: Site, framing: str) -> None:
    cas_ids = [new_cas_id() for _ in range(10)]
    piece = new_body(100_000)
    for cas_id in cas_ids:
        with RawConnection(site.nginx.url, timeout=60) as connection:
            connection.begin(
                f"POST {cas_path(cas_id)}?{QUERY}",
                site.authorization,
                framing,
                "Expect: 100-continue",
            )
            assert connection.response().status_code == 100
            connection.send(piece if "Length" in framing else chunked(piece)[:-5])
    eventually(lambda: all(site.requests(cas_path(cas_id), "POST") for cas_id in cas_ids))
    for cas_id in cas_ids:
        (line,) = site.requests(cas_path(cas_id), "POST")
        assert line["status"] >= 400
        assert not site.file(cas_id).exists()
        site.upload(cas_id, b"whole")
        assert site.ask("GET", cas_path(cas_id)).content == b"whole"
    temporary = site.service.storage / ".tmp"
    eventually(lambda: not [path for path in temporary.rglob("*") if path.is_file()])


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
def test_restart_of_the_service_loses_no_read(site: Site) -> None:
    cas_id, kv_id = site.stored(new_body(100_000)), new_kv_id()
    site.put(kv_id, "value")
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
    assert site.questions(site.token) == 1


# --- What stays inside --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["_auth_cas", "metrics", "_cache_decision", "_cache_entry"])
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


def test_http2_works_with_hundreds_of_requests_at_once(
    which: str, tmp_path: Path, site: Site
) -> None:
    certificate, key = new_certificate(tmp_path)
    upstream = f"unix:{site.service.environment['SOCKET_PATH']}"
    with nginx_before(
        upstream, site.service.storage, which, tls_cert=certificate, tls_key=key
    ) as nginx:
        expect_http2(replace(site, nginx=nginx))


def expect_http2(site: Site) -> None:
    kv_id, body = new_kv_id(), new_body(10_000)
    with client_of(site.nginx.url, http2=True, headers=bearer(site.token)) as client:
        cas_id = new_cas_id()
        stored = client.post(cas_path(cas_id), content=body)
        assert (stored.http_version, stored.status_code) == ("HTTP/2", 204)
        assert client.post(cas_path(cas_id), content=body).status_code == 204
        read = client.get(cas_path(cas_id))
        assert (read.http_version, read.content) == ("HTTP/2", body)
        pair = {"cas_id": kv_id, "entries": [{"value": "value"}]}
        assert client.put("/api/cache/keyvalue", json=pair).status_code == 204
        for method in ("GET", "PUT"):
            assert client.request(method, kv_path(kv_id)).json() == {"entries": pair["entries"]}
        expect_error(client.get(cas_path(cas_id), headers=bearer("unknown")), 401)
    paths = [f"{path}?{QUERY}" for path in (cas_path(cas_id), kv_path(kv_id))] * 150
    answers = ask_over_one_http2_connection(site.nginx, site.token, paths)
    assert answers == [b"200"] * 300


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


def final_response(connection: RawConnection) -> RawResponse:
    """The next response that is not an interim one: nginx says 100 before it drops a body, too."""
    while (response := connection.response()).status_code == 100:
        pass
    return response


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


def ask_over_one_http2_connection(
    nginx: Nginx, token: str, paths: Iterable[str]
) -> list[bytes | None]:
    """The statuses of GET requests that are all sent before an answer to any is read."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    statuses: dict[int, bytes | None] = {}
    with (
        socket.create_connection(("127.0.0.1", nginx.port), timeout=60) as plain,
        context.wrap_socket(plain) as secured,
    ):
        assert secured.selected_alpn_protocol() == "h2"
        http = H2Connection()
        http.initiate_connection()
        http.increment_flow_control_window(2**30)
        secured.sendall(http.data_to_send())
        while not any(
            isinstance(event, RemoteSettingsChanged)
            for event in http.receive_data(secured.recv(65536))
        ):
            pass
        assert http.remote_settings.max_concurrent_streams == 512
        for path in paths:
            stream = http.get_next_available_stream_id()
            statuses[stream] = None
            head = [
                (":method", "GET"),
                (":scheme", "https"),
                (":authority", "cache"),
                (":path", path),
                ("authorization", f"Bearer {token}"),
            ]
            http.send_headers(stream, head, end_stream=True)
        secured.sendall(http.data_to_send())
        ended = 0
        while ended < len(statuses):
            received = secured.recv(65536)
            assert received, "the connection was closed"
            for event in http.receive_data(received):
                if isinstance(event, ResponseReceived):
                    statuses[event.stream_id] = dict(event.headers)[b":status"]
                elif isinstance(event, DataReceived):
                    assert event.flow_controlled_length is not None
                    http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, StreamEnded):
                    ended += 1
            secured.sendall(http.data_to_send())
    return list(statuses.values())
