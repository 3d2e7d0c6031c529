"""Bodies, queries and headers made at random, in requests that are HTTP.

nginx and the service itself answer alike; what is stored is what is read.
"""

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.contract.examples import STORE_PATH, cas_path, kv_path
from tests.support.service import ID
from tests.support.tuist import HeldTuist
from tests.support.wire import QUERY, body_of, status_of
from tests.system.site import Site, running_site

from .test_requests import STATUSES

KV_ID = "0~a2V5"


@pytest.fixture(scope="module", params=["wheel", pytest.param("debian", marks=pytest.mark.nightly)])
def which(request: pytest.FixtureRequest) -> str:
    """The kind of nginx."""
    return str(request.param)


@pytest.fixture(scope="module")
def site(which: str) -> Iterator[Site]:
    """A site in which there are an artifact and an entry."""
    with HeldTuist({"token": ["acme/app"]}) as tuist, running_site(which, tuist) as site:
        site.upload(ID, b"bytes")
        assert site.put(KV_ID, "value").status_code == 204
        yield site


# Key-value bodies.

SCALARS: st.SearchStrategy[Any] = st.none() | st.booleans() | st.floats() | st.text(max_size=9)
SCALARS |= st.integers()
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
TEXTS = st.text(st.characters(codec=None), max_size=30) | st.sampled_from(
    ["\ud800", "a\udfff", "\0", "\U0001f600", "\ufeff", "x" * 100_000]
)
MEMBERS = st.tuples(
    st.sampled_from(['"entries"', '"cas_id"', '"value"', '"x"', '"entries" ', '"\\u0065ntries"']),
    DOCUMENTS.map(json.dumps)
    | st.just(json.dumps(KV_ID))
    | st.lists(st.fixed_dictionaries({"value": TEXTS | DOCUMENTS}), max_size=3).map(json.dumps),
)
"""Members of an object, as they are written; names may be repeated."""

VALID = st.lists(TEXTS, max_size=4).map(
    lambda values: {"cas_id": KV_ID, "entries": [{"value": value} for value in values]}
)
RAW_TEXT = st.one_of(
    VALID.map(json.dumps),
    VALID.map(lambda document: json.dumps(document, ensure_ascii=False)),
    DOCUMENTS.map(json.dumps),
    st.lists(MEMBERS, max_size=5).map(
        lambda members: f"{{{','.join(f'{name}:{value}' for name, value in members)}}}"
    ),
    st.builds(lambda mark, depth: mark * depth, st.sampled_from('[{"'), st.integers(1, 100_000)),
    st.builds(
        '{{"cas_id":"{}","entries":[{{"value":"v"}}],"x":{}}}'.format,
        st.just(KV_ID),
        st.sampled_from(
            ["1e999999", "-0", "1" * 4000, "NaN", "[" * 9999 + "]" * 9999, "1.e5", "01"]
        ),
    ),
)
BODIES = st.builds(
    lambda text, encoding, before, after: before + text.encode(*encoding) + after,
    RAW_TEXT,
    st.sampled_from([("utf-8", "surrogatepass")] * 5 + [("utf-16", "surrogatepass")])
    | st.just(("utf-32", "surrogatepass")),
    st.sampled_from([b"", b"", b"", b"\xef\xbb\xbf", b" \n", b"\0"]),
    st.sampled_from([b"", b"", b"", b" \n", b"{}", b"\xff", b"\0"]),
) | st.binary(max_size=60)


@given(body=BODIES)
def test_key_value_body_is_stored_as_it_reads_or_refused(site: Site, body: bytes) -> None:
    before = site.ask("GET", kv_path(KV_ID)).json()
    answers = [
        client.put(f"{STORE_PATH}?{QUERY}", content=body, headers={"Authorization": "Bearer token"})
        for client in (site.direct, site.client)
    ]
    assert answers[0].status_code == answers[1].status_code, body
    assert answers[0].content == answers[1].content
    status = answers[0].status_code
    assert status in {204, 400, 413}
    if status == 204:
        meant = json.loads(body)
        before = {"entries": [{"value": entry["value"]} for entry in meant["entries"]]}
        assert meant["cas_id"] == KV_ID
    else:
        assert list(answers[0].json()) == ["message"]
    for client in site.direct, site.client:
        read = client.get(kv_path(KV_ID), params=QUERY, headers={"Authorization": "Bearer token"})
        assert read.json() == before


