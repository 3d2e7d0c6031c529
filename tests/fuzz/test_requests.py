"""Requests made at random: each answer is one of the contract's, and the service lives on."""

import json
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_actors.cli.dev.tuist import StandInTuist
from tests.support.nginx import nginx_before, shared_storage
from tests.support.service import Service, nodes_of, running_service
from tests.support.waiting import eventually

STATUSES = {200, 204, 206, 304, 400, 401, 402, 403, 404, 405, 408, 409, 412, 413, 414, 416, 422}
STATUSES |= {429, 431, 501, 503, 505, 507}

HANDLES = b"account_handle=acme&project_handle=app"
METHODS = st.sampled_from([b"GET", b"HEAD", b"POST", b"PUT", b"DELETE"]) | st.binary(max_size=9)
PATHS = st.sampled_from([b"/up", b"/api/cache/cas/A", b"/api/cache/keyvalue", b"/"])
QUERIES = st.sampled_from([HANDLES, HANDLES + b"&" + HANDLES]) | st.binary(max_size=60)
HEADERS = st.sampled_from(
    [
        b"Host: cache",
        b"Authorization: Bearer token",
        b"Content-Length: 3",
        b"Transfer-Encoding: chunked",
        b"Range: bytes=5-2",
        b"Expect: 100-continue",
    ]
) | st.binary(max_size=40)
REQUESTS = st.builds(
    lambda method, path, query, headers, body: b"\r\n".join(
        [b"%b %b?%b HTTP/1.1" % (method, path, query), *headers, b"", body]
    ),
    METHODS,
    PATHS | st.binary(max_size=40),
    QUERIES,
    st.lists(HEADERS, max_size=8),
    st.binary(max_size=60),
) | st.binary(min_size=1, max_size=200)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with (
        StandInTuist({"token": ["acme/app"]}) as tuist,
        shared_storage() as storage,
        running_service(Service(storage, tuist.url)) as service,
    ):
        yield service


@pytest.fixture(scope="module", params=["direct", "wheel", "debian"])
def front(request: pytest.FixtureRequest, service: Service) -> Iterator[int]:
    """The port that clients connect to."""
    if request.param == "direct":
        yield service.port
        return
    upstream = f"127.0.0.1:{service.port}"
    with nginx_before(upstream, service.storage, request.param) as nginx:
        yield nginx.port


def responses_to(port: int, sent: bytes) -> bytes:
    """All that is answered until the connection ends, of which nothing more is sent."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), 60) as connection:
        with suppress(ConnectionError):
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            while piece := connection.recv(65536):
                received += piece
    return received


def expect_contract(sent: bytes, received: bytes) -> None:
    """The first answer, if there is one, has a status of the contract and an error in JSON."""
    if not received.startswith(b"HTTP/1."):
        return  # none, or one to HTTP/0.9, which nginx takes
    head, _, body = received.partition(b"\r\n\r\n")
    status = int(head.split(b" ")[1])
    if status == 100:
        expect_contract(sent, body)
        return
    assert status in STATUSES, received
    if status >= 400 and not sent.startswith(b"HEAD "):  # what follows is the next answer
        lines = head.lower().split(b"\r\n")
        assert b"content-type: application/json" in lines, received
        length = next(int(x[15:]) for x in lines if x.startswith(b"content-length:"))
        assert body[:length] == b"" or list(json.loads(body[:length])) == ["message"], received


@given(sent=REQUESTS)
def test_any_bytes_are_answered_as_the_contract_says(
    service: Service, front: int, sent: bytes
) -> None:
    expect_contract(sent, responses_to(front, sent))


def test_service_is_unharmed_by_what_came_before(service: Service, front: int) -> None:
    answer = service.up()
    assert answer.status_code == 200
    assert [node for node in nodes_of(answer.json()["tree"]) if node["restarts"]] == []
    assert "Traceback" not in service.log.read_text()
    assert service.is_running()
    eventually(lambda: not [path for path in service.storage.rglob(".tmp/**/*") if path.is_file()])
