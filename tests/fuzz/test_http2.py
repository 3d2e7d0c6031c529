"""HTTP/2 frames made at random, over TLS, to nginx and the service behind it.

What is answered has a status of the contract. Afterwards a plain request is answered, nothing has
been restarted, and no more is held than before.
"""

import json
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from hpack import Decoder, Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.contract.examples import cas_path, kv_path
from tests.support.nginx import BRIEF_KEEPALIVE, new_certificate
from tests.support.service import CHANGED_COMMAND, ID, nodes_of
from tests.support.tuist import HeldTuist
from tests.support.waiting import eventually
from tests.support.wire import QUERY
from tests.system.site import Site, running_site

from .held import Held, expect_no_more_held, held_by, settings_for_held
from .test_requests import STATUSES

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
LAST_PING = b"the last"
QUIET_SECONDS = 0.05
"""After so long without an answer a client that is not understood leaves."""

STREAMS = st.sampled_from([1, 1, 1, 3, 3, 5, 7, 9]) | st.integers(1, 2**31 - 1)
PATHS = st.sampled_from(
    ["/up", "/", "/_auth_cas", cas_path(ID), kv_path("A"), "/api/cache/keyvalue"]
)
EXTRA = st.sampled_from(
    [
        ("authorization", "Bearer token"),
        ("authorization", "Bearer nobody's"),
        ("content-length", "3"),
        ("content-length", "70000"),
        ("content-length", "99999999"),
        ("range", "bytes=1-2"),
        ("connection", "close"),
        ("transfer-encoding", "chunked"),
        ("te", "trailers"),
        ("x-long", "x" * 20_000),
        (":late", "pseudo"),
    ]
) | st.tuples(st.text("abcXYZ-:\0 \n", max_size=9), st.text("abc\0\n\x7f\xff ", max_size=30))
QUERIES = st.sampled_from([QUERY, QUERY, f"{QUERY}&{QUERY}", ""])


def request_of(
    method: str, path: str, query: str, authorized: bool, extra: list[tuple[str, str]]
) -> list[tuple[str, str]]:
    """The headers of a request."""
    headers = [(":method", method), (":scheme", "https"), (":authority", "cache")]
    headers.append((":path", f"{path}?{query}"))
    return headers + [("authorization", "Bearer token")] * authorized + extra


REQUESTS = st.builds(
    request_of,
    st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "get", ""]),
    PATHS,
    QUERIES,
    st.booleans(),
    st.lists(EXTRA, max_size=3),
)


