"""The faults of Hypercorn and Quart-Trio that this service works around, seen from outside.

The numbers are those of the list of measured traps. Each test says whether the fault is cured here
or does not apply, and fails when an upgrade or a change brings it back. Not here:

* 3, bodies went into an unbounded queue: see `tests/http/server/test_connection.py`; and that nginx
  keeps none either is seen from early answers.
* 7, `read_timeout` cancels slow handlers: it is not set, and one that takes minutes is in
  `tests/http/server/test_connection.py`.
* 9 and 12, `send_file` made 20 MB/s, or used asyncio. It is not used. How artifacts are read is in
  `tests/transfer/test_artifact_reader.py`, and how fast they are is measured by `make bench`.
* 8, a reader that stalls outlasts the graceful stop: only seen while the service stops.
* 13, more lines in the access log than requests, and 14, the Unix socket's mode: see
  `tests/system/test_process.py`.
"""

import select
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial

import httpx
import pytest

from tests.support.service import Service
from tests.support.tuist import HeldTuist
from tests.support.waiting import eventually

from .examples import (
    FRAMINGS,
    MAX_KEYVALUE,
    MAX_UPLOAD,
    STORE_PATH,
    behind_nginx,
    cas_path,
    every_front,
    expect_error,
    expect_no_artifact,
    expect_stored,
    lines_about,
    new_body,
    new_cas_id,
    questions_about,
    temporary_bytes,
    uploaded,
)
from .facts import PROJECT
from .raw import AUTHORIZATION, HANDLES, RawConnection, chunk, chunked, pieces_of

pytestmark = every_front

CHUNKED = "Transfer-Encoding: chunked"
WEBSOCKET = [
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
]
H2C = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"]

framings = pytest.mark.parametrize("framing", FRAMINGS)


def on_the_wire(body: bytes, framing: str) -> tuple[str, bytes]:
    """The header that announces `body`, and what is sent of it."""
    if framing == "chunked":
        return CHUNKED, chunked(*pieces_of(body))
    return f"Content-Length: {len(body)}", body


# 1: what a request can do to others.


@pytest.mark.parametrize(
    ("upgrade", "trailing", "authorized"),
    [
        *((WEBSOCKET, trailing, True) for trailing in (b"", b"x", b"GARBAGE\r\n\r\n")),
        (WEBSOCKET, b"\x81\x05hello", False),
        (H2C, b"", False),
        (H2C, b"x", True),
    ],
    ids=str,
)
def test_upgrade_is_ignored(
    connect: Callable[[], RawConnection],
    client: httpx.Client,
    upgrade: list[str],
    trailing: bytes,
    authorized: bool,
) -> None:
    """Trap 1: an upgrade with a trailing byte ended the server. Cured: it is a plain request."""
    other, cas_id = connect(), new_cas_id()
    other.begin(f"POST {cas_path(cas_id)}?{HANDLES}", AUTHORIZATION, "Content-Length: 2")
    other.send(b"a")
    target = f"GET {cas_path(uploaded(client, b'stored'))}?{HANDLES}"
    attack = connect()
    headers = [AUTHORIZATION] if authorized else []
    answer = attack.ask(target, *headers, *upgrade, body=trailing)
    if authorized:
        assert (answer.status_code, answer.content) == (200, b"stored")
    else:
        expect_error(answer, 401)
    assert "Upgrade" not in answer.headers
    attack.socket.close()
    other.send(b"b")  # a request in flight has survived
    assert other.response().status_code == 204
    expect_stored(client, cas_id, b"ab")


def test_http_2_without_asking_is_turned_away(
    raw: RawConnection, stranger: httpx.Client, front: str
) -> None:
    """Trap 1, for HTTP/2 with prior knowledge. Cured: not spoken, so answered as an error.

    An nginx that serves clients of gRPC speaks it, and asks the service by HTTP/1.1.
    """
    settings = b"\0\0\0\x04\0\0\0\0\0"
    raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings)
    if front == "wheel":
        frame = raw.socket.recv(9, socket.MSG_WAITALL)
        assert frame[3:5] == settings[3:5]
    else:
        assert raw.response().status_code >= 400
        assert raw.is_over()
    assert stranger.get("/up").status_code == 200


