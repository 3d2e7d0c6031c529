"""Which artifacts an entry refers to: known forms are understood, all others refer to nothing."""

import base64
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_actors.http.routes.keyvalue import Value, Values
from cache_actors.kinds import ACTION_MARK, Kind
from cache_actors.storage.actions import EMPTY_BLOB, BlobReference, packed_action, packed_size
from cache_actors.storage.references import (
    Foreign,
    artifact_target,
    blob_target,
    checked_targets,
    references,
    references_in,
    spellings,
    targets_in,
)
from tests.support.stored import artifact_id, body_of, value_of

A, B, C = map(artifact_id, range(3))
NONE: frozenset[str] = frozenset()

ids = st.lists(st.binary(min_size=32, max_size=32).map(lambda digest: digest.hex().upper()))


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def field(artifact: str) -> bytes:
    """An id as a protobuf has it."""
    return b"\x12\x40" + artifact.encode()


# The two forms.


def test_all_ids_of_all_values_are_found() -> None:
    assert references([value_of(A, B), "something else", C]) == {A, B, C}
    assert references([value_of(A, A), value_of(A)]) == {A}
    assert references([encoded(field(A) + field(B))]) == {A, B}


@pytest.mark.parametrize("value", [A.lower(), value_of(A.lower()), A.title(), value_of(A.title())])
def test_ids_are_compared_without_case(value: str) -> None:
    assert references([value]) == {A}


@given(ids)
def test_what_is_put_into_values_is_found_in_them(wanted: list[str]) -> None:
    assert references([value_of(*wanted)]) == set(wanted)
    assert references(wanted) == set(wanted)
    assert references_in(body_of(value_of(*wanted), *wanted)) == set(wanted)


@given(st.binary(), ids, st.binary(), st.booleans(), st.booleans())
def test_ids_are_found_between_any_bytes_in_every_dialect_of_base64(
    before: bytes, wanted: list[str], after: bytes, is_url_safe: bool, is_padded: bool
) -> None:
    # A field's tag in the bytes before could swallow what follows it, so those have none.
    content = before.replace(b"\x12", b"") + b"".join(map(field, wanted)) + after
    encode = base64.urlsafe_b64encode if is_url_safe else base64.b64encode
    value = encode(content).decode()
    assert references([value if is_padded else value.rstrip("=")]) >= set(wanted)


@pytest.mark.parametrize("filler", [b"\xfb\xef\xbe", b"\xff\xff\xff"])
def test_url_safe_characters_are_those_they_stand_for(filler: bytes) -> None:
    value = base64.urlsafe_b64encode(filler + field(A)).decode()
    assert set("-_") & set(value)
    assert references([value]) == {A}


# What refers to nothing.


@pytest.mark.parametrize(
    "value",
    [
        "",
        "=",
        "====",
        "A",
        "*",
        "no base64 at all!",
        "é",
        "\ud800",
        "\0",
        A[:-1],
        A + "0",
        A + "\n",
        " " + A,
        "G" + A[1:],
        "\N{FULLWIDTH DIGIT ONE}" + A[1:],
        encoded(A.encode()),
        encoded(b"\x12\x40" + A[:-1].encode()),
        encoded(b"\x12\x40" + A[:-1].encode() + b"G"),
        encoded(b"\x12\x41" + A.encode()),
        encoded(b"\x0a\x40" + A.encode()),
        encoded(b"\x12\x40" + b"\xff" * 64),
    ],
)
def test_value_of_another_form_refers_to_nothing(value: str) -> None:
    assert references([value]) == NONE


def test_value_of_another_form_does_not_hide_the_others() -> None:
    assert references(["A", "é", A, "*"]) == {A}


def test_tag_without_an_id_does_not_hide_the_next() -> None:
    assert references([encoded(b"\x12\x40\x12\x40" + A.encode() + b"\x12\x40")]) == {A}


@given(st.lists(st.text()), st.binary())
def test_nothing_that_is_stored_is_an_error(values: list[str], body: bytes) -> None:
    assert isinstance(references(values), frozenset)
    assert isinstance(references_in(body), frozenset)