# Queries and headers.

SAFE = bytes(range(0x21, 0x7F)).replace(b"#", b"")
NAMES = st.sampled_from([b"account_handle", b"project_handle"])
NAMES |= st.sampled_from([b"ACCOUNT_handle", b"project%5Fhandle", b"x", b"", b"account_handle[]"])
WORDS = st.sampled_from(
    [b"acme", b"app", b"ACME", b"other", b"%61cme", b"..", b"a/b", b"a%2Fb", b""]
)
WORDS |= st.sampled_from(
    [b"a%00", b"%", b"%ff", b"%C0%AF", b"+", b"\xc3\xbc", b"x" * 101, b"x" * 5000]
)
PARAMETERS = st.builds(
    lambda *of: b"".join(of), NAMES, st.sampled_from([b"=", b"=", b"", b"=="]), WORDS
)
QUERIES = st.builds(
    lambda parameters, by: by.join(parameters),
    st.lists(PARAMETERS | st.sampled_from(QUERY.encode().split(b"&")), max_size=5),
    st.sampled_from([b"&", b"&", b";", b"&&", b"%26"]),
) | st.builds(
    lambda tail: QUERY.encode() + tail,
    st.lists(st.sampled_from(SAFE), max_size=9).map(bytes)
    | st.sampled_from([b"&x=\xff", b"?", b"&a="]),
)
VALUES = st.lists(
    st.sampled_from(bytes([*range(0x20, 0x7F), 9, 0x80, 0xC3, 0xFF])), max_size=20
).map(bytes)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            [b"Authorization", b"X-Request-ID", b"Accept-Encoding", b"Cookie", b"X-Odd"]
        )
        | st.sampled_from(
            [b"Range", b"If-None-Match", b"If-Match", b"If-Modified-Since", b"If-Range"]
        )
        | st.sampled_from([b"X-Cache-Project", b"X-Cache-Error", b"X-Accel-Redirect"]),
        VALUES | st.sampled_from([b"Bearer token", b"bearer token", b"x" * 4000, b"*", b""]),
    ),
    max_size=3,
    unique_by=lambda header: header[0] if header[0].startswith(b"If-") else object(),
)
CALLS = st.sampled_from(
    [
        b"GET " + cas_path(ID).encode(),
        b"HEAD " + cas_path(ID).encode(),
        b"POST " + cas_path(ID).encode(),
        b"DELETE " + cas_path(ID).encode(),
        b"GET " + kv_path(KV_ID).encode(),
        b"PUT " + kv_path(KV_ID).encode(),
        b"PUT " + kv_path("0%7ea2V5").encode(),
        b"GET /api/cache/cas/" + b"A" * 201,
        b"GET /api/cache/cas/%41%0a",
        b"PUT /api/cache/keyvalue",
        b"GET /up",
    ]
)


@given(call=CALLS, query=QUERIES, headers=HEADERS, authorized=st.booleans())
def test_nginx_and_service_answer_alike(
    site: Site, call: bytes, query: bytes, headers: list[tuple[bytes, bytes]], authorized: bool
) -> None:
    body = b"bytes" if call.startswith(b"POST") else b""
    lines = [b"%b?%b HTTP/1.1" % (call, query), b"Host: cache", b"Connection: close"]
    lines += [b"Content-Length: %d" % len(body)] * bool(body)
    lines += [b"Authorization: Bearer token"] * authorized
    lines += [b"%b: %b" % header for header in headers]
    sent = b"\r\n".join([*lines, b"", body])
    through, direct = (answer_of(connection, sent) for connection in connections(site))
    assert status_of(through) == status_of(direct), (sent, through, direct)
    assert status_of(direct) in STATUSES
    if status_of(direct) >= 400 and not call.startswith(b"HEAD"):
        assert list(json.loads(body_of(through))) == ["message"], through
        assert list(json.loads(body_of(direct))) == ["message"], direct


def connections(site: Site) -> Iterator[socket.socket]:
    """A connection to nginx, and one to the service itself."""
    with socket.create_connection(("127.0.0.1", site.nginx.port), 60) as connection:
        yield connection
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(site.service.environment["SOCKET_PATH"])
        yield connection


def answer_of(connection: socket.socket, sent: bytes) -> bytes:
    """The whole of an answer, after which the connection is closed."""
    connection.sendall(sent)
    received = b""
    while piece := connection.recv(65_536):
        received += piece
    return received