def request_frames(
    stream: int, headers: list[tuple[str, str]], pieces: int, flags: set[str], reset: bool
) -> bytes:
    """A request's head, in that many frames, of which the last one ends it if `flags` say so."""
    block = Encoder().encode(headers)
    size = max(1, -(-len(block) // pieces))
    parts = [block[start : start + size] for start in range(0, len(block), size)] or [b""]
    frames: list[Frame] = [HeadersFrame(stream, parts[0])]
    frames += [ContinuationFrame(stream, part) for part in parts[1:]]
    frames[0].flags |= flags & {"END_STREAM"}
    frames[-1].flags |= flags & {"END_HEADERS"}
    frames += [RstStreamFrame(stream, 8)] * reset
    return serialized(*frames)


def serialized(*frames: Frame) -> bytes:
    """Frames as they are sent."""
    return b"".join(frame.serialize() for frame in frames)


def data_frames(stream: int, size: int, ends: bool) -> bytes:
    """A piece of a body."""
    pieces = [min(16_384, size - start) for start in range(0, size, 16_384)] or [0]
    frames = [DataFrame(stream, bytes(piece)) for piece in pieces]
    if ends:
        frames[-1].flags.add("END_STREAM")
    return serialized(*frames)


def any_frame(length: int, kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame that says of itself what it likes."""
    return struct.pack(">IBI", length << 8 | kind, flags, stream) + payload


FLAGS = st.sets(st.sampled_from(["END_STREAM", "END_HEADERS"])) | st.just({"END_HEADERS"})
SIZES = st.sampled_from([0, 1, 3, 1000, 16_384, 60_000, 70_000])
PIECES = st.one_of(
    st.builds(request_frames, STREAMS, REQUESTS, st.integers(1, 4), FLAGS, st.booleans()),
    st.builds(
        request_frames, STREAMS, REQUESTS, st.just(1), st.just({"END_HEADERS"}), st.just(False)
    ),
    st.builds(data_frames, STREAMS, SIZES, st.booleans()),
    st.builds(lambda *how: serialized(RstStreamFrame(*how)), STREAMS, st.integers(0, 2**32 - 1)),
    st.builds(
        lambda stream, by: any_frame(4, 8, 0, stream, struct.pack(">I", by)),
        STREAMS | st.just(0),
        st.sampled_from([0, 1, 65_535, 2**31 - 1, 2**32 - 1]),
    ),
    st.builds(
        lambda values: serialized(SettingsFrame(0, values)),
        st.dictionaries(st.integers(0, 9), st.sampled_from([0, 1, 100, 16_384, 2**31 - 1])),
    ),
    st.builds(lambda: serialized(SettingsFrame(0, flags=["ACK"]), PingFrame(0, b"12345678"))),
    st.builds(lambda *how: serialized(PriorityFrame(*how)), st.integers(1, 9), st.integers(0, 9)),
    st.builds(lambda last: serialized(GoAwayFrame(0, last, 1, b"why")), st.integers(0, 9)),
    st.builds(lambda: serialized(PushPromiseFrame(1, 2, b"", flags=["END_HEADERS"]))),
    # Floods: of heads that never end, of resets, of pings.
    st.builds(
        lambda times: serialized(HeadersFrame(1), *[ContinuationFrame(1, b"\0\1a\1b")] * times),
        st.integers(1, 300),
    ),
    st.builds(
        lambda headers, times: b"".join(
            request_frames(2 * number + 1, headers, 1, {"END_HEADERS"}, True)
            for number in range(times)
        ),
        REQUESTS,
        st.integers(1, 60),
    ),
    st.builds(lambda times: serialized(*[PingFrame(0, b"12345678")] * times), st.integers(1, 300)),
    # What is too long, too short, or of no known kind.
    st.builds(
        any_frame,
        st.sampled_from([0, 1, 4, 8, 16_385, 2**24 - 1]),
        st.integers(0, 255),
        st.integers(0, 255),
        STREAMS | st.just(0),
        st.binary(max_size=60),
    ),
    st.binary(min_size=1, max_size=60),
)


@pytest.fixture(scope="module")
def shared_tuist() -> Iterator[HeldTuist]:
    """A Tuist server at which `token` sees `acme/app`."""
    with HeldTuist({"token": ["acme/app"]}) as tuist:
        yield tuist


@pytest.fixture(scope="module", params=["wheel", pytest.param("debian", marks=pytest.mark.nightly)])
def which(request: pytest.FixtureRequest) -> str:
    """The kind of nginx."""
    return str(request.param)


@pytest.fixture(scope="module")
def site(
    which: str, shared_tuist: HeldTuist, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """A site over TLS, which tells what it holds."""
    folder = tmp_path_factory.mktemp("site")
    certificate, key = new_certificate(folder)
    with running_site(
        which,
        shared_tuist,
        settings_for_held(folder),
        command=CHANGED_COMMAND,
        changes=BRIEF_KEEPALIVE,
        tls_cert=certificate,
        tls_key=key,
    ) as site:
        site.upload(ID, b"bytes")
        yield site


@pytest.fixture(scope="module")
def before(site: Site) -> Held:
    """What it holds when it has been asked, and nobody asks any more."""
    assert site.ask("GET", cas_path(ID)).content == b"bytes"
    eventually(lambda: held_by(site).own["requests"] == 0)
    return held_by(site)


@dataclass
class Answers:
    """What has been answered, by stream, as far as it can be read."""

    statuses: dict[int, list[int]] = field(default_factory=dict)
    bodies: dict[int, bytes] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)

    def read(self, received: bytes) -> None:
        """Read frames up to the last whole one."""
        decoder = Decoder()
        while len(received) >= 9:
            frame, length = Frame.parse_frame_header(memoryview(received[:9]))
            if len(received) < 9 + length:
                return
            frame.parse_body(memoryview(received[9 : 9 + length]))
            received = received[9 + length :]
            if isinstance(frame, HeadersFrame):
                headers = dict[Any, Any](decoder.decode(frame.data))
                self.statuses.setdefault(frame.stream_id, []).append(int(headers[":status"]))
            elif isinstance(frame, DataFrame):
                self.bodies[frame.stream_id] = self.bodies.get(frame.stream_id, b"") + frame.data
            if "END_STREAM" in frame.flags:
                self.ended.add(frame.stream_id)

    def expect_contract(self) -> None:
        """Each status is one of the contract, and each whole error is JSON."""
        for stream, statuses in self.statuses.items():
            assert STATUSES | {100} >= set(statuses), (stream, statuses)
            body = self.bodies.get(stream, b"")
            if statuses[-1] >= 400 and stream in self.ended and body:
                assert list(json.loads(body)) == ["message"], body


def answers_to(port: int, sent: bytes, leaves_at_once: bool) -> bytes:
    """What is answered until the connection is closed, all is answered, or nothing more comes."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    received = b""
    with (
        socket.create_connection(("127.0.0.1", port), 60) as plain,
        context.wrap_socket(plain) as connection,
        suppress(OSError),
    ):
        if leaves_at_once:  # with a reset
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.sendall(sent)
        if leaves_at_once:
            return b""
        connection.sendall(serialized(PingFrame(0, LAST_PING)))
        connection.settimeout(QUIET_SECONDS)
        while LAST_PING not in received and (piece := connection.recv(65_536)):
            received += piece
    return received


@given(
    pieces=st.lists(PIECES, min_size=1, max_size=12),
    cut=st.just(0) | st.integers(0, 40),
    leaves_at_once=st.booleans(),
)
def test_any_frames_are_answered_as_the_contract_says(
    site: Site, before: Held, pieces: list[bytes], cut: int, leaves_at_once: bool
) -> None:
    sent = PREFACE + serialized(SettingsFrame(0)) + b"".join(pieces)
    answers = Answers()
    answers.read(answers_to(site.nginx.port, sent[: len(sent) - cut], leaves_at_once))
    answers.expect_contract()


def test_nothing_is_held_of_what_came_before(site: Site, before: Held) -> None:
    assert before.own["allowances"] > 0
    assert set(before.own.values()) == {0, before.own["allowances"]}
    assert site.ask("GET", cas_path(ID)).content == b"bytes"
    expect_no_more_held(site, before)
    tree = site.direct.get("/up").json()["tree"]
    assert [node for node in nodes_of(tree) if node["restarts"]] == []
    assert "exited on signal" not in site.nginx.error_log()