@pytest.mark.parametrize("upgrade", [WEBSOCKET, H2C], ids=["websocket", "h2c"])
def test_connection_goes_on_after_an_upgrade_that_is_ignored(
    raw: RawConnection, client: httpx.Client, upgrade: list[str]
) -> None:
    """Trap 1. Cured, for other methods as well: the connection remains one of HTTP/1.1."""
    for body in (b"abc", b""):
        cas_id, length = new_cas_id(), f"Content-Length: {len(body)}"
        target = f"POST {cas_path(cas_id)}?{HANDLES}"
        answer = raw.ask(target, AUTHORIZATION, length, *upgrade, body=body)
        assert answer.status_code == (204 if body else 400)
        expect_stored(client, cas_id, body) if body else expect_no_artifact(client, cas_id)
        assert raw.ask("GET /up", *upgrade).status_code == 200


# 2: the ends of connections.


@pytest.mark.parametrize(
    ("request_", "body", "status"),
    [
        ("GET /up", b"", 200),
        ("GET /none", b"", 404),
        ("DELETE /up", b"", 405),
        (f"GET {cas_path('A')}?{HANDLES}", b"", 404),
        (f"HEAD {cas_path('A')}?{HANDLES}", b"", 404),
        (f"POST {cas_path('TRAP2')}?{HANDLES}", b"abc", 204),
        (f"POST {cas_path('TRAP2-EMPTY')}?{HANDLES}", b"", 400),
        (f"PUT {STORE_PATH}?{HANDLES}", b"{", 400),
        ("PUT /up", b"x" * 100_000, 405),
    ],
    ids=lambda value: str(value)[:30],
)
def test_connection_closes_when_it_should(
    connect: Callable[[], RawConnection], request_: str, body: bytes, status: int
) -> None:
    """Trap 2: `Connection: close` was ignored after the first response. Cured."""
    length = f"Content-Length: {len(body)}"
    for earlier in (0, 1, 3):
        raw = connect()
        for _ in range(earlier):
            answer = raw.ask(request_, AUTHORIZATION, length, body=body)
            assert answer.status_code == status
            assert answer.headers.get("Connection") != "close"
        answer = raw.ask(request_, AUTHORIZATION, length, "Connection: close", body=body)
        assert answer.status_code == status
        assert answer.headers["Connection"] == "close"
        assert raw.is_over()


