"""What is made of all that a Tuist server can answer, and how it is reached.

Something else may answer in its place, and proxies, a private CA or connections that end may be
on the way to it.
"""

import gc
import gzip
import json
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from cache_actors.access.grants import Access, Action, TuistReply
from cache_actors.access.tuist import (
    ACCESS,
    CLOCK_IS_OFF_SECONDS,
    CONNECTIONS,
    INTROSPECTION,
    PROJECTS,
    SKIP_PATH_SECONDS,
    Credential,
    TuistApi,
)
from cache_actors.cli.dev.tuist import Question, StandInTuist
from tests.support.programs import find_program

from .tokens import SECRET, cache_token, signed

# httpx leaves its generators to the garbage collector when a body is not read to its end.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")

TOKEN = "token-of-a-developer"
AUTHORIZATION = f"Bearer {TOKEN}"
UNREADABLE = "The Tuist server's answer cannot be read"
NO_PROJECTS = b'{"projects":[]}'


def ok(body: bytes, *headers: bytes) -> bytes:
    """A response with status 200."""
    lines = [b"HTTP/1.1 200 OK", *headers, b"Content-Length: %d" % len(body), b"", body]
    return b"\r\n".join(lines)


class Server:
    """Answers with the bytes `response` on loopback, whatever it is asked, and closes connections.

    Attributes:
        answers: how many questions of a connection it answers.
        reads_on: whether it waits for one more before it closes.
        requests: the requests so far.
        connections: how many there were.
    """

    def __init__(self) -> None:
        self.response = ok(NO_PROJECTS)
        self.answers = 1
        self.reads_on = False
        self.requests: list[bytes] = []
        self.connections = 0
        self.address = ""

    async def run(
        self,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        *,
        task_status: trio.TaskStatus["Server"],
    ) -> None:
        async with trio.open_nursery() as nursery:
            self.address = await listen(nursery, partial(self._serve, tls), host)
            task_status.started(self)

    async def _serve(self, tls: ssl.SSLContext | None, plain: trio.SocketStream) -> None:
        self.connections += 1
        stream: trio.abc.Stream = plain
        if tls is not None:
            stream = trio.SSLStream(plain, tls, server_side=True)
        try:
            for _ in range(self.answers):
                if request := bytes(await stream.receive_some()):
                    if request.startswith(b"POST") and not request.endswith(b"}"):
                        request += await stream.receive_some()  # its body is JSON, and short
                    self.requests.append(request)
                    await stream.send_all(self.response)
            if self.reads_on:
                await stream.receive_some()
        except trio.BrokenResourceError:
            pass  # a client that does not trust the certificate, or has enough
        finally:
            await trio.aclose_forcefully(stream)

    async def ask(
        self, response: bytes | None = None, authorization: str = AUTHORIZATION
    ) -> TuistReply | str:
        """What is made of `response`."""
        self.response = self.response if response is None else response
        return await ask(f"http://{self.address}", authorization)


async def listen(
    nursery: trio.Nursery,
    handle: Callable[[trio.SocketStream], Awaitable[object]],
    host: str = "127.0.0.1",
) -> str:
    """Have `handle` serve connections; return the address and the port."""
    listeners: list[trio.SocketListener] = await nursery.start(
        partial(trio.serve_tcp, handle, 0, host=host)
    )
    return f"{host}:{listeners[0].socket.getsockname()[1]}"


async def ask(url: str, authorization: str = AUTHORIZATION) -> TuistReply | str:
    async with TuistApi(url) as api:
        return await api.ask(authorization, "id")


@pytest.fixture
async def server(nursery: trio.Nursery) -> Server:
    server: Server = await nursery.start(Server().run)
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


@pytest.mark.parametrize(
    ("items", "names"),
    [
        ('{"id": 1, "full_name": "A/B", "x": [{}, NaN]}, "C/d", {"full_name": ""}', "a/b c/d"),
        ('"\u212aacme/app", "acme/lib"', "acme/lib"),  # the Kelvin sign is a `k` in lower case
    ],
)
async def test_items_are_objects_with_anything_beside_the_name_or_bare_names(
    server: Server, items: str, names: str
) -> None:
    answer = await server.ask(ok(f'\ufeff{{"page": 1, "projects": [{items}]}}'.encode()))
    assert answer == TuistReply(Access.GRANTED, frozenset(names.split(" ")))


