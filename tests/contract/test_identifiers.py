"""Ids and handles: what may be named, and that nothing else can be.

That the case of ids matters, and that of handles does not, is in `tests/storage/test_layout.py` and
`tests/system/test_nginx.py`.
"""

import re
import string
from collections.abc import Callable

import httpx
import pytest

from tests.http.test_parameters import NAMING, REFUSED

from .examples import (
    STORE_PATH,
    bearer,
    behind_nginx,
    both_nginx,
    cas_path,
    entries_of,
    expect_entries,
    expect_error,
    expect_stored,
    handles,
    kv_path,
    new_body,
    new_cas_id,
    store,
    stored,
    upload,
    uploaded,
)
from .facts import PROJECT, TOKEN
from .raw import AUTHORIZATION, HANDLES, RawConnection, RawResponse

ID_CHARACTERS = string.ascii_letters + string.digits + "_~=+-"


# Ids.


@pytest.mark.parametrize(
    "entry_id",
    ["z", "zz", "zzz", "zzzz", "z" * 200, ID_CHARACTERS, "-", "+", "~", "=", "_", "0~==", "--help"],
    ids=lambda entry_id: entry_id if len(entry_id) < 10 else f"{len(entry_id)} characters",
)
def test_id_may_be_this(client: httpx.Client, entry_id: str) -> None:
    assert upload(client, entry_id, entry_id.encode()).status_code == 204
    expect_stored(client, entry_id, entry_id.encode())
    assert store(client, entry_id, "YQ==").status_code == 204
    expect_entries(client, entry_id, "YQ==")


def encoded(text: str) -> str:
    """`text` with every character percent-encoded."""
    return "".join(f"%{byte:02X}" for byte in text.encode())


@pytest.mark.parametrize(
    "encode",
    [
        lambda kv_id: kv_id.replace("~", "%7E"),
        lambda kv_id: kv_id.replace("~", "%7e"),
        lambda kv_id: kv_id.replace("=", "%3D"),
        lambda kv_id: kv_id.replace("~", "%7E").replace("=", "%3d"),
        encoded,
    ],
    ids=["tilde", "lower-case hex", "padding", "both", "all"],
)
@both_nginx
def test_key_value_id_may_be_percent_encoded(
    raw: RawConnection, client: httpx.Client, encode: Callable[[str], str]
) -> None:
    kv_id = stored(client, "YQ==")
    for method in ("GET", "PUT"):
        answer = raw.ask(f"{method} {kv_path(encode(kv_id))}?{HANDLES}", AUTHORIZATION)
        assert answer.json() == {"entries": entries_of("YQ==")}


@both_nginx
def test_artifact_id_may_be_percent_encoded_and_a_plus_is_a_plus(
    raw: RawConnection, client: httpx.Client
) -> None:
    plus = f"+{new_cas_id()}"
    target = f"POST {cas_path(encoded(plus))}?{HANDLES}"
    answer = raw.ask(target, AUTHORIZATION, "Content-Length: 3", body=b"abc")
    assert answer.status_code == 204
    expect_stored(client, plus, b"abc")
    for spelling in (plus, plus.replace("+", "%2B"), encoded(plus)):
        answer = raw.ask(f"GET {cas_path(spelling)}?{HANDLES}", AUTHORIZATION)
        assert answer.content == b"abc"
    expect_error(raw.ask(f"GET {cas_path('%20' + plus[1:])}?{HANDLES}", AUTHORIZATION), 400)


BAD_CHARACTERS = ["\0", "\t", "\n", "\r", " ", "\x7f", *"!\"#$%&'()*,.:;<>?@[\\]^`{|}", "é", "漢"]

BAD_IDS = {
    **{f"{character!a} inside": f"A{encoded(character)}B" for character in BAD_CHARACTERS},
    "nothing": "",
    "line feed at the end": f"{'A' * 64}%0A",
    "line feed at the start": f"%0A{'A' * 64}",
    "nul at the end": f"{'A' * 64}%00",
    "not UTF-8": "A%FFB",
    "overlong UTF-8": "A%C0%AEB",
    "201 characters": "A" * 201,
    "4,000 characters": "A" * 4_000,
    "three dots": "...",
    "hidden": ".tmp",
    "an ending": "A.json",
    "encoded twice": "A%252FB",
    "dots encoded twice": "%252e%252e%252fA",
}