def test_connections_that_do_nothing_hinder_nobody(
    connect: Callable[[], RawConnection], client: httpx.Client
) -> None:
    """Trap 2: idle connections stayed for ever. Cured; and until they close, they do no harm."""
    for number in range(60):
        connect().send(b"GET /up HTTP/1.1\r\nHost: lo"[: number // 2])
    idle = [connect() for _ in range(40)]
    for raw in idle * 2:
        assert raw.ask("GET /up").status_code == 200
        uploaded(client, new_body())


# 4 and 5: bodies on their way in.


def test_endless_body_is_cut_off(raw: RawConnection, client: httpx.Client, front: str) -> None:
    """Trap 4. Cured: a client that goes on after the answer is not listened to for ever.

    nginx answers as early, then drops what comes for 30 s (`lingering_time`), however much it is,
    before it closes the connection: not waited for here.
    """
    cas_id, piece = new_cas_id(), chunk(new_body(1_000_000))
    raw.begin(f"POST {cas_path(cas_id)}?{HANDLES}", AUTHORIZATION, CHUNKED)
    with suppress(ConnectionResetError, BrokenPipeError):
        for _ in range(200):
            raw.send(piece)
            if behind_nginx(front) and has_been_answered(raw):
                answer = raw.response()
                expect_error(answer, 413)
                assert answer.headers["Connection"] == "close"
                break
        else:
            raise AssertionError("200 MB have been taken")
    expect_no_artifact(client, cas_id)


def has_been_answered(raw: RawConnection) -> bool:
    """Whether there is something to read."""
    return bool(select.select([raw.socket], [], [], 0)[0])


# 5 and 6: what takes longer than a body may. Asked of the hasty service, where half a second
# without a byte is too long. That so much time has passed is seen from a body that is refused.


@pytest.fixture
def hasty_connect(hasty_url: str) -> Iterator[Callable[..., RawConnection]]:
    """As `connect`, but to the hasty service."""
    with ExitStack() as connections:
        yield lambda **how: connections.enter_context(RawConnection(hasty_url, **how))


def wait_until_a_body_is_late(hasty_connect: Callable[[], RawConnection]) -> None:
    """Return once one that has only just stalled is refused for it."""
    raw = hasty_connect()
    raw.begin(f"POST {cas_path(new_cas_id())}?{HANDLES}", AUTHORIZATION, "Content-Length: 9")
    expect_error(raw.response(), 408)


def test_body_that_stalls_is_refused(
    hasty_connect: Callable[[], RawConnection], hasty_client: httpx.Client, hasty: Service
) -> None:
    """Trap 5: the time-out did not hold for a body in pieces. Cured: it holds for each piece."""
    cas_id = new_cas_id()
    stalled = []
    for method, path, size in (
        ("POST", cas_path(cas_id), MAX_UPLOAD),
        ("PUT", STORE_PATH, MAX_KEYVALUE),
    ):
        length = f"Content-Length: {size}"
        for header, first in (
            (length, b""),
            (length, b"{"),
            (length, new_body(size // 2)),
            (CHUNKED, b""),
            (CHUNKED, chunk(b"{")),
        ):
            raw = hasty_connect()
            raw.begin(f"{method} {path}?{HANDLES}", AUTHORIZATION, header)
            raw.send(first)
            stalled.append(raw)
    for raw in stalled:
        expect_error(raw.response(), 408)
    expect_no_artifact(hasty_client, cas_id)
    eventually(lambda: temporary_bytes(hasty) == 0)


def test_slow_reader_gets_all_of_a_large_download(
    hasty_connect: Callable[..., RawConnection], hasty_client: httpx.Client
) -> None:
    """Trap 6: downloads of over 60 s were cut. Cured; no test is that long, though: this one is
    longer than the time-out of uploads, and most of the artifact waits for the client."""
    body = new_body(MAX_UPLOAD)
    raw = hasty_connect(receive_buffer=65536)
    raw.begin(f"GET {cas_path(uploaded(hasty_client, body))}?{HANDLES}", AUTHORIZATION)
    wait_until_a_body_is_late(hasty_connect)
    assert raw.response().content == body
    assert raw.ask("GET /up").status_code == 200


def test_slow_readers_and_those_who_leave_hinder_nobody(
    connect: Callable[..., RawConnection], client: httpx.Client
) -> None:
    """Trap 6. Cured: whoever does not read holds up no one else; who ends a download is normal."""
    body = new_body(MAX_UPLOAD)
    cas_id = uploaded(client, body)
    slow = [connect(receive_buffer=4096) for _ in range(20)]
    for raw in slow:
        raw.begin(f"GET {cas_path(cas_id)}?{HANDLES}", AUTHORIZATION)
        assert raw.socket.recv(1) == b"H"
    for _ in range(2):
        expect_stored(client, cas_id, body)
        uploaded(client, new_body(300_000))
        for raw in slow[:5]:
            raw.socket.close()


# 10 and 11: answers before the body has come.

EXPECT = "Expect: 100-continue"


@framings
def test_client_that_waits_for_100_is_told_to_go_on(
    raw: RawConnection, client: httpx.Client, framing: str
) -> None:
    """Trap 10: 100 is sent before the handler runs. Cured: it is sent when the body is wanted."""
    cas_id, body = new_cas_id(), new_body(300_000)
    header, data = on_the_wire(body, framing)
    raw.begin(f"POST {cas_path(cas_id)}?{HANDLES}", AUTHORIZATION, header, EXPECT)
    assert raw.response().status_code == 100
    raw.send(data)
    assert raw.response().status_code == 204
    expect_stored(client, cas_id, body)


EARLY = {
    "no token": (cas_path("A"), [], 401),
    "no token, key-value": (STORE_PATH, [], 401),
    "unknown path": ("/none", [AUTHORIZATION], 404),
    "bad id": (cas_path("a.b"), [AUTHORIZATION], 400),
    "too large": (cas_path("A"), [AUTHORIZATION], 413),
    "too large, key-value": (STORE_PATH, [AUTHORIZATION], 413),
}
early_answers = pytest.mark.parametrize(("path", "headers", "status"), EARLY.values(), ids=EARLY)


@early_answers
@framings
def test_early_answer_reaches_a_client_that_is_still_sending(
    raw: RawConnection, front: str, path: str, headers: list[str], status: int, framing: str
) -> None:
    """Trap 11: with unread chunks `send` never returned. Cured: what is left is dropped.

    This client reads nothing before it has sent all, as many do. Behind nginx, what is refused for
    another reason is of a size that nginx lets through.
    """
    method = "PUT" if path == STORE_PATH else "POST"
    fits = behind_nginx(front) and status != 413
    header, data = on_the_wire(new_body(MAX_UPLOAD if fits else MAX_UPLOAD + 1), framing)
    raw.begin(f"{method} {path}?{HANDLES}", *headers, header)
    raw.send(data)
    answer = raw.response()
    expect_error(answer, status)
    if behind_nginx(front):
        # It may say keep-alive and close nevertheless, if the answer came before the whole body.
        with suppress(ConnectionError):
            assert raw.ask("GET /up").status_code == 200
    elif answer.headers.get("Connection") != "close":
        assert raw.ask("GET /up").status_code == 200


@pytest.mark.parametrize(
    ("path", "headers", "status", "size"),
    [
        pytest.param(*case, size, id=f"{name}, {size} bytes")
        for name, case in EARLY.items()
        for size in ([MAX_UPLOAD + 1] if name == "too large" else [MAX_UPLOAD, MAX_UPLOAD + 1])
    ],
)
@pytest.mark.parametrize("waits", [False, True], ids=["sends", "waits for 100"])
def test_early_answer_comes_before_the_body(
    raw: RawConnection,
    front: str,
    path: str,
    headers: list[str],
    status: int,
    size: int,
    waits: bool,
) -> None:
    """Traps 10 and 11. Cured: a client that looks for an answer as it sends sees it at once, and
    one that waits for a 100 sends no body for its refusal. nginx may say 100 first."""
    method = "PUT" if path == STORE_PATH else "POST"
    if size > MAX_UPLOAD and behind_nginx(front):
        status = 413  # announced as too large: nginx looks at nothing else
    expect = [EXPECT] if waits else []
    raw.begin(f"{method} {path}?{HANDLES}", *headers, f"Content-Length: {size}", *expect)
    raw.send(b"" if waits else b"the first bytes")
    answer = raw.response()
    if waits and behind_nginx(front) and answer.status_code == 100:
        answer = raw.response()
    expect_error(answer, status)
    if waits and not behind_nginx(front):
        assert answer.headers["Connection"] == "close"


# 16: clients that leave.


def test_client_that_leaves_before_its_answer(
    connect: Callable[[], RawConnection],
    client: httpx.Client,
    changeable_tuist: HeldTuist,
    new_token: Callable[..., str],
    answering: Service,
) -> None:
    """Trap 16. Cured: nobody is there for the answer, which is no error."""
    tokens = {method: new_token(PROJECT) for method in ("GET", "HEAD", "POST")}
    request_ids = [new_cas_id() for _ in tokens]
    with changeable_tuist.held():
        for (method, token), request_id in zip(tokens.items(), request_ids, strict=True):
            raw = connect()
            raw.begin(
                f"{method} {cas_path('A')}?{HANDLES}",
                f"Authorization: Bearer {token}",
                f"X-Request-ID: {request_id}",
                "Content-Length: 0",
            )
            eventually(partial(questions_about, changeable_tuist, token))
            raw.socket.close()
    for request_id in request_ids:
        assert {line["level"] for line in lines_about(answering, request_id, 1)} == {"info"}
    assert client.get("/up").status_code == 200
