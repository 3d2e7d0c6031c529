"""Key-value entries: kept in order, replaced as a whole, opaque."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.support.stored import value_of

from .examples import (
    FRAMINGS,
    MAX_KEYVALUE,
    STORE_PATH,
    all_at_once,
    entries_of,
    every_front,
    expect_entries,
    expect_error,
    expect_no_entries,
    framed,
    kv_path,
    new_body,
    new_cas_id,
    new_kv_id,
    new_value,
    store,
    stored,
    uploaded,
)
from .raw import AUTHORIZATION, HANDLES, RawConnection, chunked

framings = pytest.mark.parametrize("framing", FRAMINGS)
retrieving = pytest.mark.parametrize("method", ["GET", "PUT"])


# Retrieving.


@every_front
@retrieving
def test_entries_have_these_headers(client: httpx.Client, method: str) -> None:
    response = client.request(method, kv_path(stored(client, "YQ==", "Yg==")))
    assert response.status_code == 200
    assert response.content == b'{"entries":[{"value":"YQ=="},{"value":"Yg=="}]}'
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["Content-Length"] == str(len(response.content))
    assert not {"ETag", "Last-Modified", "Accept-Ranges"} & set(response.headers)


@every_front
@retrieving
def test_missing_entries(client: httpx.Client, method: str) -> None:
    kv_id = new_kv_id()
    response = client.request(method, kv_path(kv_id))
    expect_error(response, 404, f"No entries found for CAS ID {kv_id}.")


@pytest.mark.parametrize(
    ("headers", "body"),
    [([], b""), (["Content-Length: 0"], b""), (["Transfer-Encoding: chunked"], chunked())],
    ids=["no body", "empty body", "empty chunked body"],
)
def test_put_without_body_retrieves(
    raw: RawConnection, client: httpx.Client, headers: list[str], body: bytes
) -> None:
    kv_id = stored(client, "YQ==")
    target = f"PUT {kv_path(kv_id)}?{HANDLES}"
    assert raw.ask(target, AUTHORIZATION, *headers, body=body).json() == {
        "entries": entries_of("YQ==")
    }
    expect_entries(client, kv_id, "YQ==")  # and has changed nothing


# Storing.


@every_front
def test_answer_to_storing_is_empty(client: httpx.Client) -> None:
    response = store(client, new_kv_id(), new_value())
    assert response.status_code == 204
    assert response.content == b""
    assert "Content-Length" not in response.headers  # RFC 9110, section 8.6


@pytest.mark.parametrize(
    "values",
    [
        ["b", "a", "c"],
        ["same", "same", "same"],
        [str(number) for number in range(1000, 0, -1)],
        [new_value(100)],
        [new_value(50_000)],
        ['quotes " and \\ and / and </script>'],
        ["line\nfeed, tab\t, nul\0, delete\x7f"],
        ["é ß 漢字 😀 \u2028"],
        [" leading and trailing "],
    ],
    ids=["order", "equal", "many", "short", "long", "quotes", "control", "unicode", "spaces"],
)
def test_values_come_back_in_order_as_they_were(client: httpx.Client, values: list[str]) -> None:
    expect_entries(client, stored(client, *values), *values)


@every_front
def test_storing_again_replaces_all_entries(client: httpx.Client) -> None:
    kv_id = stored(client, "first", "second", "third")
    for number in range(20):
        value = f"{number}-{new_value()}"
        assert store(client, kv_id, value).status_code == 204
        expect_entries(client, kv_id, value)  # at once, for both ways to retrieve


@every_front
def test_one_of_many_stores_at_once_wins_whole(client: httpx.Client) -> None:
    kv_id = new_kv_id()
    values = [[f"{number}"] * (number + 1) for number in range(50)]
    answers = all_at_once(lambda number: store(client, kv_id, *values[number]), len(values))
    assert {answer.status_code for answer in answers} == {204}
    winner = [entry["value"] for entry in client.get(kv_path(kv_id)).json()["entries"]]
    assert winner in values
    expect_entries(client, kv_id, *winner)


# Refusing.


def body_with(**fields: Any) -> bytes:
    """A body that would be fine but for `fields`; None leaves one out."""
    whole = {"cas_id": new_kv_id(), "entries": entries_of("YQ==")} | fields
    return json.dumps(
        {name: value for name, value in whole.items() if value != "left out"}
    ).encode()


DEEP = b"[" * 30_000 + b"]" * 30_000

BAD_BODIES = {
    "empty": b"",
    "cut short": body_with()[:-1],
    "trailing bytes": body_with() + b"x",
    "two documents": body_with() * 2,
    "not JSON": b"cas_id=1&entries=2",
    "null": b"null",
    "a list": b"[]",
    "an empty object": b"{}",
    "no cas_id": body_with(cas_id="left out"),
    "cas_id is null": body_with(cas_id=None),
    "cas_id is a number": body_with(cas_id=1),
    "no entries": body_with(entries="left out"),
    "entries are an object": body_with(entries={"value": "a"}),
    "an entry is a string": body_with(entries=["a"]),
    "an entry is empty": body_with(entries=[{}]),
    "a value is null": body_with(entries=[{"value": None}]),
    "only the last value is bad": body_with(entries=[*entries_of("a", "b"), {"value": 1}]),
    "not UTF-8": body_with().replace(b"YQ==", b"\xff\xfe"),
    "UTF-16": body_with().decode().encode("utf-16"),
    "nested deeply": DEEP,
    "nested deeply, without end": b"[" * 60_000,
    "entries nested deeply": b'{"cas_id": "a", "entries": ' + DEEP + b"}",
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
def test_body_that_is_not_what_it_should_be(client: httpx.Client, body: bytes) -> None:
    expect_error(client.put(STORE_PATH, content=body), 400)


def test_no_values_are_stored_and_given_back(client: httpx.Client) -> None:
    kv_id = stored(client, "before")
    assert client.put(STORE_PATH, json={"cas_id": kv_id, "entries": []}).status_code == 204
    expect_entries(client, kv_id)


def body_of_size(kv_id: str, size: int) -> bytes:
    """A body of so many bytes that stores one value."""
    whole = json.dumps({"cas_id": kv_id, "entries": entries_of("")})
    return whole.replace('""', f'"{"a" * (size - len(whole))}"').encode()


@framings
def test_body_of_just_the_limit_is_stored(client: httpx.Client, framing: str) -> None:
    kv_id = new_kv_id()
    body = body_of_size(kv_id, MAX_KEYVALUE)
    assert client.put(STORE_PATH, content=framed(body, framing)).status_code == 204
    assert client.get(kv_path(kv_id)).json() == {"entries": json.loads(body)["entries"]}


@every_front
@framings
@pytest.mark.parametrize("excess", [1, 1_000_000])
def test_body_over_the_limit_is_refused(client: httpx.Client, framing: str, excess: int) -> None:
    kv_id = new_kv_id()
    body = body_of_size(kv_id, MAX_KEYVALUE + excess)
    expect_error(client.put(STORE_PATH, content=framed(body, framing)), 413)
    expect_no_entries(client, kv_id)


# Entries without their artifacts, which would break a build; what refers to what is in the tests of
# `storage/references.py` and `storage/entries.py`.


@every_front
@pytest.mark.parametrize(
    "form",
    [str.upper, str.lower, value_of, lambda cas_id: value_of(cas_id.lower())],
    ids=["id", "id in lower case", "protobuf", "protobuf in lower case"],
)
@pytest.mark.parametrize("spelled", [str.upper, str.lower])
def test_entry_is_stored_once_its_artifact_is(
    client: httpx.Client, form: Callable[[str], str], spelled: Callable[[str], str]
) -> None:
    cas_id, kv_id, value = new_cas_id(), stored(client, "before"), new_value()
    refused = store(client, kv_id, value, form(cas_id))
    expect_error(refused, 409, f"Artifact {cas_id} does not exist")
    expect_entries(client, kv_id, "before")
    uploaded(client, new_body(), cas_id=spelled(cas_id))
    assert store(client, kv_id, value, form(cas_id)).status_code == 204
    expect_entries(client, kv_id, value, form(cas_id))
