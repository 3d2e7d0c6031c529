"""The Tuist server behind what surrounds it: proxies, a private CA, connections that end."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from cache_actors.access.tuist import Access, TuistApi, TuistReply
from tests.support.programs import find_program

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

AUTHORIZATION = "Bearer token-of-a-developer"
GRANTED = TuistReply(Access.GRANTED, frozenset({"acme/app"}))
BODY = b'{"projects": ["acme/app"]}'
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


class Server:
    """Answers the n-th request on the m-th connection with `answer(m, n)`; with None it closes.

    Attributes:
        requests: what each connection was asked, in the order of the connections.
    """

    def __init__(self, answer: Callable[[int, int], bytes | None]) -> None:
        self._answer = answer
        self.requests: list[list[bytes]] = []
        self.port = 0

    async def run(
        self, host: str, tls: ssl.SSLContext | None, *, task_status: trio.TaskStatus[Server]
    ) -> None:
        async with trio.open_nursery() as nursery:
            [listener] = await nursery.start(
                partial(trio.serve_tcp, partial(self._serve, tls), 0, host=host)
            )
            self.port = listener.socket.getsockname()[1]
            task_status.started(self)

    async def _serve(self, tls: ssl.SSLContext | None, plain: trio.SocketStream) -> None:
        stream: trio.abc.Stream = plain
        if tls is not None:
            stream = trio.SSLStream(plain, tls, server_side=True)
        number, asked = len(self.requests), list[bytes]()
        self.requests.append(asked)
        try:
            while head := await stream.receive_some():
                asked.append(bytes(head))
                answer = self._answer(number, len(asked) - 1)
                if answer is None:
                    break
                await stream.send_all(answer)
        except trio.BrokenResourceError:
            pass  # a client that does not trust the certificate
        finally:
            await trio.aclose_forcefully(stream)


Serve = Callable[..., Awaitable[Server]]


@pytest.fixture
async def serve(nursery: trio.Nursery) -> AsyncIterator[Serve]:
    """Starts servers on loopback; those that are given nothing else answer `RESPONSE`."""

    async def serve(
        answer: Callable[[int, int], bytes | None] = lambda *_: RESPONSE,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
    ) -> Server:
        server: Server = await nursery.start(Server(answer).run, host, tls)
        return server

    yield serve
    nursery.cancel_scope.cancel()


async def ask(url: str) -> TuistReply | str:
    async with TuistApi(url) as api:
        return await api.ask(AUTHORIZATION, "id")


@pytest.mark.parametrize("user", ["user:password", "user", ":password"])
async def test_credentials_of_the_url_do_not_replace_the_clients(serve: Serve, user: str) -> None:
    server = await serve()
    assert await ask(f"http://{user}@127.0.0.1:{server.port}") == GRANTED
    assert AUTHORIZATION.encode() in server.requests[0][0]
    assert b"Basic" not in server.requests[0][0]


# Connections that end.


@pytest.mark.parametrize("kept", [1, 3])
async def test_question_on_kept_connection_that_closes_is_asked_again(
    serve: Serve, kept: int
) -> None:
    server = await serve(lambda connection, number: None if number else RESPONSE)
    async with TuistApi(f"http://127.0.0.1:{server.port}") as api:
        async with trio.open_nursery() as nursery:
            for _ in range(kept):
                nursery.start_soon(api.ask, AUTHORIZATION, "id")
        assert await api.ask(AUTHORIZATION, "id") == GRANTED
    assert len(server.requests) == kept + 1


async def test_question_that_is_never_answered_is_asked_twice(serve: Serve) -> None:
    server = await serve(lambda *_: None)
    answer = await ask(f"http://127.0.0.1:{server.port}")
    assert answer == "The Tuist server cannot be reached: RemoteProtocolError"
    assert len(server.requests) == 2


# Proxies, as the environment names them.


async def test_proxy_of_the_environment_is_asked(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = await serve()
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
    assert await ask("http://tuist.invalid/base") == GRANTED
    assert proxy.requests[0][0].startswith(b"GET http://tuist.invalid/base/api/projects HTTP/1.1")


@pytest.mark.parametrize(("host", "no_proxy"), [("127.0.0.2", "127.0.0.2"), ("127.0.0.1", "")])
async def test_no_proxy_is_honoured_and_loopback_needs_none(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, host: str, no_proxy: str
) -> None:
    proxy, server = await serve(), await serve(host=host)
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert await ask(f"http://{host}:{server.port}") == GRANTED
    assert proxy.requests == []


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
    serve: Serve, certificate: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    server = await serve(tls=tls)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    answer = await ask(f"https://127.0.0.1:{server.port}")
    if trusted:
        assert answer == GRANTED
    else:
        assert isinstance(answer, str)
        assert "ConnectError: [SSL: CERTIFICATE_VERIFY_FAILED]" in answer