@pytest.mark.parametrize("odd", ["2", "null", "[]", "{}", '{"id": 2}', '{"full_name": null}'])
async def test_items_that_cannot_be_read_are_left_out_and_told_of(server: Server, odd: str) -> None:
    answer = await server.ask(ok(f'{{"projects": ["Acme/App", {odd}, "acme/lib"]}}'.encode()))
    assert answer == TuistReply(Access.GRANTED, frozenset({"acme/app", "acme/lib"}))
    assert isinstance(answer, TuistReply)
    assert answer.oddity == "1 of 3 projects have no full_name"


async def test_answer_may_be_compressed_though_that_is_not_asked_for(server: Server) -> None:
    body = gzip.compress(b'{"projects":["a/b"]}')
    answer = await server.ask(ok(body, b"Content-Encoding: gzip"))
    assert answer == TuistReply(Access.GRANTED, frozenset({"a/b"}))
    assert b"accept-encoding: identity\r\n" in server.requests[0].lower()


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


async def test_redirect_is_not_followed_with_the_token(server: Server) -> None:
    where = f"http://user:hush@{server.address}/hush?hush#hush".encode()
    redirect = b"HTTP/1.1 301 Moved\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % where
    answer = trouble(await server.ask(redirect))
    assert answer == "The Tuist server answered 301, a redirect to http://127.0.0.1"
    assert len(server.requests) == 1


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
        b'{"projects": [["acme/app"]]}',
        b'{"projects": [{"name": "acme/app"}]}',
        b'{"projects": [{"full_name": 1}]}',
        b'{"projects": ["acme/app"]} and more',
        b'{"token": "' + AUTHORIZATION.encode() + b'"}',
        pytest.param(b'{"x":' + b"[" * 100_000, id="deeply nested"),
    ],
)
async def test_unreadable_body_is_trouble(server: Server, body: bytes) -> None:
    assert trouble(await server.ask(ok(body))) == UNREADABLE


@pytest.mark.parametrize("framing", ["content-length", "until the end", "gzip"])
async def test_endless_body_is_trouble(
    server: Server, framing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache_actors.access.tuist.MAX_BYTES", 1000)
    fits = NO_PROJECTS.ljust(1000)
    assert await server.ask(ok(fits)) == TuistReply(Access.GRANTED)
    responses = {
        "content-length": ok(fits + b" "),
        "until the end": b"HTTP/1.1 200 OK\r\n\r\n" + fits + b" ",
        "gzip": ok(gzip.compress(fits + b" "), b"Content-Encoding: gzip"),
    }
    answer = trouble(await server.ask(responses[framing]))
    assert answer == "The Tuist server's answer is too long"


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (b"", "RemoteProtocolError"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "RemoteProtocolError"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}", "RemoteProtocolError"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "RemoteProtocolError"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", "RemoteProtocolError"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", "RemoteProtocolError"),
        (ok(b"no gzip", b"Content-Encoding: gzip"), "DecodingError"),
    ],
)
async def test_what_is_no_response_is_trouble(server: Server, response: bytes, reason: str) -> None:
    answer = trouble(await server.ask(response))
    assert answer == f"The Tuist server cannot be reached: {reason}"


@pytest.mark.parametrize(
    ("server", "reason"),
    [
        ("127.0.0.1:1", "ConnectError: "),
        ("tuist.invalid", "ConnectError: "),
        ("a..b:1/", "UnicodeError"),
    ],
)
async def test_server_that_cannot_be_reached_is_trouble(server: str, reason: str) -> None:
    answer = trouble(await ask(f"http://{server}"))
    assert answer.startswith(f"The Tuist server cannot be reached: {reason}")


