"""Where entries live, and what may name them."""

import os.path
import string
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cache_actors.kinds import Kind
from cache_actors.storage.layout import (
    TEMPORARY,
    InvalidIdentifier,
    Key,
    Project,
    key_at,
    parse_id,
    parse_project,
)

STORAGE = Path("/cas")
HANDLE_CHARACTERS = string.ascii_letters + string.digits + "_-"
ID_CHARACTERS = HANDLE_CHARACTERS + "~=+"

anything = st.text(st.characters(exclude_categories=()), max_size=300)
nasty = st.text("./\\%\0\n~=+-_ aA0", max_size=8) | st.sampled_from(["..", ".", "../..", TEMPORARY])
# Few characters and short, so that two of a kind are often nearly the same.
similar_handles = st.text("aAb-_", min_size=1, max_size=3)
similar_ids = st.text("aA_~j", min_size=1, max_size=6) | st.sampled_from(["cas", "json", "a-json"])
handles = st.text(HANDLE_CHARACTERS, min_size=1, max_size=100)
ids = st.text(ID_CHARACTERS, min_size=1, max_size=200)
kinds = st.sampled_from([Kind.CAS, Kind.KEYVALUE, Kind.GRADLE])


def entry_of(account: str, project: str, kind: Kind, entry_id: str) -> Key:
    return Key(parse_project(account, project), kind, parse_id(kind, "id", entry_id))


def is_made_of(value: str, characters: str, most: int) -> bool:
    return 1 <= len(value) <= most and set(value) <= set(characters)


def swap_case_of_some(value: str) -> str:
    return "".join(c.swapcase() if i % 2 else c for i, c in enumerate(value))


# Paths.


@pytest.mark.parametrize(
    ("kind", "entry_id", "path"),
    [
        (Kind.CAS, "0123ABCD", "/cas/acme/app/cas/23/0123ABCD"),
        (Kind.KEYVALUE, "0~Yj-w==", "/cas/acme/app/keyvalue/Yj/0~Yj-w==.json"),
        (Kind.CAS, "ABC", "/cas/acme/app/cas/_/ABC"),
        (Kind.CAS, "ABCD", "/cas/acme/app/cas/CD/ABCD"),
        (Kind.KEYVALUE, "a", "/cas/acme/app/keyvalue/_/a.json"),
    ],
)
def test_entry_lives_in_the_shard_of_its_kind_in_its_project(
    kind: Kind, entry_id: str, path: str
) -> None:
    assert entry_of("Acme", "APP", kind, entry_id).path(STORAGE) == Path(path)


@given(handles | nasty | anything, handles | nasty | anything, kinds, ids | nasty | anything)
def test_no_input_leads_outside_its_projects_folder(
    account: str, project: str, kind: Kind, entry_id: str
) -> None:
    try:
        path = entry_of(account, project, kind, entry_id).path(STORAGE)
    except InvalidIdentifier:
        return
    folder = STORAGE / account.lower() / project.lower()
    assert os.path.normpath(path) == str(path)
    assert path.is_relative_to(folder)
    assert len(path.relative_to(folder).parts) == 3
    assert len(folder.relative_to(STORAGE).parts) == 2
    assert TEMPORARY not in path.parts
    assert all(len(part) <= 255 for part in path.parts)  # names that file systems take


@given(*[st.tuples(similar_handles, similar_handles, kinds, similar_ids)] * 2)
def test_different_entries_never_share_a_file(
    one: tuple[str, str, Kind, str], other: tuple[str, str, Kind, str]
) -> None:
    paths = [entry_of(*names).path(STORAGE) for names in (one, other)]
    keys = [(a.lower(), p.lower(), kind, entry_id) for a, p, kind, entry_id in (one, other)]
    assert (paths[0] == paths[1]) == (keys[0] == keys[1])
    assert paths[0] not in paths[1].parents
    assert paths[1] not in paths[0].parents


@given(handles, handles)
def test_handles_are_compared_without_case(account: str, project: str) -> None:
    other = parse_project(swap_case_of_some(account), swap_case_of_some(project))
    assert parse_project(account, project) == other
    assert str(other) == f"{account}/{project}".lower()


# What may be named.

BEYOND_ASCII = {
    "a letter": "caf\u00e9",
    "a digit": "\u0661",
    "a full-width A": "\uff21",
    "a dotless i": "\u0131",
    "the Kelvin sign, whose lower case is k": "\u212a",
    "a lone surrogate": "\udcff",
    "a space of no width": "a\u200b",
}
SAMPLES = [
    *("", "a\n", "\na", "a b", " a", ".", "..", "a.b", "a/b", "/a", "a\\b", "a%2Fb", "a\0"),
    *BEYOND_ASCII.values(),
    *("a", "Z", "0", "_", "-", "aZ09_-", "~", "=", "+", "a~", "a=", "a+"),
    *("a" * size + end for size in (100, 101, 200, 201) for end in ("", "\n")),
]


