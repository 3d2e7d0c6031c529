"""Shared things are shared out: no one client, token or project keeps others from them."""

import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest

from cache_actors.supervision.turns import TOGETHER
from tests.support.metrics import Scrape
from tests.support.mounts import tmpfs
from tests.support.nginx import nginx_before
from tests.support.service import CHANGED_COMMAND, Service, client_of, constants, running_service
from tests.support.tuist import HeldTuist
from tests.support.waiting import eventually
from tests.support.wire import QUERY, connected, read_response, status_of, upload_head
from tests.support.writer_processes import disk_processes

COLLEAGUE, STRANGER = "token of a colleague", "token of another team"
MEBIBYTE = 1 << 20
STORE = f"/api/cache/keyvalue?{QUERY}"


@pytest.fixture
def team(tuist: HeldTuist) -> HeldTuist:
    """A Tuist server that knows two tokens of one project, and one of another."""
    tuist.tokens |= {"token": ["acme/app"], COLLEAGUE: ["acme/app"], STRANGER: ["other/app"]}
    return tuist


@pytest.fixture
def service(tmp_path: Path, team: HeldTuist) -> Iterator[Service]:
    """In which nobody's patience ends by itself: who waits for another one waits for ever."""
    environment = constants({"transfer.upload.PATIENCE": 3600}) | {"BODY_TIMEOUT": "600"}
    service = Service(tmp_path / "cas", team.url, environment, CHANGED_COMMAND)
    with running_service(service):
        yield service


@pytest.fixture(params=["direct", "wheel", "debian"])
def front(request: pytest.FixtureRequest) -> str:
    """Whom clients talk to: the service itself, or one of the two kinds of nginx."""
    return str(request.param)


@contextmanager
def at(front: str, service: Service) -> Iterator[str]:
    """The URL for clients of `service` with that front."""
    if front == "direct":
        yield service.url
        return
    with nginx_before(f"127.0.0.1:{service.port}", service.storage, front) as nginx:
        yield nginx.url


def connected_to(url: str) -> socket.socket:
    """A connection to what is at `url`."""
    return socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=60)


def sender(url: str, token: str) -> httpx.Client:
    """A client with that token, for the project that it sees."""
    account = "other" if token == STRANGER else "acme"
    return client_of(
        url,
        headers={"Authorization": f"Bearer {token}"},
        params={"account_handle": account, "project_handle": "app"},
    )


def put(client: httpx.Client) -> int:
    """Store a small entry."""
    entry = {"cas_id": uuid4().hex, "entries": [{"value": "x" * 5000}]}
    return client.put("/api/cache/keyvalue", json=entry).status_code


def upload(client: httpx.Client, size: int = 10_000) -> int:
    """Store a small artifact."""
    return client.post(f"/api/cache/cas/{uuid4().hex}", content=bytes(size)).status_code


def entry_head(size: int) -> bytes:
    """The head of a request that announces an entry of `size` bytes."""
    return (
        f"PUT {STORE} HTTP/1.1\r\nHost: cache\r\nAuthorization: Bearer token\r\n"
        f"Content-Length: {size}\r\n\r\n"
    ).encode()


# Memory.


def test_entries_that_are_never_complete_keep_no_others_out(service: Service) -> None:
    """Eight of 1 MiB, less 40 bytes: they used to fill the memory for entries."""
    with connected(service, 8) as slow:
        for connection in slow:
            connection.sendall(entry_head(MEBIBYTE) + b'{"cas_id": "' + bytes(MEBIBYTE - 52))
        service.let_it_arrive()
        for token in STRANGER, COLLEAGUE:
            with sender(service.url, token) as client:
                assert [put(client) for _ in range(20)] == [204] * 20, token
        with sender(service.url, "token") as client:
            for _ in range(20):  # its own share: what does not move makes way, in time
                eventually(lambda: put(client) == 204)