@pytest.mark.parametrize("drop", [b"", b"X-Drop: 1\r\n"], ids=["nothing", "drop by drop"])
async def test_answer_that_does_not_come_to_its_end_is_trouble(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, drop: bytes
) -> None:
    async def drip(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\n" if drop else b"")
        while True:  # until the test is over
            await stream.send_all(drop)
            await trio.sleep(0.01)

    url = f"http://{await listen(nursery, drip)}"
    async with TuistApi(url) as api:
        # Limits the whole question, not a single read.
        monkeypatch.setattr("cache_actors.access.tuist.TIMEOUT", 0.1)
        answer = trouble(await api.ask(AUTHORIZATION, "id"))
    assert answer == "The Tuist server cannot be reached: TooSlowError"
    nursery.cancel_scope.cancel()


async def test_it_works_again_after_any_trouble(
    tuist: StandInTuist, api: TuistApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache_actors.access.tuist.TIMEOUT", 0.05)
    tuist.delay = 0.2
    for _ in range(2 * CONNECTIONS):
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(api.ask, AUTHORIZATION, "id")
        if len(tuist.questions) > CONNECTIONS:
            break
    tuist.delay = 0
    monkeypatch.setattr("cache_actors.access.tuist.TIMEOUT", 10.0)
    tuist.stop()
    trouble(await api.ask(AUTHORIZATION, "id"))
    tuist.start()
    assert isinstance(await api.ask(AUTHORIZATION, "id"), TuistReply)


# Questions.


async def test_header_and_request_id_are_forwarded(tuist: StandInTuist, api: TuistApi) -> None:
    await api.ask(AUTHORIZATION, "id-7")
    await api.ask("Basic YTpi", "id-8")
    assert tuist.questions == [Question(AUTHORIZATION, "id-7"), Question("Basic YTpi", "id-8")]


async def test_slash_at_the_end_of_the_url_does_not_matter(tuist: StandInTuist) -> None:
    assert isinstance(await ask(tuist.url + "/"), TuistReply)


async def test_bytes_beyond_ascii_are_forwarded_as_they_came(server: Server) -> None:
    assert await server.ask(authorization="Bearer t\xf6k\xffn") == TuistReply(Access.GRANTED)
    assert b"authorization: bearer t\xf6k\xffn\r\n" in server.requests[0].lower()


@pytest.mark.parametrize(
    "authorization", ["Bearer a\nX-Evil: 1", "Bearer \x00", "Bearer a\r\n\r\n"]
)
async def test_header_that_cannot_be_sent_is_trouble_and_smuggles_nothing(
    server: Server, authorization: str
) -> None:
    trouble(await server.ask(authorization=authorization))
    assert server.requests == []


async def test_nothing_of_one_answer_goes_into_the_next_question(server: Server) -> None:
    """A session of one token's must not speak for another."""
    server.response = ok(NO_PROJECTS, b"Set-Cookie: session=1", b"Connection: close")
    async with TuistApi(f"http://{server.address}") as api:
        for token in ("one", "another"):
            await api.ask(f"Bearer {token}", "id")
    assert b"cookie" not in server.requests[1].lower()


@pytest.mark.parametrize("user", ["user:password@", "user@", ":password@", ""])
async def test_no_other_credentials_replace_the_client_s(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, user: str
) -> None:
    """Neither those of the URL nor those of the environment's netrc."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password secret")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert await ask(f"http://{user}{server.address}") == TuistReply(Access.GRANTED)
    assert AUTHORIZATION.encode() in server.requests[0]
    assert b"Basic" not in server.requests[0]


# Connections.


async def test_connections_are_kept(server: Server) -> None:
    """A question costs no new connection."""
    server.answers = 5
    async with TuistApi(f"http://{server.address}") as api:
        for _ in range(5):
            assert await api.ask(AUTHORIZATION, "id") == TuistReply(Access.GRANTED)
    assert server.connections == 1


@pytest.mark.parametrize("kept", [1, 3])
async def test_question_on_kept_connection_that_closes_is_asked_again(
    server: Server, kept: int
) -> None:
    server.reads_on = True
    async with TuistApi(f"http://{server.address}") as api:
        async with trio.open_nursery() as nursery:
            for _ in range(kept):
                nursery.start_soon(api.ask, AUTHORIZATION, "id")
        assert await api.ask(AUTHORIZATION, "id") == TuistReply(Access.GRANTED)
    assert server.connections == kept + 1


async def test_question_that_is_never_answered_is_asked_twice(server: Server) -> None:
    trouble(await server.ask(b""))
    assert len(server.requests) == 2


# Which question is asked.

CREDENTIAL = Credential("cache_1", "hush")


def asked(tuist: StandInTuist) -> list[str]:
    """The paths of the questions so far."""
    return [question.path for question in tuist.questions]


def introspecting(url: str) -> TuistApi:
    return TuistApi(url, credential=CREDENTIAL)


async def test_server_without_access_is_asked_for_projects_and_again_after_a_while(
    tuist: StandInTuist, mock_clock: MockClock
) -> None:
    tuist.paths = frozenset({PROJECTS})
    expected = TuistReply(Access.GRANTED, frozenset({"acme/app", "acme/other-app"}))
    async with TuistApi(tuist.url) as api:
        for _ in range(2):
            assert await api.ask(AUTHORIZATION, "id") == expected
        assert asked(tuist) == [ACCESS, PROJECTS, PROJECTS]
        tuist.paths = frozenset({ACCESS})
        mock_clock.jump(SKIP_PATH_SECONDS)
        assert await api.ask(AUTHORIZATION, "id") == expected
    assert asked(tuist)[3:] == [ACCESS]


@pytest.mark.parametrize("status", [401, 403, 429, 500, 302])
async def test_only_what_is_missing_leads_to_the_next_question(
    tuist: StandInTuist, status: int
) -> None:
    tuist.status = status
    for api in (TuistApi(tuist.url), introspecting(tuist.url)):
        async with api:
            await api.ask(AUTHORIZATION, "id")
    assert asked(tuist) == [ACCESS, INTROSPECTION]


async def test_introspection_tells_reading_from_writing(tuist: StandInTuist) -> None:
    tuist.credential = ("cache_1", "hush")
    tuist.grants[TOKEN] = {"read": ["Acme/App"], "write": ["acme/lib"]}
    async with introspecting(tuist.url) as api:
        reply = await api.ask(AUTHORIZATION, "id-7")
        unknown = await api.ask("Bearer unknown", "id-8")
    assert reply == TuistReply(
        Access.GRANTED, frozenset({"acme/lib"}), read_only=frozenset({"acme/app"})
    )
    assert unknown == TuistReply(Access.UNAUTHORIZED)
    assert tuist.questions == [Question(AUTHORIZATION, "id-7"), Question("Bearer unknown", "id-8")]
    assert asked(tuist) == [INTROSPECTION] * 2


async def test_introspection_shows_the_token_in_its_body_only(server: Server) -> None:
    server.response = ok(b'{"active": false}')
    async with introspecting(f"http://{server.address}/base/") as api:
        await api.ask(AUTHORIZATION, "id")
    (request,) = server.requests
    head, _, body = request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /base/oauth2/introspect HTTP/1.1\r\n")
    assert b"authorization:" not in head.lower()
    assert json.loads(body) == {"client_id": "cache_1", "client_secret": "hush", "token": TOKEN}


@pytest.mark.parametrize("header", ["Basic dXNlcjpwYXNz", "Bearer", "Bearer ", "nonsense", TOKEN])
async def test_what_is_no_token_is_not_introspected(tuist: StandInTuist, header: str) -> None:
    async with introspecting(tuist.url) as api:
        assert await api.ask(header, "id") == TuistReply(Access.UNAUTHORIZED)
    assert tuist.questions == []


def test_secrets_are_not_printed(tuist: StandInTuist) -> None:
    api = TuistApi(tuist.url, token_secret=SECRET.encode(), credential=CREDENTIAL)
    shown = f"{api!r} {api} {CREDENTIAL!r} {CREDENTIAL}"
    assert "hush" not in shown
    assert SECRET not in shown


@pytest.mark.parametrize("status", [401, 403])
async def test_credential_that_is_refused_is_trouble_and_refuses_no_client(
    tuist: StandInTuist, status: int
) -> None:
    """Nor is another question asked: that knows no actions, and would let a reader write."""
    if status != 401:
        tuist.status = status
    async with introspecting(tuist.url) as api:
        answer = trouble(await api.ask(AUTHORIZATION, "id"))
    assert "TUIST_CLIENT_ID" in answer
    assert str(status) in answer
    assert "hush" not in answer
    assert asked(tuist) == [INTROSPECTION]


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"active": true}', b'{"active": "no"}', b"[" * 9999]
)
async def test_introspection_that_cannot_be_read_is_trouble(server: Server, body: bytes) -> None:
    server.response = ok(body)
    async with introspecting(f"http://{server.address}") as api:
        assert trouble(await api.ask(AUTHORIZATION, "id")) == UNREADABLE


async def test_introspection_that_is_cut_or_endless_or_leads_elsewhere_is_trouble(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache_actors.access.tuist.MAX_BYTES", 1000)
    inactive = b'{"active": false}'
    for response, reason in [
        (ok(inactive)[:-1], "cannot be reached: RemoteProtocolError"),
        (ok(inactive.ljust(1001)), "answer is too long"),
        (
            b"HTTP/1.1 307 X\r\nLocation: //x.example/\r\nContent-Length: 0\r\n\r\n",
            "307, a redirect",
        ),
    ]:
        server.response = response
        async with introspecting(f"http://{server.address}") as api:
            assert reason in trouble(await api.ask(AUTHORIZATION, "id"))


async def test_server_without_introspection_is_asked_as_without_a_credential(
    tuist: StandInTuist,
) -> None:
    tuist.paths = frozenset({ACCESS})
    async with introspecting(tuist.url) as api:
        for _ in range(2):
            reply = await api.ask(AUTHORIZATION, "id")
            assert isinstance(reply, TuistReply)
            assert reply.verdict("acme/app", Action.WRITE) is Access.GRANTED
            assert "TUIST_CLIENT_ID" in reply.oddity
    assert asked(tuist) == [INTROSPECTION, ACCESS, ACCESS]


async def test_account_over_its_plan_is_told_in_tuists_words(server: Server) -> None:
    body = b'{"message": "Upgrade your plan"}'
    response = ok(body).replace(b"200 OK", b"402 Payment Required")
    expected = TuistReply(Access.PAYMENT_REQUIRED, message="Upgrade your plan")
    assert await server.ask(response) == expected


# Tokens that speak for themselves.


def test_signed_token_is_read_here_and_others_are_not(tuist: StandInTuist) -> None:
    api = TuistApi(tuist.url, token_secret=SECRET.encode())
    grants = api.grants_in_token(f"Bearer {cache_token(read=('Acme/App',))}")
    assert grants is not None
    assert grants.verdict("acme/app", Action.READ) is Access.GRANTED
    assert grants.verdict("acme/app", Action.WRITE) is Access.FORBIDDEN
    assert 3590 < grants.lifetime <= 3601
    for other in (signed(secret="x" * 64), signed({"exp": 1}), TOKEN, "tuist_1_abc"):
        assert api.grants_in_token(f"Bearer {other}") is None
    assert TuistApi(tuist.url).grants_in_token(f"Bearer {cache_token()}") is None
    assert tuist.questions == []


@pytest.mark.parametrize(
    ("token", "secret", "access"),
    [
        (cache_token(), "", Access.UNVERIFIABLE),
        (cache_token(), "y" * 64, Access.UNVERIFIABLE),
        (cache_token(exp=1), SECRET, Access.UNAUTHORIZED),  # an old one, as there are many
        (signed(), "", Access.UNAUTHORIZED),
        ("nobody's", "", Access.UNAUTHORIZED),
    ],
    ids=["no secret", "other secret", "expired", "not a cache token", "not a JWT"],
)
async def test_cache_token_that_cannot_be_verified_is_told_from_a_bad_token(
    tuist: StandInTuist, token: str, secret: str, access: Access
) -> None:
    async with TuistApi(tuist.url, token_secret=secret.encode()) as api:
        assert await api.ask(f"Bearer {token}", "id") == TuistReply(access)


async def test_answer_holds_no_longer_than_the_token_whoever_has_signed_it(
    tuist: StandInTuist,
) -> None:
    ends = {time.time() + 60: (1, 61), time.time() - 60: (CLOCK_IS_OFF_SECONDS,) * 2}
    async with TuistApi(tuist.url) as api:
        for end, (least, most) in ends.items():
            token = signed({"exp": end}, "z" * 64)
            tuist.tokens[token] = ["acme/app"]
            reply = await api.ask(f"Bearer {token}", "id")
            assert isinstance(reply, TuistReply)
            assert least <= reply.lifetime <= most


# Proxies, as the environment names them.


async def test_proxy_of_the_environment_is_asked(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://{server.address}")
    assert await ask("http://tuist.invalid/base") == TuistReply(Access.GRANTED)
    assert server.requests[0].startswith(b"GET http://tuist.invalid/base/api/cache/access HTTP/1.1")


@pytest.mark.parametrize(("host", "no_proxy"), [("127.0.0.2", "127.0.0.2"), ("127.0.0.1", "")])
async def test_no_proxy_is_honoured_and_loopback_needs_none(
    server: Server, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, host: str, no_proxy: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://{server.address}")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    direct: Server = await nursery.start(Server().run, None, host)
    assert await direct.ask() == TuistReply(Access.GRANTED)
    assert server.requests == []


# A CA of one's own.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1, signed by itself, and its key, in one file."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1"
    subject = "-subj /CN=tuist -addext subjectAltName=IP:127.0.0.1"
    files = ["-out", str(path), "-keyout", str(path)]
    command = [find_program("openssl"), *request.split(), *subject.split(), *files]
    subprocess.run(command, check=True, capture_output=True)
    return path


@pytest.mark.parametrize("trusted", [True, False])
async def test_ca_of_the_environment_is_trusted_and_no_unknown_one(
    nursery: trio.Nursery, certificate: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    server: Server = await nursery.start(Server().run, tls)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    answer = await ask(f"https://{server.address}")
    if trusted:
        assert answer == TuistReply(Access.GRANTED)
    else:
        assert "ConnectError: [SSL: CERTIFICATE_VERIFY_FAILED]" in trouble(answer)
