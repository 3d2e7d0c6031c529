"""A real S3 server, SeaweedFS, and a proxy in front of it that breaks what a test wants broken."""

import signal
import socket
import struct
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

import httpx
import pytest
from obstore.store import ObjectStore, S3Store

from cache_actors.cli.dev.seaweed import ACCESS_KEY, SECRET_KEY, running_seaweed
from cache_actors.s3 import bucket as bucket_module
from cache_actors.s3.config import BucketConfig

from .programs import find_script
from .service import free_port
from .waiting import eventually

VOLUMES = 400
"""Number of buckets that a server can hold."""

LONGEST = 60.0
"""Longest time for which a request is held, in seconds; it ends a test that hangs."""


@dataclass
class S3Server:
    """A running SeaweedFS: its process, its S3 port, and the port of its file server."""

    process: subprocess.Popen[bytes]
    port: int
    filer_port: int
    _numbers: Iterator[int] = field(default_factory=count)

    @property
    def url(self) -> str:
        """Its endpoint."""
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def new_bucket(self) -> Iterator["S3Bucket"]:
        """A bucket that exists until the context ends."""
        name = f"bucket-{next(self._numbers)}"
        folder = f"http://127.0.0.1:{self.filer_port}/buckets/{name}"
        httpx.post(f"{folder}/", trust_env=False, timeout=60).raise_for_status()
        bucket = S3Bucket(self, name)
        try:
            # The S3 part hears of it, and has made room for it, a moment later.
            eventually(lambda: _exists(bucket))
            yield bucket
        finally:
            httpx.delete(folder, params={"recursive": "true"}, trust_env=False, timeout=60)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """It does nothing (SIGSTOP) until the context ends: connections are taken, none answered.

        Yields when it has stopped.
        """
        self.process.send_signal(signal.SIGSTOP)
        eventually(self._is_stopped)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def _is_stopped(self) -> bool:
        status = Path(f"/proc/{self.process.pid}/stat").read_text()
        return status.rpartition(")")[2].split()[0] == "T"


@dataclass(frozen=True)
class S3Bucket:
    """A bucket of a running server."""

    server: S3Server
    name: str

    def settings(self, endpoint: str | None = None) -> dict[str, str]:
        """The environment of a service that uses it, through a proxy's `endpoint` if given."""
        return {
            "S3_BUCKET": self.name,
            "S3_ENDPOINT": endpoint or self.server.url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        }

    @property
    def store(self) -> S3Store:
        """A client of it, with nothing of ours between."""
        return S3Store(
            self.name,
            endpoint=self.server.url,
            access_key_id=ACCESS_KEY,
            secret_access_key=SECRET_KEY,
            region="us-east-1",
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
        )

    def names(self, folder: str = "") -> list[str]:
        """The names of all objects in `folder` and below it, in order."""
        pages = self.store.list(folder or None)
        return sorted(each["path"] for page in pages for each in page)

    def put(self, name: str, data: bytes, **metadata: str) -> None:
        """Store an object."""
        attributes: dict[Any, str] = dict(metadata)
        self.store.put(name, data, attributes=attributes, use_multipart=False)

    def get(self, name: str) -> bytes:
        """The bytes of an object."""
        return bytes(self.store.get(name).bytes())

    def delete(self, name: str) -> None:
        """Delete an object."""
        self.store.delete(name)


@contextmanager
def running_s3() -> Iterator[S3Server]:
    """Run SeaweedFS on loopback.

    The test is skipped where it is not installed, or fails if CI is set.
    """
    find_script("weed")
    with (
        tempfile.TemporaryDirectory(prefix="cache-actors-s3-", ignore_cleanup_errors=True) as name,
        running_seaweed(Path(name) / "s3", VOLUMES) as server,
    ):
        yield S3Server(server.process, server.port, server.filer_port)


def unhurried(config: BucketConfig, _seconds: float) -> ObjectStore:
    """Connections that wait for a busy machine as long as it takes: `Bucket` takes this to connect.

    For tests that ask once: a service asks again, but they would take a late answer for a fault.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bucket_module, "CONNECT_SECONDS", LONGEST)
        return bucket_module.connect_s3(config, LONGEST)


def _exists(bucket: S3Bucket) -> bool:
    with suppress(Exception):  # the library's, of which there are many
        bucket.put("first", b"bytes")
        bucket.delete("first")
        return True
    return False


class FaultProxy:
    """A proxy on loopback before an S3 server, which passes on or breaks each request.

    Attributes:
        fault: what to do with a request, by its method and path; None to pass it on. Set by tests,
            at any time.
        requests: methods and paths of all requests so far.

    Args:
        server: where it leads.
    """

    def __init__(self, server: S3Server) -> None:
        self.fault: Callable[[str, str], Fault | None] = lambda _method, _path: None
        self.requests: list[tuple[str, str]] = []
        self.upstream = server.port
        self.release = threading.Event()
        self._http = _Listener(("127.0.0.1", free_port()), _Request)
        self._http.proxy = self

    @property
    def url(self) -> str:
        """Its endpoint."""
        return f"http://127.0.0.1:{self._http.server_port}"

    def asked(self, text: str, method: str = "GET") -> int:
        """How many requests of `method` there were so far for a path with `text` in it."""
        return sum(text in path for how, path in list(self.requests) if how == method)

    def __enter__(self) -> "FaultProxy":
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


class Broken(Exception):
    """A connection of the proxy is to be given up."""


class Answered(Exception):
    """A request has had its answer, and its connection stays."""


class Fault:
    """A fault: what becomes of one request and its answer. Each does nothing but for one thing."""

    def before(self, request: "_Request") -> None:
        """Called when the request has been read. Raises `Answered` or `Broken` if that is all."""

    def body(self, data: bytes) -> bytes:
        """The body that is sent in place of `data`, under the same Content-Length."""
        return data

    def header(self, _name: str, value: str) -> str | None:
        """The value sent in place of an answer's header; None to leave the header out."""
        return value