def test_uploads_that_are_only_announced_delay_no_others(service: Service) -> None:
    """64 of 256 KiB, of which 100 bytes come: they used to take all memory for small uploads."""
    with connected(service, 64) as slow:
        for connection in slow:
            connection.sendall(upload_head(256 * 1024) + bytes(100))
        service.let_it_arrive()
        for token in STRANGER, COLLEAGUE, "token":
            with sender(service.url, token) as client:
                assert [upload(client) for _ in range(20)] == [204] * 20, token
            assert temporary_files(service) == 0, token
        for connection in slow:  # nobody has lost anything but what he had no use for
            connection.sendall(bytes(256 * 1024 - 100))
        assert {status_of(read_response(connection)) for connection in slow} == {204}


def temporary_files(service: Service) -> float:
    """Uploads that wait in a temporary file."""
    return Scrape(service.up("/metrics").text).value("cache_actors_temporary_files")


def test_entry_that_is_refused_for_load_hears_429_and_when_to_come_back(service: Service) -> None:
    """One that moves makes no way for others of the same sender, beyond its share."""
    with connected(service, 8) as connections:
        answers: list[bytes] = []
        for connection in connections:
            connection.sendall(entry_head(MEBIBYTE) + b"{" + bytes(MEBIBYTE - 41))
        service.let_it_arrive()
        for connection in connections:
            with suppress(TimeoutError):
                connection.settimeout(0.2)
                answers.append(read_response(connection))
        assert {status_of(answer) for answer in answers} == {429}
        for answer in answers:
            assert b'{"message":"Too many requests at once"}' in answer
            (line,) = [x for x in answer.split(b"\r\n") if x.lower().startswith(b"retry-after:")]
            assert 1 <= int(line.split(b":")[1]) <= 5


# Bodies.


@pytest.mark.parametrize(
    ("front", "what"),
    [("direct", "artifact"), ("wheel", "entry"), ("debian", "artifact")],
    indirect=["front"],
)
def test_body_that_comes_byte_by_byte_is_refused(
    tmp_path: Path, team: HeldTuist, front: str, what: str
) -> None:
    """Each byte comes in time, and most of the body has come at once."""
    service = Service(tmp_path / "cas", team.url, {"BODY_TIMEOUT": "1"})
    with running_service(service), at(front, service) as url, connected_to(url) as slow:
        head = upload_head(MEBIBYTE) if what == "artifact" else entry_head(MEBIBYTE)
        slow.sendall(head + bytes(MEBIBYTE - 10_000))
        assert drip(slow) == 408


def drip(connection: socket.socket) -> int:
    """Send a byte every now and then until there is an answer, and return its status."""
    connection.settimeout(0.05)
    while True:
        with suppress(TimeoutError):
            return status_of(read_response(connection))
        with suppress(OSError):
            connection.sendall(b"x")


# Room.


def test_uploads_that_are_announced_and_stall_take_no_room(tmp_path: Path, team: HeldTuist) -> None:
    """Eight of 25 MiB on a disk of 256: their room used to be set aside, and so things evicted."""
    size = 25 * MEBIBYTE
    with tmpfs(tmp_path / "disk", "size=256m") as disk:
        service = Service(disk, team.url, {"BODY_TIMEOUT": "600"})
        with running_service(service), connected(service, 8) as slow:
            for connection in slow:
                connection.sendall(upload_head(size) + bytes(300_000))
            eventually(lambda: temporary_files(service) == len(slow))
            room = os.statvfs(disk)
            assert (room.f_blocks - room.f_bfree) * room.f_frsize < size
            with sender(service.url, COLLEAGUE) as client:
                assert [upload(client, size) for _ in range(3)] == [204] * 3
            slow[0].sendall(bytes(size - 300_000))  # room is found for it as it comes
            assert status_of(read_response(slow[0])) == 204


# Questions to Tuist.