A_BAD_ID = r"id ['\"]"
"""Its name and its beginning, as messages have them; the word `invalid` is not enough."""

CALLS = {
    "get artifact": ("GET", cas_path("{}")),
    "head artifact": ("HEAD", cas_path("{}")),
    "upload": ("POST", cas_path("{}")),
    "get entries": ("GET", kv_path("{}")),
    "put to retrieve": ("PUT", kv_path("{}")),
    "store": ("PUT", STORE_PATH),
}
"""Method and path of each call; an id goes into it, unless it is in the body."""


def ask(raw: RawConnection, method: str, path: str, query: str = HANDLES) -> RawResponse:
    """The answer to a call that has a body of one byte."""
    return raw.ask(f"{method} {path}?{query}", AUTHORIZATION, "Content-Length: 1", body=b"a")


@pytest.mark.parametrize("path", [cas_path, kv_path], ids=["artifact", "entries"])
@pytest.mark.parametrize("bad", BAD_IDS.values(), ids=BAD_IDS)
@both_nginx
def test_id_may_not_be_this(
    raw: RawConnection, front: str, path: Callable[[str], str], bad: str
) -> None:
    answer = ask(raw, "GET", path(bad))
    if behind_nginx(front) and "%00" in bad:  # nginx refuses it before it looks for a location
        expect_error(answer, 400, "Bad request")
    else:
        assert re.search(A_BAD_ID, expect_error(answer, 400))


@pytest.mark.parametrize(
    "bad",
    ["", "A" * 64 + "\n", "A\0B", "A" * 201, "A.B", "../../../outside", "%41", "\uff21"],
    ids=ascii,
)
def test_id_in_a_body_may_not_be_this(client: httpx.Client, bad: str) -> None:
    assert "cas_id" in expect_error(store(client, bad, "YQ=="), 400)


A, P = (f"{name}={value}" for name, value in handles(PROJECT).items())


@pytest.mark.parametrize(("method", "path"), CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(
    ("entry_id", "query", "word"),
    [
        ("A.B", HANDLES, A_BAD_ID),
        ("A" * 201, HANDLES, A_BAD_ID),
        ("A", P, "account_handle"),
        ("A", f"{A}&{P}&project_handle=Other-App", "project_handle"),
        ("A", f"{A}&project_Handle=App", "project_handle"),
        ("A", f"account_handle=A.B&{P}", "account_handle"),
        ("A", f"{A}&project_handle=A.B", "project_handle"),
    ],
)
def test_every_call_is_refused_for_what_it_names(
    raw: RawConnection, method: str, path: str, entry_id: str, query: str, word: str
) -> None:
    if path == STORE_PATH and query == HANDLES:
        word = "body"  # where its id is, and which is none here
    message = expect_error(ask(raw, method, path.format(entry_id), query), 400)
    assert re.search(word, message) or method == "HEAD"


# Handles.


@pytest.mark.parametrize(("query", "message"), REFUSED)
def test_handles_have_to_be_given_once_each(raw: RawConnection, query: bytes, message: str) -> None:
    answer = ask(raw, "GET", cas_path("A"), query.decode("latin-1"))
    if query.isascii() and b" " not in query:
        assert re.match(message, expect_error(answer, 400))
    else:
        expect_error(answer, 400)  # not even a target


@pytest.mark.parametrize(
    "project", ["a/b", f"{'a' * 100}/{'B' * 100}", "_/-", "--/__", "0/1", "Api/Cache", "CON/nul"]
)
def test_handles_may_be_this(
    client: httpx.Client, new_token: Callable[..., str], project: str
) -> None:
    headers, params = bearer(new_token(project)), handles(project)
    cas_id, body = new_cas_id(), new_body()
    assert upload(client, cas_id, body, headers=headers, params=params).status_code == 204
    assert client.get(cas_path(cas_id), headers=headers, params=params).content == body


@pytest.mark.parametrize("query", [query for query in NAMING if query.isascii()])
def test_query_may_be_this(stranger: httpx.Client, client: httpx.Client, query: bytes) -> None:
    path = cas_path(uploaded(client, b"abc"))
    response = stranger.get(f"{path}?{query.decode()}", headers=bearer(TOKEN))
    assert response.content == b"abc"