@dataclass(frozen=True)
class Refuse(Fault):
    """An error of S3's, such as `Refuse(503, "SlowDown")`."""

    status: int
    code: str = ""

    def before(self, request: "_Request") -> None:
        """Answer."""
        text = f"<Error><Code>{self.code}</Code><Message>by the proxy</Message></Error>"
        request.answer(self.status, {"Content-Type": "application/xml"}, text.encode())
        raise Answered


@dataclass(frozen=True)
class Reset(Fault):
    """The connection is reset (RST)."""

    def before(self, request: "_Request") -> NoReturn:
        """Have the kernel send RST instead of FIN."""
        linger = struct.pack("ii", 1, 0)
        request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        raise Broken


@dataclass(frozen=True)
class Silence(Fault):
    """No answer, ever: until the proxy ends, or a test sets its `release`."""

    def before(self, request: "_Request") -> NoReturn:
        """Wait."""
        request.proxy.release.wait(LONGEST)
        raise Broken


@dataclass(frozen=True)
class Hold(Fault):
    """The request is passed on once `gate` is set; `reached` is set when it waits."""

    gate: threading.Event = field(default_factory=threading.Event)
    reached: threading.Event = field(default_factory=threading.Event)

    def before(self, _request: "_Request") -> None:
        """Wait."""
        self.reached.set()
        self.gate.wait(LONGEST)


@dataclass(frozen=True)
class Cut(Fault):
    """The answer ends after `size` bytes of its body."""

    size: int

    def body(self, data: bytes) -> bytes:
        """The first bytes."""
        return data[: self.size]


@dataclass(frozen=True)
class Garble(Fault):
    """The answer has other bytes, as many as the right ones."""

    def body(self, data: bytes) -> bytes:
        """All bits turned over."""
        return bytes(byte ^ 0xFF for byte in data)


@dataclass(frozen=True)
class Metadata(Fault):
    """The answer's metadata of the name `name` are `value`, or missing if it is None."""

    name: str
    value: str | None

    def header(self, name: str, value: str) -> str | None:
        """The other value."""
        return self.value if name.lower() == f"x-amz-meta-{self.name}" else value


class _Listener(ThreadingHTTPServer):
    proxy: FaultProxy
    daemon_threads = True
    request_queue_size = 128


class _Request(BaseHTTPRequestHandler):
    """One connection of the proxy's, request by request."""

    protocol_version = "HTTP/1.1"
    server: _Listener

    @property
    def proxy(self) -> FaultProxy:
        return self.server.proxy

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.proxy.requests.append((self.command, self.path))
        fault = self.proxy.fault(self.command, self.path) or Fault()
        try:
            fault.before(self)
            upstream = HTTPConnection("127.0.0.1", self.proxy.upstream, timeout=LONGEST)
            upstream.request(self.command, self.path, body, dict(self.headers))
            answer = upstream.getresponse()
            data = answer.read()
            upstream.close()
            headers = {
                name: changed
                for name, value in answer.getheaders()
                if (changed := fault.header(name, value)) is not None
            }
            self.answer(answer.status, headers, fault.body(data), len(data))
        except Answered:
            pass
        except (Broken, OSError, HTTPException):
            self.close_connection = True

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass_on  # noqa: N815

    def answer(
        self, status: int, headers: dict[str, str], data: bytes, length: int | None = None
    ) -> None:
        """Send an answer with that body; what is shorter than `length` is cut off.

        An answer that has none by its status or method is sent without: the client would take it
        for the begin of the next one.
        """
        has_body = self.command != "HEAD" and status not in (204, 304)
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(name, value)
        length = len(data) if length is None else length
        if has_body:
            self.send_header("Content-Length", str(length))
        else:
            self.send_header("Content-Length", headers.get("Content-Length", "0"))
        self.end_headers()
        if has_body:
            self.wfile.write(data)
            if len(data) < length:
                raise Broken

    def log_message(self, *_: object) -> None:
        """Log nothing."""
