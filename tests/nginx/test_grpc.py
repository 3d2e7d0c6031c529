"""gRPC through nginx: what the service gets of a call, and what a client gets of an answer."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Queue
from typing import Any

import h11
import httpx
import pytest

from tests.support.grpc_client import GrpcClient, GrpcError, grpc_client
from tests.support.nginx import EAGER_LOG, Nginx, new_certificate, nginx_before
from tests.support.waiting import eventually

PATH = "/google.bytestream.ByteStream/Read"
PIECE = bytes(range(256)) * 256
"""64 KiB."""

OK = (("grpc-status", "0"),)


def framed(message: bytes) -> bytes:
    """A message as it travels: not compressed, and its length before it."""
    return b"\0" + len(message).to_bytes(4, "big") + message


class Exchange:
    """A request to the service, and its answer."""

    def __init__(
        self, connection: socket.socket, protocol: h11.Connection, head: h11.Request
    ) -> None:
        self._connection = connection
        self._protocol = protocol
        self.method, self.path = head.method.decode(), head.target.decode()
        self.headers = {name.decode(): value.decode() for name, value in head.headers}

    def body(self) -> bytes:
        """All of the body that is left."""
        return b"".join(self.pieces())

    def pieces(self) -> Iterator[bytes]:
        """What is left of the body, as it comes."""
        while isinstance(event := next_event(self._connection, self._protocol), h11.Data):
            yield bytes(event.data)

    def head(self, status: int = 200, **headers: str) -> None:
        """Begin the answer."""
        fields = {"content-type": "application/grpc", "transfer-encoding": "chunked"}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        if "content-length" in fields:
            del fields["transfer-encoding"]
        if self._protocol.their_state is not h11.DONE:
            fields["connection"] = "close"
        self._send(h11.Response(status_code=status, headers=list(fields.items())))

    def data(self, data: bytes) -> None:
        """Send some of its body."""
        self._send(h11.Data(data=data))

    def end(self, trailers: tuple[tuple[str, str], ...] = OK) -> None:
        """End it."""
        self._send(h11.EndOfMessage(headers=list(trailers)))

    def answer(self, message: bytes) -> None:
        """Answer with one message."""
        self.head()
        self.data(framed(message))
        self.end()

    def drop_the_rest(self) -> None:
        """Read and drop what comes until nginx closes the connection."""
        with suppress(OSError):
            while self._connection.recv(1 << 18):
                pass

    def _send(self, event: h11.Event) -> None:
        self._connection.sendall(self._protocol.send(event) or b"")


def next_event(connection: socket.socket, protocol: h11.Connection) -> object:
    while (event := protocol.next_event()) is h11.NEED_DATA:
        protocol.receive_data(connection.recv(1 << 18))
    return event


Behaviour = Callable[[Exchange], None]


class Upstream:
    """In the service's place, on a port of loopback: a thread for each connection.

    Attributes:
        behaviour: answers a request; if the answer is not complete, the connection is closed.
        connections: how many there have been.
    """

    def __init__(self) -> None:
        self.behaviour: Behaviour = lambda exchange: exchange.answer(exchange.body()[5:])
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._accept)
        thread.start()
        try:
            yield
        finally:
            self._listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.connections += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        protocol = h11.Connection(h11.SERVER)
        with connection, suppress(OSError, h11.RemoteProtocolError):
            while isinstance(head := next_event(connection, protocol), h11.Request):
                exchange = Exchange(connection, protocol, head)
                self.behaviour(exchange)
                if protocol.our_state is h11.MUST_CLOSE:  # before all of the request has come
                    exchange.drop_the_rest()
                if protocol.our_state is not h11.DONE:
                    return
                protocol.start_next_cycle()


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    server = Upstream()
    with server.running():
        yield server


@pytest.fixture(autouse=True)
def echo(upstream: Upstream) -> Iterator[None]:
    """Each test begins with an upstream that echoes one message."""
    before = upstream.behaviour
    yield
    upstream.behaviour = before


@pytest.fixture(scope="module", params=["plain", "tls"])
def nginx(
    request: pytest.FixtureRequest, upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Nginx]:
    """nginx, which ends each connection after 50 requests."""
    folder = tmp_path_factory.mktemp("nginx")
    tls: dict[str, Path] = {}
    if request.param == "tls":
        certificate, key = new_certificate(folder)
        tls = {"tls_cert": certificate, "tls_key": key}
    changes = {"keepalive_requests         10000": "keepalive_requests 50", **EAGER_LOG}
    with nginx_before(
        upstream.address, folder, "wheel", changes, answers_log=folder / "answers.log", **tls
    ) as nginx:
        yield nginx


@pytest.fixture
def client(nginx: Nginx) -> Iterator[GrpcClient]:
    with grpc_client(nginx.port, nginx.options.tls_cert) as client:
        yield client


def test_service_gets_a_call_as_a_request_with_a_chunked_body(
    client: GrpcClient, upstream: Upstream
) -> None:
    seen: list[Exchange] = []

    def note(exchange: Exchange) -> None:
        seen.append(exchange)
        exchange.answer(exchange.body()[5:])

    upstream.behaviour = note
    only_nginx_sends = ["x-cache-body", "x-cache-answer", "x-cache-trouble", "x-cache-sends-files"]
    metadata = [("authorization", "Bearer token"), ("x-request-id", "one")]
    metadata += [(name, "forged") for name in only_nginx_sends]
    assert client.call(PATH, b"message", metadata=metadata) == b"message"
    (call,) = seen
    assert (call.method, call.path) == ("POST", PATH)
    assert call.headers["te"] == "trailers"
    assert call.headers["transfer-encoding"] == "chunked"
    assert call.headers["content-type"] == "application/grpc"
    assert call.headers["authorization"] == "Bearer token"
    assert call.headers["x-request-id"] == "one"
    assert call.headers["grpc-timeout"]
    assert call.headers.keys().isdisjoint(only_nginx_sends)
    client.call(PATH)
    assert len(seen.pop().headers["x-request-id"]) == 32


@pytest.mark.parametrize(
    "path",
    [
        "/build.bazel.remote.execution.v2.ActionCache/GetActionResult",
        "/build.bazel.remote.asset.v1.Fetch/FetchBlob",
        "/grpc.health.v1.Health/Check",
    ],
)
def test_services_of_any_name_are_passed_on(client: GrpcClient, path: str) -> None:
    assert client.call(path, b"m") == b"m"


def test_messages_of_any_size_and_number_arrive_whole(
    client: GrpcClient, upstream: Upstream
) -> None:
    for size in 0, 1, 65_536, 33_554_432:
        assert client.call(PATH, PIECE * (size >> 16) + bytes(size % 65536)) == (
            PIECE * (size >> 16) + bytes(size % 65536)
        )
    upstream.behaviour = lambda exchange: exchange.answer(str(len(exchange.body())).encode())
    sent = client.send(PATH, (PIECE for _ in range(400)))
    assert int(sent) == 400 * len(framed(PIECE))

    def stream(exchange: Exchange) -> None:
        exchange.body()
        exchange.head()
        for _ in range(400):
            exchange.data(framed(PIECE))
        exchange.end()

    upstream.behaviour = stream
    assert [piece == PIECE for piece in client.receive(PATH)] == [True] * 400


def test_service_gets_a_stream_while_it_is_sent(client: GrpcClient, upstream: Upstream) -> None:
    arrived: Queue[bytes] = Queue()

    def note(exchange: Exchange) -> None:
        for piece in exchange.pieces():
            arrived.put(piece)
        exchange.answer(b"")

    def messages() -> Iterator[bytes]:
        for number in range(3):
            yield b"%d" % number
            received = b""
            while received != framed(b"%d" % number):
                received += arrived.get(timeout=60)

    upstream.behaviour = note
    assert client.send(PATH, messages()) == b""


@pytest.mark.parametrize(
    ("status", "told"),
    [("5", "NOT_FOUND"), ("7", "PERMISSION_DENIED"), ("8", "RESOURCE_EXHAUSTED")],
)
def test_status_of_the_service_is_the_clients(
    client: GrpcClient, upstream: Upstream, status: str, told: str
) -> None:
    """With trailers, or with headers alone; also before a small request has been read."""

    def in_trailers(exchange: Exchange) -> None:
        exchange.body()
        exchange.head()
        exchange.end((("grpc-status", status), ("grpc-message", "so it is")))

    def in_headers(exchange: Exchange) -> None:
        exchange.body()
        exchange.head(grpc_status=status, grpc_message="so it is", content_length="0")
        exchange.end(())

    def at_once(exchange: Exchange) -> None:
        exchange.head(grpc_status=status, grpc_message="so it is", content_length="0")
        exchange.end(())
        exchange.drop_the_rest()

    for upstream.behaviour in in_trailers, in_headers, at_once:
        with pytest.raises(GrpcError) as failed:
            client.call(PATH, bytes(1000 if upstream.behaviour is at_once else 10_000_000))
        assert (failed.value.status, failed.value.message) == (told, "so it is")


def test_answer_before_the_end_of_a_stream_counts(client: GrpcClient, upstream: Upstream) -> None:
    def early(exchange: Exchange) -> None:
        next(exchange.pieces())
        exchange.head()
        exchange.data(framed(b"enough"))
        exchange.end()

    upstream.behaviour = early
    assert client.send(PATH, (PIECE for _ in range(1000))) == b"enough"


def say_503(exchange: Exchange) -> None:
    exchange.body()
    exchange.head(503, content_length="2", content_type="application/json")
    exchange.data(b"{}")
    exchange.end(())


def say_nothing(exchange: Exchange) -> None:
    exchange.body()


@pytest.mark.parametrize("trouble", [say_503, say_nothing], ids=["it says 503", "it ends"])
def test_service_that_cannot_answer_is_unavailable(
    client: GrpcClient, upstream: Upstream, trouble: Behaviour
) -> None:
    echo = upstream.behaviour
    upstream.behaviour = trouble
    for _ in range(2):
        with pytest.raises(GrpcError) as failed:
            client.call(PATH, b"message")
        assert failed.value.status == "UNAVAILABLE"
        assert failed.value.message == "The service cannot answer at the moment"
    upstream.behaviour = echo
    assert client.call(PATH, b"message") == b"message"


def test_refusal_by_nginx_is_a_whole_answer_of_grpc(nginx: Nginx, upstream: Upstream) -> None:
    """Clients in Java require the type, and headers that end the stream."""
    upstream.behaviour = say_nothing
    with httpx.Client(http1=False, http2=True, trust_env=False, verify=False) as client:  # noqa: S501
        answer = client.post(
            nginx.url + PATH, headers={"TE": "trailers", "Content-Type": "application/grpc"}
        )
    assert (answer.status_code, answer.http_version) == (200, "HTTP/2")
    assert answer.headers["Content-Type"] == "application/grpc"
    assert answer.headers["grpc-status"] == "14"
    assert answer.headers["X-Request-ID"]
    assert answer.content == b""


def test_request_that_the_service_cannot_read_is_an_invalid_argument(
    client: GrpcClient, upstream: Upstream
) -> None:
    def refuse(exchange: Exchange) -> None:
        exchange.body()
        exchange.head(431, content_length="0")
        exchange.end(())

    upstream.behaviour = refuse
    with pytest.raises(GrpcError, match=r"^INVALID_ARGUMENT: The request is not valid"):
        client.call(PATH)


def test_torn_answer_is_an_error_and_the_connection_goes_on(
    client: GrpcClient, upstream: Upstream
) -> None:
    sizes = iter([0, 1, 5, 1000])

    def torn(exchange: Exchange) -> None:
        exchange.body()
        exchange.head()
        exchange.data(framed(PIECE) + framed(PIECE)[: next(sizes)])

    echo = upstream.behaviour
    upstream.behaviour = torn
    for _ in range(4):
        with pytest.raises(GrpcError) as failed:
            list(client.receive(PATH))
        assert failed.value.status in {"INTERNAL", "UNAVAILABLE"}
    upstream.behaviour = echo
    assert client.call(PATH, b"message") == b"message"


def test_service_learns_that_a_call_was_cancelled_or_is_late(
    client: GrpcClient, upstream: Upstream
) -> None:
    began, ended = threading.Event(), threading.Event()

    def wait(exchange: Exchange) -> None:
        exchange.body()
        began.set()
        exchange.drop_the_rest()
        ended.set()

    upstream.behaviour = wait
    call = client.begin(PATH)
    assert began.wait(60)
    call.cancel()
    assert ended.wait(60)
    ended.clear()
    with pytest.raises(GrpcError, match="DEADLINE_EXCEEDED"):
        client.call(PATH, timeout=0.2)
    assert ended.wait(60)


def test_connection_that_nginx_ends_after_many_calls_costs_none(client: GrpcClient) -> None:
    for number in range(220):
        assert client.call(PATH, b"%d" % number) == b"%d" % number


def test_connections_to_the_service_are_kept(client: GrpcClient, upstream: Upstream) -> None:
    client.call(PATH)
    before = upstream.connections
    for _ in range(20):
        client.call(PATH)
    assert upstream.connections == before


def test_status_is_in_the_access_log(client: GrpcClient, upstream: Upstream, nginx: Nginx) -> None:
    def refuse(exchange: Exchange) -> None:
        exchange.body()
        exchange.head(grpc_status="7", content_length="0")
        exchange.end(())

    echo = upstream.behaviour
    for behaviour, status in (echo, "0"), (refuse, "7"), (say_nothing, "14"):
        upstream.behaviour = behaviour
        request_id = f"logged-{status}-{nginx.port}"
        with suppress(GrpcError):
            client.call(PATH, metadata=[("x-request-id", request_id)])
        eventually(lambda: logged(nginx, request_id))  # noqa: B023 - it waits for it
        line = logged(nginx, request_id)
        assert (line["path"], line["status"], line["grpc_status"]) == (PATH, 200, status)


def logged(nginx: Nginx, request_id: str) -> dict[str, Any]:
    """The line of a request in nginx's access log, or an empty one."""
    log = nginx.options.runtime / "access.log"
    lines = map(json.loads, log.read_text().rpartition("\n")[0].splitlines())
    return next((line for line in lines if line["request_id"] == request_id), {})


def test_call_that_nginx_refuses_counts_as_503(
    client: GrpcClient, upstream: Upstream, nginx: Nginx
) -> None:
    log = nginx.options.answers_log
    assert log is not None
    upstream.behaviour = say_nothing
    with pytest.raises(GrpcError):
        client.call(PATH)
    eventually(lambda: any("grpc POST 503 0 " in line for line in log.read_text().splitlines()))


def test_clients_of_http_1_are_served_at_the_same_port(nginx: Nginx, upstream: Upstream) -> None:
    def hello(exchange: Exchange) -> None:
        exchange.head(content_type="application/json", content_length="2")
        exchange.data(b"{}")
        exchange.end(())

    upstream.behaviour = hello
    answer = httpx.get(f"{nginx.url}/up", trust_env=False, verify=False)  # noqa: S501
    assert (answer.http_version, answer.json()) == ("HTTP/1.1", {})
