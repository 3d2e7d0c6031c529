"""What the logs of a site tell, and must not, and that nobody waits for who reads them."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from cache_actors.cli.dev.tuist import StandInTuist
from tests.contract.examples import bearer, cas_path, kv_path, new_cas_id, new_kv_id
from tests.contract.raw import RawConnection
from tests.support.nginx import EAGER_LOG
from tests.support.service import CHANGED_COMMAND, COMMAND, Service, running_service
from tests.support.tuist import HeldTuist
from tests.support.waiting import eventually

from .site import PROJECT, Site, running_site

SECRET = "a-token-that-nobody-may-read"


@pytest.fixture(scope="module")
def site(which: str, shared_tuist: HeldTuist) -> Iterator[Site]:
    """A site that logs all it can, and whose key-value store crashes at an entry named CRASH."""
    shared_tuist.tokens[SECRET] = [PROJECT]
    settings = {"LOG_LEVEL": "debug", "AUTH_FAILURE_TTL": "0", "CRASH_AT": "CRASH"}
    with running_site(
        which, shared_tuist, settings, command=CHANGED_COMMAND, crashes=True, changes=EAGER_LOG
    ) as site:
        yield site


def lines_of(log: Path) -> list[dict[str, Any]]:
    """What has been logged."""
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.mark.parametrize("given", ["my-own-id", "not sane", None])
def test_one_id_is_in_both_logs_and_in_the_question_to_tuist(site: Site, given: str | None) -> None:
    token = site.new_token(PROJECT)
    headers = {"X-Request-ID": given} if given else {}
    answer = site.ask("POST", cas_path(new_cas_id()), token, content=b"a", headers=headers)
    assert answer.status_code == 204
    request_id = answer.headers["X-Request-ID"]
    assert (request_id == given) is (given == "my-own-id")
    eventually(lambda: request_id in site.access_log.read_text())
    [nginx] = [line for line in lines_of(site.access_log) if line["request_id"] == request_id]
    assert (nginx["status"], nginx["project"]) == (204, PROJECT)
    eventually(lambda: site.service.log.read_text().count(request_id) == 2)
    ours = [line for line in site.service.logged("request") if line["request_id"] == request_id]
    assert {line["path"] for line in ours} == {"/_auth_cas", nginx["path"]}
    asked = [each.request_id for each in site.tuist.questions if token in str(each.authorization)]
    assert asked == [request_id]


def test_path_that_is_not_ascii_leaves_a_line_of_json(site: Site) -> None:
    with RawConnection(site.nginx.url) as connection:
        headers = [f"Host: cache\r\n{site.authorization}", "X-Request-ID: bytes"]
        connection.send(b"GET /odd\xff\xfe\xc3 HTTP/1.1\r\n")
        connection.send("\r\n".join([*headers, "", ""]).encode())
        assert connection.response().status_code in (400, 404)
    eventually(lambda: b'"bytes"' in site.access_log.read_bytes())
    [line] = [line for line in lines_of(site.access_log) if line["request_id"] == "bytes"]
    assert line["path"] == "/odd"


def test_crash_is_logged_once_with_its_traceback(site: Site) -> None:
    before = len(site.service.logged("child_crashed"))
    answer = site.ask("PUT", "/api/cache/keyvalue/CRASH", headers={"X-Request-ID": "unlucky"})
    assert answer.status_code == 404, "nginx looks at the disk by itself"
    crashed = site.put("CRASH", "value", headers={"X-Request-ID": "unlucky"})
    assert crashed.status_code == 503
    eventually(lambda: len(site.service.logged("child_crashed")) > before)
    lines = [line for line in lines_of(site.service.log) if "Traceback" in json.dumps(line)]
    [crash] = lines[before:]
    assert crash["event"] == "child_crashed"
    assert crash["child"] == "kv_store"
    assert crash["exception"].count("Traceback") == 1


def test_no_log_of_a_whole_run_has_a_token(site: Site) -> None:
    """What can go wrong with a request goes wrong with one that has the token."""
    cas_id, kv_id = new_cas_id(), new_kv_id()
    site.ask("POST", cas_path(cas_id), SECRET, content=b"bytes")
    site.put(kv_id, "value", token=SECRET)
    site.put("CRASH", "value", token=SECRET)
    for method in "GET", "HEAD", "POST", "PUT", "DELETE":
        for path in cas_path(cas_id), kv_path(kv_id), "/up", "/nowhere", "/_auth_cas":
            for token in SECRET, f"unknown-{SECRET}":
                site.ask(method, path, token)
        site.ask(method, cas_path(cas_id), SECRET, project="acme/others")
        site.ask(method, f"{cas_path(cas_id)}?token={SECRET}", SECRET)
    site.client.get(cas_path(cas_id), params={"access_token": SECRET}, headers=bearer(SECRET))
    for target in "/up", f"/up?{SECRET}":
        for header in f"Authorization : {SECRET}", f"Authorization: {SECRET * 2000}":
            with RawConnection(site.nginx.url) as connection:
                connection.ask(f"GET {target}", header)
    with RawConnection(site.nginx.url) as connection:
        connection.send(f"{SECRET}\r\n\r\n".encode())
        connection.response()
    with site.tuist.down():
        site.ask("GET", cas_path(cas_id), f"another-{SECRET}")
    with site.service_killed():
        site.ask("POST", cas_path(new_cas_id()), SECRET, content=b"bytes")
        last = site.ask("GET", cas_path(cas_id), f"fourth-{SECRET}").headers["X-Request-ID"]
    eventually(lambda: last in site.access_log.read_text())
    logs = [site.service.log, *site.nginx.options.runtime.glob("*.log")]
    assert len(logs) >= 3
    for log in logs:
        assert SECRET not in log.read_text(), log
    events = {line["event"] for line in lines_of(site.service.log)}
    assert {"started", "request", "child_crashed", "tuist_failed"} <= events


MORE_THAN_A_PIPE_HOLDS = 500
"""Requests; the line of each has more than 150 bytes, and a pipe holds 65,536."""


@contextmanager
def service_with(
    output: str, tmp_path: Path, tuist: StandInTuist, **environment: str
) -> Iterator[Service]:
    """A service whose standard output a shell has redirected to `output`."""
    command = ("sh", "-c", f'exec "$0" "$@" >{output}', *COMMAND)
    with running_service(Service(tmp_path / "cas", tuist.url, environment, command)) as service:
        yield service


@pytest.mark.parametrize("workers", [pytest.param("1", marks=pytest.mark.nightly), "2"])
def test_reader_that_stands_still_holds_up_nobody(
    tmp_path: Path, tuist: StandInTuist, workers: str
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDWR)
    try:
        with (
            service_with(str(pipe), tmp_path, tuist, WORKERS=workers) as service,
            httpx.Client(base_url=service.url, trust_env=False, timeout=60) as client,
        ):
            for _ in range(MORE_THAN_A_PIPE_HOLDS):
                assert client.get("/nothing/here").status_code == 404
            dropped = client.get("/metrics").text
            assert client.get("/up").status_code == 200
            assert service.stop() == 0
        lines = [
            line for line in dropped.splitlines() if "cache_actors_log_lines_dropped_total" in line
        ]
        assert sum(float(line.split()[-1]) for line in lines if not line.startswith("#")) > 0
    finally:
        os.close(reading)


@pytest.mark.parametrize(("locale", "log_format"), [("C", "text"), ("en_US.ISO-8859-1", "json")])
def test_path_outside_of_the_locale_harms_nobody(
    tmp_path: Path, tuist: StandInTuist, locale: str, log_format: str
) -> None:
    log = tmp_path / "log"
    environment = {"LC_ALL": locale, "LOG_FORMAT": log_format, "PYTHONCOERCECLOCALE": "0"}
    environment |= {"PYTHONUTF8": "0", "NO_COLOR": "1"}
    with service_with(str(log), tmp_path, tuist, **environment) as service:
        for path in "/%C3%A9", "/%FF%FE", "/%F0%9F%98%80", "/%00":
            response = httpx.get(service.url + path, trust_env=False)
            assert response.status_code in (400, 404)
        assert service.stop() == 0
    assert log.read_text(encoding="utf-8").count("/é") == 1
