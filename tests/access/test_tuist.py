"""What is made of all that a Tuist server, or something in its place, can answer."""

from __future__ import annotations

import gc
import gzip
import json
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from cache_actors.access import tuist as tuist_api
from cache_actors.access.tuist import CONNECTIONS, Access, TuistApi, TuistReply
from cache_actors.cli.dev.tuist import Question, StandInTuist

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

# httpx leaves its generators to the garbage collector when a body is not read to its end.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")

TOKEN = "token-of-a-developer"
AUTHORIZATION = f"Bearer {TOKEN}"
UNREADABLE = "The Tuist server's answer cannot be read"


async def serve(
    nursery: trio.Nursery, handle: Callable[[trio.SocketStream], Awaitable[object]]
) -> str:
    """Have `handle` serve connections on loopback; return the URL."""
    listeners: list[trio.SocketListener] = await nursery.start(
        partial(trio.serve_tcp, handle, 0, host="127.0.0.1")
    )
    return f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"


class CannedServer:
    """Answers each connection with the bytes `response`, whatever it is asked.

    Attributes:
        requests: the heads of the requests so far.
    """

    def __init__(self) -> None:
        self.response = b""
        self.requests: list[bytes] = []
        self.url = ""

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            self.url = await serve(nursery, self._serve)
            task_status.started()

    async def _serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += await stream.receive_some()
            self.requests.append(head)
            await stream.send_all(self.response)

    async def ask(self, response: bytes) -> TuistReply | str:
        """What is made of `response`."""
        self.response = response
        async with TuistApi(self.url) as api:
            return await api.ask(AUTHORIZATION, "id")


@pytest.fixture
async def canned(nursery: trio.Nursery) -> CannedServer:
    server = CannedServer()
    await nursery.start(server.run)
    return server


@pytest.fixture
def tuist() -> Iterator[StandInTuist]:
    """A stand-in Tuist server at which `TOKEN` sees two projects."""
    with StandInTuist({TOKEN: ["Acme/App", "acme/Other-App"], "no-projects": []}) as server:
        yield server


@pytest.fixture
async def api(tuist: StandInTuist) -> AsyncIterator[TuistApi]:
    async with TuistApi(tuist.url) as api:
        yield api


def ok(body: bytes, *headers: bytes) -> bytes:
    """A response with status 200."""
    lines = [b"HTTP/1.1 200 OK", *headers, b"Content-Length: %d" % len(body), b"", body]
    return b"\r\n".join(lines)


def trouble(answer: TuistReply | str) -> str:
    """The sentence that an answer is; it holds no token."""
    assert isinstance(answer, str)
    assert TOKEN not in answer
    assert answer.startswith("The Tuist server")
    return answer


@pytest.fixture(autouse=True, scope="module")
def _collect() -> Iterator[None]:
    """Have it collect them while that is not taken for an error."""
    yield
    gc.collect()


# Answers.


async def test_projects_are_named_in_lower_case(api: TuistApi) -> None:
    projects = frozenset({"acme/app", "acme/other-app"})
    assert await api.ask(AUTHORIZATION, "id") == TuistReply(Access.GRANTED, projects)


async def test_items_are_objects_with_anything_beside_the_name_or_bare_names(
    canned: CannedServer,
) -> None:
    items = [{"id": 1, "full_name": "A/B", "visibility": None, "x": [{}]}, "C/d", {"full_name": ""}]
    answer = await canned.ask(ok(json.dumps({"page": 1, "projects": items}).encode()))
    assert answer == TuistReply(Access.GRANTED, frozenset({"a/b", "c/d", ""}))


async def test_answer_may_be_compressed_though_that_is_not_asked_for(canned: CannedServer) -> None:
    body = gzip.compress(b'{"projects":["a/b"]}')
    answer = await canned.ask(ok(body, b"Content-Encoding: gzip"))
    assert answer == TuistReply(Access.GRANTED, frozenset({"a/b"}))
    assert b"accept-encoding: identity\r\n" in canned.requests[0].lower()


@pytest.mark.parametrize(
    ("status", "access"), [(401, Access.UNAUTHORIZED), (403, Access.FORBIDDEN)]
)
async def test_refusals(tuist: StandInTuist, api: TuistApi, status: int, access: Access) -> None:
    tuist.status = status
    assert await api.ask(AUTHORIZATION, "id") == TuistReply(access)


