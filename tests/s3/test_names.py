"""Names of objects."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_actors.kinds import Kind
from cache_actors.s3.names import key_of, object_name
from cache_actors.storage.layout import Key, Project

HANDLES = st.from_regex(r"[a-z0-9_-]{1,100}", fullmatch=True)
KEYS = st.sampled_from(Kind).flatmap(
    lambda kind: st.builds(
        Key,
        st.builds(Project, HANDLES, HANDLES),
        st.just(kind),
        st.from_regex(kind.ids.pattern, fullmatch=True),
    )
)


@given(KEYS, st.sampled_from(["", "cache", "a/b.c"]))
def test_name_says_which_key_it_is_and_fits(key: Key, prefix: str) -> None:
    name = object_name(prefix, key)
    assert key_of(prefix, name) == key
    assert key_of("other", name) is None
    assert len(name.encode()) + 200 <= 1024  # the most that S3 allows, with the longest prefix


def test_name_has_the_form_that_the_documentation_says() -> None:
    key = Key(Project("acme", "app"), Kind.KEYVALUE, "0~a2V5")
    assert object_name("cache", key) == "cache/1/acme/app/keyvalue/0~a2V5.json"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "1",
        "1/acme/app/cas",
        "1/acme/app/cas/a/b",
        "1/Acme/app/cas/abcd",
        "1/acme/app/other/abcd",
        "1/acme/app/keyvalue/0~a2V5",
        "1/acme/app/cas/a b",
        "1/.cleans/acme/app/abcd",
        "2/acme/app/cas/abcd",
    ],
)
def test_other_names_are_nobodys(name: str) -> None:
    assert key_of("", name) is None
