"""What counts as a plain request is one to h11 too, and the same one."""

from itertools import pairwise

import h11
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from cache_actors.http.server.plain import ChunkedBody, PlainRequest, plain_request

MOST = 16 * 1024

NAMES = ["Host", "content-length", "Authorization", "X-A", "Connection", "Expect", "Upgrade"]
VALUES = ["x", "", " 3 ", "007", "keep-alive", "close", "100-continue", "a b", "3, 3", "chunked"]

LINES = st.builds(
    "{}:{}".format,
    st.sampled_from([*NAMES, "Transfer-Encoding", "X A", "", "X\t", " folded"]),
    st.sampled_from(VALUES) | st.text(st.characters(max_codepoint=255), max_size=5),
)
HEADS = st.builds(
    lambda method, target, version, lines, end: (
        f"{method} {target} HTTP/{version}{end}{''.join(line + end for line in lines)}{end}"
    ),
    st.sampled_from([*["GET", "POST", "PUT"] * 3, "HEAD", "get", "BREW"]),
    st.sampled_from([*["/", "/a?b=%20"] * 4, "*", "http://x/", "/\xe9", "/a b", ""]),
    st.sampled_from([*["1.1"] * 6, "1.0", "2.0", "1.10"]),
    st.lists(LINES, max_size=2).map(lambda lines: ["Host: x", *lines]),
    st.sampled_from([*["\r\n"] * 6, "\n", "\r"]),
)


def changed(data: bytes, where: int, byte: int | None) -> bytes:
    """`data` with one byte replaced, or without it."""
    where %= len(data)
    return data[:where] + (b"" if byte is None else bytes([byte])) + data[where + 1 :]


REQUESTS = HEADS.map(lambda head: head.encode("latin-1", "replace") + b"abcdef")
REQUESTS |= st.builds(changed, REQUESTS, st.integers(0, 200), st.none() | st.integers(0, 255))


def expect_same(request: PlainRequest, data: bytes) -> None:
    """h11 takes `data` for the same request, with a body of the same length."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    head = connection.next_event()
    assert isinstance(head, h11.Request)
    assert (head.method, head.target) == (request.method, request.target)
    if request.length is None:
        assert connection.states[h11.SERVER] is h11.SEND_RESPONSE
        assert (b"transfer-encoding", b"chunked") in list(head.headers)
        return
    assert list(head.headers) == list(request.headers.items())
    assert head.http_version == b"1.1"
    assert not connection.they_are_waiting_for_100_continue
    assert connection.states[h11.SERVER] is h11.SEND_RESPONSE  # no other protocol is asked for
    connection.receive_data(b"x" * min(request.length, 1000))
    came = 0
    while isinstance(part := connection.next_event(), h11.Data):
        came += len(part.data)
    if request.length <= 1000:
        assert isinstance(part, h11.EndOfMessage)
        assert came == request.length
        connection.send(h11.Response(status_code=204, headers=[]))
        connection.send(h11.EndOfMessage())
        assert connection.states[h11.SERVER] is h11.DONE  # neither does it close


@given(data=REQUESTS)
def test_plain_request_is_the_same_to_h11(data: bytes) -> None:
    request = plain_request(data, MOST)
    event(f"plain: {request is not None}")
    if request is not None:
        assert data.endswith(request.rest)
        expect_same(request, data)


PLAIN = "POST /a?b=c HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n{}\r\n"


@pytest.mark.parametrize("line", ["", "X-A: b\r\n", "Connection: Keep-Alive\r\n", "x-a:\r\n"])
def test_usual_request_is_plain(line: str) -> None:
    data = PLAIN.format(line).encode() + b"abcGET /next"
    request = plain_request(data, MOST)
    assert request is not None
    assert (request.length, request.rest) == (3, b"abcGET /next")
    expect_same(request, data)


UNUSUAL = [
    "Transfer-Encoding: chunked",
    "Expect: 100-continue",
    "Upgrade: h2c",
    "Connection: close",
    "Connection: keep-alive, close",
    "Content-Length: 3",
    "host: x",
    "Authorization: a\r\nAuthorization: b",
    "X-A : b",
    "X-A: b\r\n folded",
    "X-A: b\x00",
    "X-A: b\rX-B: c",
    "X-A: b\nX-B: c",
    "X-A: \xe9",
    ": b",
    "nonsense",
]


@pytest.mark.parametrize("line", UNUSUAL)
def test_unusual_request_is_left_to_h11(line: str) -> None:
    assert plain_request(PLAIN.format(line + "\r\n").encode("latin-1"), MOST) is None


@pytest.mark.parametrize(
    "head",
    [
        "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: x\r\n\r\n",
        "GET * HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nX-A: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\n",
        "GET / HTTP/1.1\nHost: x\n\n",
        "\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\n",
        "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 1\r\n\r\n",
        "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\r\n",
        f"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: {'9' * 19}\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: x\r\nX-A: {'a' * MOST}\r\n\r\n",
    ],
)
def test_other_head_is_left_to_h11(head: str) -> None:
    assert plain_request(head.encode(), MOST) is None


# Chunked bodies, of calls by gRPC.

CHUNKED = "POST /a HTTP/1.1\r\nHost: x\r\nContent-Type: application/grpc\r\n{}\r\n"


def test_call_in_chunks_is_plain_and_everything_else_in_chunks_is_not() -> None:
    data = CHUNKED.format("Transfer-Encoding: chunked\r\n").encode()
    request = plain_request(data + b"0\r\n\r\n", MOST)
    assert request is not None
    assert (request.length, request.rest) == (None, b"0\r\n\r\n")
    for line in "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: x":
        assert plain_request(CHUNKED.format(line + "\r\n").encode(), MOST) is None
    both = "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n"
    assert plain_request(CHUNKED.format(both).encode(), MOST) is None


CHUNK = st.binary(max_size=20).map(lambda each: b"%x\r\n%s\r\n" % (len(each), each))
LAST = st.sampled_from(
    [b"0\r\n\r\n", b"00;a=b\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"0\r\nX: y\n\r\n", b""]
)
BODIES = st.builds(lambda chunks, last: b"".join(chunks) + last, st.lists(CHUNK), LAST)
BODIES |= st.builds(changed, BODIES.filter(bool), st.integers(0, 60), st.integers(0, 255))


def by_h11(data: bytes) -> tuple[bytes, bytes | None] | None:
    """The body in `data`, and what is behind it if it has ended; None if h11 refuses it."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(CHUNKED.format("Transfer-Encoding: chunked\r\n").encode() + data)
    connection.next_event()
    body = b""
    try:
        while isinstance(part := connection.next_event(), h11.Data):
            body += part.data
    except h11.RemoteProtocolError:
        return None
    if not isinstance(part, h11.EndOfMessage):
        return body, None
    return body, connection.trailing_data[0]


@given(data=BODIES, cuts=st.lists(st.integers(0, 100), max_size=4))
def test_chunked_body_is_what_h11_takes_it_for_in_any_pieces(data: bytes, cuts: list[int]) -> None:
    expected = by_h11(data)
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    chunks, body = ChunkedBody(b""), b""
    try:
        for start, end in pairwise(places):
            chunks.rest += data[start:end]
            body += chunks.decode()
    except ValueError:
        return  # it may refuse more than h11 does
    event(f"ended: {chunks.ended}")
    if chunks.ended and expected is not None:
        assert expected == (body, chunks.rest)
    elif expected is not None:
        assert expected[1] is None
        assert body == expected[0]
    else:
        assert not chunks.ended