# Trouble.


@pytest.mark.parametrize("status", [201, 204, 302, 400, 404, 418, 429, 500, 503])
async def test_any_other_status_is_trouble(tuist: StandInTuist, api: TuistApi, status: int) -> None:
    tuist.status = status
    assert trouble(await api.ask(AUTHORIZATION, "id")) == f"The Tuist server answered {status}"


async def test_redirect_is_not_followed_with_the_token(canned: CannedServer) -> None:
    where = canned.url.replace("//", "//user:hush@").encode() + b"/hush?hush#hush"
    redirect = b"HTTP/1.1 301 Moved\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % where
    answer = trouble(await canned.ask(redirect))
    assert answer == "The Tuist server answered 301, a redirect to http://127.0.0.1"
    assert len(canned.requests) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b'{"projects": [',
        b'"\xff"',
        b"null",
        b"[]",
        b"{}",
        b'{"projects": null}',
        b'{"projects": {}}',
        b'{"projects": "acme/app"}',
        b'{"projects": [1]}',
        b'{"projects": [null]}',
        b'{"projects": [["acme/app"]]}',
        b'{"projects": [{}]}',
        b'{"projects": [{"name": "acme/app"}]}',
        b'{"projects": [{"full_name": 1}]}',
        b'{"projects": ["acme/app"]} and more',
        b'{"token": "' + AUTHORIZATION.encode() + b'"}',
        pytest.param(b'{"x":' + b"[" * 100_000, id="deeply nested"),
    ],
)
async def test_unreadable_body_is_trouble(canned: CannedServer, body: bytes) -> None:
    assert trouble(await canned.ask(ok(body))) == UNREADABLE


async def test_body_that_cannot_be_decompressed_is_trouble(canned: CannedServer) -> None:
    assert "DecodingError" in trouble(await canned.ask(ok(b"no gzip", b"Content-Encoding: gzip")))


@pytest.mark.parametrize("framing", ["content-length", "until the end", "gzip"])
async def test_endless_body_is_trouble(
    canned: CannedServer, framing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuist_api, "MAX_BYTES", 1000)
    fits = b'{"projects":[]}'.ljust(1000)
    assert await canned.ask(ok(fits)) == TuistReply(Access.GRANTED)
    responses = {
        "content-length": ok(fits + b" "),
        "until the end": b"HTTP/1.1 200 OK\r\n\r\n" + fits + b" ",
        "gzip": ok(gzip.compress(fits + b" "), b"Content-Encoding: gzip"),
    }
    answer = trouble(await canned.ask(responses[framing]))
    assert answer == "The Tuist server's answer is too long"


@pytest.mark.parametrize(
    "response",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
    ],
)
async def test_what_is_no_response_is_trouble(canned: CannedServer, response: bytes) -> None:
    trouble(await canned.ask(response))


@pytest.mark.parametrize("server", ["127.0.0.1:1", "tuist.invalid"])
async def test_server_that_cannot_be_reached_is_trouble(server: str) -> None:
    async with TuistApi(f"http://{server}") as api:
        answer = trouble(await api.ask(AUTHORIZATION, "id"))
    assert answer.startswith("The Tuist server cannot be reached: ConnectError: ")