# Stored entries.


def test_body_refers_to_what_its_values_refer_to() -> None:
    assert references_in(body_of(value_of(A), "else", B.lower())) == {A, B}
    spaced = json.dumps({"more": 1, "entries": [{"value": A, "more": 2}]}, indent=4)
    assert references_in(spaced.encode()) == {A}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"1",
        b"[]",
        b"{}",
        b'"entries"',
        b'["entries"]',
        b'{"entries": null}',
        b'{"entries": 1}',
        b'{"entries": {}}',
        b'{"entries": "value"}',
        b'{"entries": [1]}',
        b'{"entries": [null]}',
        b'{"entries": [{}]}',
        b'{"entries": [{"value": 1}]}',
        b'{"entries": [{"value": null}]}',
        b'{"entries": [{"value": "' + A.encode(),
        b"\xff\xfe\x00",
        b"\xef\xbb\xbf{}",
        b"[" * 100_000,
        b'{"entries": [{"value": "\\ud800"}]}',
        b'{"entries": ' + b"9" * 5000 + b"}",
    ],
    ids=range(22),
)
def test_body_that_is_no_entry_refers_to_nothing(body: bytes) -> None:
    assert references_in(body) == NONE


def test_value_of_the_largest_size_is_looked_through() -> None:
    """A search whose steps grow with the square of the size would not come to an end here."""
    wanted = [artifact_id(number) for number in range(10_000)]
    for filler in (b"\x12\x40", b"0", b"\x12\x40" + b"0" * 63):
        found = references([encoded(filler * (1_000_000 // len(filler)))])
        assert found == NONE
    assert references([value_of(*wanted)]) == set(wanted)


# Names on disk.


def test_artifact_may_lie_under_either_case() -> None:
    assert set(spellings(A)) == set(spellings(A.lower())) == {A, A.lower()}


# What is written here, and what is not.


@given(st.lists(st.text()))
def test_entry_as_it_is_written_is_one(values: list[str]) -> None:
    written = msgspec.json.encode(Values([Value(value) for value in values]))
    found = checked_targets(Kind.KEYVALUE, written)
    assert found == targets_in(written) == frozenset(map(artifact_target, references(values)))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"entries":{}}',
        b'{"entries":[1]}',
        b'{"entries":[{}]}',
        b'{"entries":[{"value":1}]}',
        b'{"entries":[{"value":"a"}],"entries":[]}',
        b'{"entries":[],"more":1}',
        b'{"entries":[{"value":"a","more":1}]}',
        b'{"entries": []}',
        b'{"entries":[{"value":"\\u0061"}]}',
        b'{"entries":[{"value":"\\ud800"}]}',
        b'{"entries":[{"value":"\xff"}]}',
        '{"entries":[]}'.encode("utf-16"),
        pytest.param(b'{"entries":' + b"[" * 100_000 + b"]" * 100_000 + b"}", id="deep"),
        packed_action([], b"result"),
    ],
)
def test_what_is_written_otherwise_is_no_entry(content: bytes) -> None:
    with pytest.raises(Foreign):
        checked_targets(Kind.KEYVALUE, content)


BLOBS = [BlobReference("0" * 64, 1), BlobReference("1" * 64, 2)]
FIRST, SECOND = (blob.packed() for blob in BLOBS)
ACTION = packed_action([FIRST, SECOND], b"")
HEAD = ACTION[: packed_size(0, 0)]


def test_action_as_it_is_written_is_one() -> None:
    written = packed_action([SECOND, FIRST], b"result")
    assert checked_targets(Kind.ACTION, written) == frozenset(map(blob_target, BLOBS))
    assert len(written) == packed_size(len(BLOBS), len(b"result"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        ACTION_MARK,
        ACTION[:-1],
        HEAD + SECOND + FIRST,
        HEAD + FIRST + FIRST,
        HEAD + FIRST + EMPTY_BLOB.packed(),
        body_of("dg=="),
    ],
)
def test_what_is_written_otherwise_is_no_action(content: bytes) -> None:
    with pytest.raises(Foreign):
        checked_targets(Kind.ACTION, content)