def expect_what_the_contract_says(value: str, kind: Kind) -> None:
    if is_made_of(value, ID_CHARACTERS, 200):
        assert parse_id(kind, "id", value) == value
    else:
        with pytest.raises(InvalidIdentifier):
            parse_id(kind, "id", value)
    if is_made_of(value, HANDLE_CHARACTERS, 100):
        assert parse_project(value, "app") == Project(value.lower(), "app")
        assert parse_project("acme", value) == Project("acme", value.lower())
    else:
        with pytest.raises(InvalidIdentifier, match=r"^account_handle "):
            parse_project(value, "app")
        with pytest.raises(InvalidIdentifier, match=r"^project_handle "):
            parse_project("acme", value)


@pytest.mark.parametrize("value", [*SAMPLES, TEMPORARY], ids=ascii)
@pytest.mark.parametrize("kind", [Kind.CAS, Kind.KEYVALUE])
def test_ids_and_handles_are_what_the_contract_says(value: str, kind: Kind) -> None:
    expect_what_the_contract_says(value, kind)


@given(handles | ids | nasty | anything, st.sampled_from([Kind.CAS, Kind.KEYVALUE]))
def test_ids_and_handles_are_exactly_what_the_contract_says(value: str, kind: Kind) -> None:
    expect_what_the_contract_says(value, kind)


# What an error says.


def refusal_of(value: str) -> str:
    with pytest.raises(InvalidIdentifier) as refused:
        parse_id(Kind.KEYVALUE, "cas_id", value)
    return str(refused.value)


def test_error_names_the_value_and_what_is_allowed() -> None:
    message = refusal_of("a/b")
    assert message.startswith("cas_id 'a/b' ")
    assert "1 to 200 characters" in message
    assert "A-Z a-z 0-9 _ ~ = + -" in message
    of_a_handle = r"^project_handle 'a/b' .*1 to 100 characters of A-Z a-z 0-9 _ -; .*renamed"
    with pytest.raises(InvalidIdentifier, match=of_a_handle):
        parse_project("acme", "a/b")


@given(nasty | anything)
@example("x" * 100_000)
def test_error_is_printable_ascii_whatever_was_given(value: str) -> None:
    value += "/"
    message = refusal_of(value)
    assert message.isascii()
    assert message.isprintable()
    assert len(message) <= 60 * len(r"\U0001F600") + 100
    assert len(value) > 60 or ascii(value) in message


# What a file is called for.


@given(handles, handles, kinds, ids)
def test_file_is_of_the_entry_that_it_was_made_for(
    account: str, project: str, kind: Kind, entry_id: str
) -> None:
    entry = entry_of(account, project, kind, entry_id)
    assert key_at(entry.path(STORAGE).relative_to(STORAGE).parts) == entry


any_part = (
    handles
    | similar_handles
    | ids
    | similar_ids
    | similar_ids.map(lambda entry_id: entry_id + ".json")
    | nasty
    | anything
    | st.sampled_from([*(kind.folder for kind in Kind), "_", TEMPORARY])
)


@given(st.lists(any_part, max_size=7).map(tuple))
def test_only_a_path_that_an_entry_would_have_is_of_one(parts: tuple[str, ...]) -> None:
    key = key_at(parts)
    if key is not None:
        assert key.path(STORAGE) == STORAGE.joinpath(*parts)
        assert key == entry_of(key.project.account, key.project.name, key.kind, key.id)


@given(similar_handles.map(str.lower), kinds, similar_ids, st.integers(0, 4), any_part)
def test_path_in_which_one_part_is_another_is_of_another_entry_or_none(
    handle: str, kind: Kind, entry_id: str, position: int, part: str
) -> None:
    entry = entry_of(handle, handle, kind, entry_id)
    parts = list(entry.path(STORAGE).relative_to(STORAGE).parts)
    changed = parts[position] != part
    parts[position] = part
    found = key_at(tuple(parts))
    assert (found != entry) == changed
    if found is not None:
        assert found.path(STORAGE) == STORAGE.joinpath(*parts)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "acme/app/cas/AB",
        "acme/app/cas/AB/01AB/x",
        "acme/app/cas/AB/01ab",
        "acme/app/cas/AB/01AB.json",
        "acme/app/keyvalue/AB/01AB",
        "acme/app/keyvalue/AB/.json",
        "acme/app/keyvalue/AB/01AB.json.json",
        "acme/app/other/AB/01AB",
        "acme/app/CAS/AB/01AB",
        "Acme/app/cas/AB/01AB",
        "acme/App/cas/AB/01AB",
        ".tmp/app/cas/AB/01AB",
        ".quarantine/app/cas/AB/01AB",
        "acme/app/cas/AB/01AB.0123abcd",
    ],
)
def test_path_of_anything_else_is_of_no_entry(path: str) -> None:
    assert key_at(Path(path).parts) is None