@pytest.mark.parametrize("drop", [b"", b"X-Drop: 1\r\n"], ids=["nothing", "drop by drop"])
async def test_answer_that_does_not_come_to_its_end_is_trouble(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, drop: bytes
) -> None:
    async def drip(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\n" if drop else b"")
        while True:  # until the test is over
            await stream.send_all(drop)
            await trio.sleep(0.01)

    async with TuistApi(await serve(nursery, drip)) as api:
        monkeypatch.setattr(tuist_api, "TIMEOUT", 0.1)  # of the question, not of one read
        answer = trouble(await api.ask(AUTHORIZATION, "id"))
    assert answer == "The Tuist server cannot be reached: TooSlowError"
    nursery.cancel_scope.cancel()


async def test_it_works_again_after_any_trouble(
    tuist: StandInTuist, api: TuistApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuist_api, "TIMEOUT", 0.05)
    tuist.delay = 0.2
    for _ in range(2 * CONNECTIONS):
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(api.ask, AUTHORIZATION, "id")
        if len(tuist.questions) > CONNECTIONS:
            break
    tuist.delay = 0
    monkeypatch.setattr(tuist_api, "TIMEOUT", 10.0)
    tuist.stop()
    trouble(await api.ask(AUTHORIZATION, "id"))
    tuist.start()
    assert isinstance(await api.ask(AUTHORIZATION, "id"), TuistReply)


# Questions.


async def test_header_and_request_id_are_forwarded(tuist: StandInTuist, api: TuistApi) -> None:
    await api.ask(AUTHORIZATION, "id-7")
    await api.ask("Basic YTpi", "id-8")
    assert tuist.questions == [Question(AUTHORIZATION, "id-7"), Question("Basic YTpi", "id-8")]


@pytest.mark.parametrize("path", ["", "/"])
async def test_slash_at_the_end_of_the_url_does_not_matter(tuist: StandInTuist, path: str) -> None:
    async with TuistApi(tuist.url + path) as api:
        assert isinstance(await api.ask(AUTHORIZATION, "id"), TuistReply)


async def test_bytes_beyond_ascii_are_forwarded_as_they_came(canned: CannedServer) -> None:
    canned.response = ok(b'{"projects":[]}')
    async with TuistApi(canned.url) as api:
        assert await api.ask("Bearer t\xf6k\xffn", "id") == TuistReply(Access.GRANTED)
    assert b"authorization: bearer t\xf6k\xffn\r\n" in canned.requests[0].lower()


@pytest.mark.parametrize(
    "authorization", ["Bearer a\nX-Evil: 1", "Bearer \x00", "Bearer a\r\n\r\n"]
)
async def test_header_that_cannot_be_sent_is_trouble_and_smuggles_nothing(
    canned: CannedServer, authorization: str
) -> None:
    canned.response = ok(b'{"projects":[]}')
    async with TuistApi(canned.url) as api:
        trouble(await api.ask(authorization, "id"))
    assert canned.requests == []


async def test_nothing_of_one_answer_goes_into_the_next_question(canned: CannedServer) -> None:
    """A session of one token's must not speak for another."""
    canned.response = ok(b'{"projects":[]}', b"Set-Cookie: session=1", b"Connection: close")
    async with TuistApi(canned.url) as api:
        for token in ("one", "another"):
            await api.ask(f"Bearer {token}", "id")
    assert b"cookie" not in canned.requests[1].lower()


async def test_netrc_of_the_environment_is_not_used(
    canned: CannedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password secret")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert isinstance(await canned.ask(ok(b'{"projects":[]}')), TuistReply)
    assert AUTHORIZATION.encode() in canned.requests[0]


async def test_name_that_is_no_handle_opens_no_project(canned: CannedServer) -> None:
    """The Kelvin sign is a `k` in lower case."""
    answer = await canned.ask(ok('{"projects": ["\u212aacme/app", "acme/lib"]}'.encode()))
    assert answer == TuistReply(Access.GRANTED, frozenset({"acme/lib"}))


async def test_host_that_can_be_no_name_is_trouble() -> None:
    async with TuistApi("http://a..b:1/") as api:
        trouble(await api.ask(AUTHORIZATION, "id"))


@pytest.mark.parametrize("odd", ["2", "null", "[]", "{}", '{"id": 2}', '{"full_name": null}'])
async def test_items_that_cannot_be_read_are_left_out_and_told_of(
    canned: CannedServer, odd: str
) -> None:
    body = '\ufeff{"projects": [{"full_name": "Acme/App", "x": NaN}, ' + odd + ', "acme/lib"]}'
    answer = await canned.ask(ok(body.encode()))
    assert answer == TuistReply(Access.GRANTED, frozenset({"acme/app", "acme/lib"}))
    assert isinstance(answer, TuistReply)
    assert answer.oddity == "1 of 3 projects have no full_name"


async def test_connections_are_kept(nursery: trio.Nursery) -> None:
    """A question costs no new connection."""
    connections = 0

    async def answer(stream: trio.SocketStream) -> None:
        nonlocal connections
        connections += 1
        async with stream:
            while await stream.receive_some():
                await stream.send_all(ok(b'{"projects":[]}'))

    async with TuistApi(await serve(nursery, answer)) as api:
        for _ in range(5):
            assert await api.ask(AUTHORIZATION, "id") == TuistReply(Access.GRANTED)
    assert connections == 1
    nursery.cancel_scope.cancel()