def test_flood_of_new_tokens_is_refused_at_once_and_other_projects_are_not(
    tmp_path: Path, team: HeldTuist, front: str
) -> None:
    """Tuist answers nothing meanwhile: who is refused is refused without its answer."""
    patient: dict[str, float] = {
        "actors.auth_cache.MAX_WAIT_SECONDS": 3600,
        "actors.auth_cache.MAX_QUESTIONS": 40,
    }
    service = Service(tmp_path / "cas", team.url, constants(patient), CHANGED_COMMAND)
    with running_service(service), at(front, service) as url, ThreadPoolExecutor(31) as threads:

        def read(token: str, account: str = "acme") -> httpx.Response:
            with sender(url, token) as client:
                query = {"account_handle": account, "project_handle": "app"}
                return client.get(f"/api/cache/cas/{uuid4().hex}", params=query)

        with team.held():
            flood = [threads.submit(read, f"new {number}") for number in range(30)]
            eventually(lambda: sum(each.done() for each in flood) == 10)
            other = threads.submit(read, STRANGER, "other")
            eventually(lambda: asked(service) == 21)
            assert not other.done()
        answers = [each.result() for each in flood]
        assert other.result().status_code == 404  # it may see the project
    refused = [answer for answer in answers if answer.status_code != 401]
    assert len(refused) == 10
    for answer in refused:
        assert answer.status_code == 429
        assert answer.json() == {"message": "Too many tokens are being asked about"}
        assert 1 <= int(answer.headers["Retry-After"]) <= 5
        assert answer.headers["Cache-Control"] == "no-store"


def asked(service: Service) -> int:
    """Requests for whose decision Tuist is asked, or going to be."""
    (node,) = [node for node in service.nodes() if node["name"] == "auth_cache"]
    scrape = Scrape(service.up("/metrics").text)
    assert node["mailbox_depth"] is not None
    taken = scrape.value("cache_actors_mailbox_wait_seconds_count", child="auth_cache")
    return int(taken - scrape.value("cache_actors_decisions_total"))


# The processes that write.


@pytest.mark.parametrize("what", ["artifact", "entry"])
def test_one_that_is_sent_beside_two_hundred_of_another_project_is_stored_among_the_first(
    tmp_path: Path, team: HeldTuist, what: str
) -> None:
    """All that has come waits for the process that writes; what is stored first is in the log."""
    service = Service(tmp_path / "cas", team.url, {"LOG_LEVEL": "info"})
    with (
        running_service(service),
        connected(service, 200) as connections,
        sender(service.url, STRANGER) as client,
        ThreadPoolExecutor(1) as thread,
    ):
        send = upload if what == "artifact" else put
        assert send(client) == 204  # so that it is known that there are two
        eventually(lambda: len(stores(service, 0)) == 1)
        before, already = len(service.logged("request")), handed_over(service)
        processes = disk_processes(service.pid)
        for pid in processes:
            os.kill(pid, signal.SIGSTOP)
        for connection in connections:
            head = upload_head(5) if what == "artifact" else entry_head(39)
            entry = b'{"cas_id":"%s","entries":[]}' % uuid4().hex[:12].encode()
            connection.sendall(head + (b"bytes" if what == "artifact" else entry.ljust(39)))
        service.let_it_arrive()
        other = thread.submit(send, client)
        eventually(lambda: handed_over(service) >= already + TOGETHER // 2 + 1)  # and the other's
        for pid in processes:
            os.kill(pid, signal.SIGCONT)
        assert other.result() == 204
        assert {status_of(read_response(each)) for each in connections} == {204}
        eventually(lambda: len(stores(service, before)) == 201)
        order = [line["project"] for line in stores(service, before)]
    assert order.index("other/app") < 100


def stores(service: Service, before: int) -> list[dict[str, Any]]:
    """What it has logged of stores since then, in order."""
    return [line for line in service.logged("request")[before:] if line["method"] != "GET"]


def handed_over(service: Service) -> float:
    """Messages that those who write have taken, or that wait for them."""
    writers = ("disk_writer", "kv_store")
    waiting = sum(int(n["mailbox_depth"]) for n in service.nodes() if n["name"] in writers)
    scrape = Scrape(service.up("/metrics").text)
    taken = (scrape.value("cache_actors_mailbox_wait_seconds_count", child=w) for w in writers)
    return waiting + sum(taken)
