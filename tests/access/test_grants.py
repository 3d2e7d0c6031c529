"""What is read out of Tuist's words on a token, whatever they are made of."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_actors.access.grants import (
    LEEWAY,
    Access,
    Action,
    TuistReply,
    handles,
    read_claims,
    read_grants,
    read_introspection,
    read_message,
    read_projects,
    seconds,
)

NOW = 1_800_000_000.0
APP, LIB = "acme/app", "acme/lib"

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["project", "account", "read", "write", "x"]), inner, max_size=3
        )
    ),
    max_leaves=12,
)
names = st.lists(st.sampled_from([APP, "Acme/App", LIB, "ACME/LIB", "", " ", "acme", "acme/"]))


def body(**answer: Any) -> bytes:
    return json.dumps(answer).encode()


# Grants.


@given(names, names)
def test_write_includes_read_and_handles_are_compared_without_case(
    read: list[str], write: list[str]
) -> None:
    word = read_grants({"project": {"read": read, "write": write}})
    for project in (APP, LIB):
        may_write = project in {name.lower() for name in write}
        may_read = may_write or project in {name.lower() for name in read}
        assert (word.verdict(project, Action.WRITE) is Access.GRANTED) == may_write
        assert (word.verdict(project, Action.READ) is Access.GRANTED) == may_read
    assert "" not in word.projects | word.read_only


@given(anything)
def test_what_has_another_form_grants_nothing_and_fails_nothing(grants: object) -> None:
    word = read_grants(grants)
    assert word.is_whole
    of_projects = grants.get("project") if isinstance(grants, dict) else None
    if not isinstance(of_projects, dict):
        assert word == TuistReply(Access.GRANTED)


@pytest.mark.parametrize(
    "grants",
    [
        {},
        [],
        7,
        "acme/app",
        True,
        [APP],
        {"project": [APP]},
        {"project": APP},
        {"project": {"read": APP, "write": APP}},
        {"project": {"read": {APP: True}}},
        {"project": {"write": [[APP], {"full_name": APP}, 1, None]}},
        {"project": {"write": ["acme\u2215app", "\u212acme/app"]}},
        {"account": {"read": ["acme", APP], "write": ["acme", APP]}},
        {"projects": {"write": [APP]}},
        {"project": {"Write": [APP], "delete": [APP]}},
    ],
    ids=str,
)
def test_grants_that_grant_nothing(grants: object) -> None:
    word = read_grants(grants)
    for action in Action:
        assert word.verdict(APP, action) is Access.FORBIDDEN


def test_blank_handles_are_absent() -> None:
    assert handles(["", " ", "\t", " Acme/App "]) == {APP}


# Claims.


def claims(**others: Any) -> dict[str, Any]:
    return {"exp": NOW + 60, **others}


def test_grants_are_the_whole_answer() -> None:
    word = read_claims(claims(cache_grants={"project": {"read": [APP]}}, projects=[LIB]), NOW)
    assert word is not None
    assert word.is_whole
    assert word.verdict(LIB, Action.READ) is Access.FORBIDDEN
    assert word.lifetime == 60 + LEEWAY


@pytest.mark.parametrize("absent", [{}, {"cache_grants": None}])
def test_without_grants_what_is_listed_may_be_read_and_written(absent: dict[str, Any]) -> None:
    word = read_claims(claims(projects=["Acme/App", 1, None], **absent), NOW)
    assert word == TuistReply(
        Access.GRANTED, frozenset({APP}), is_whole=False, lifetime=60 + LEEWAY
    )


@pytest.mark.parametrize("listed", [APP, {APP: 1}, None, 7, [[APP]]], ids=str)
def test_list_of_another_form_lists_nothing(listed: object) -> None:
    word = read_claims(claims(projects=listed), NOW)
    assert word is not None
    assert (word.projects, word.is_whole) == (frozenset(), False)


@pytest.mark.parametrize(
    "end",
    [
        None,
        "1800000060",
        "",
        True,
        [NOW + 60],
        {},
        math.nan,
        math.inf,
        -math.inf,
        10**400,
        -1,
        0,
        -1e308,
        NOW - LEEWAY,
    ],
    ids=str,
)
def test_token_without_an_end_to_come_says_nothing(end: object) -> None:
    assert read_claims({"exp": end, "cache_grants": {"project": {"write": [APP]}}}, NOW) is None
    assert read_claims({"projects": [APP]}, NOW) is None


@pytest.mark.parametrize("end", [NOW, NOW + 0.5, NOW + 31_557_600_000, 1e308])
def test_end_to_come_bounds_what_a_token_says(end: float) -> None:
    word = read_claims({"exp": end, "projects": [APP]}, NOW)
    assert word is not None
    assert word.lifetime == end + LEEWAY - NOW > 0


@given(anything)
def test_a_time_is_a_finite_number_or_none(value: object) -> None:
    time = seconds(value)
    assert time is None or (math.isfinite(time) and time == value)


# Answers.


@given(st.binary(max_size=40) | anything.map(lambda value: json.dumps(value).encode()))
def test_whatever_a_server_answers_is_read_or_not(answer: bytes) -> None:
    for reply in (read_projects(answer), read_introspection(answer, NOW)):
        assert reply is None or isinstance(reply, TuistReply)
    assert isinstance(read_message(answer), str)


def test_projects_of_accounts_over_their_plan_are_told_apart() -> None:
    reply = read_projects(
        body(projects=[LIB], payment_required=["Acme/App", LIB], message="Upgrade")
    )
    assert reply is not None
    for action in Action:
        assert reply.verdict(APP, action) is Access.PAYMENT_REQUIRED
        assert reply.verdict(LIB, action) is Access.GRANTED
        assert reply.verdict("acme/third", action) is Access.FORBIDDEN
    assert reply.message == "Upgrade"


GRANTS: dict[str, Any] = {"project": {"read": [APP], "write": [LIB]}}


def test_introspection_that_is_understood() -> None:
    reply = read_introspection(body(active=True, sub="1", cache_grants=GRANTS, exp=NOW + 5), NOW)
    assert reply == TuistReply(Access.GRANTED, frozenset({LIB}), frozenset({APP}), lifetime=5)
    reply = read_introspection(body(active=True, cache_grants=GRANTS), NOW)
    assert reply is not None
    assert reply.lifetime == math.inf
    assert read_introspection(b'{"active": false}', NOW) == TuistReply(Access.UNAUTHORIZED)


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"active": None},
        {"active": "true", "cache_grants": GRANTS},
        {"active": 1, "cache_grants": GRANTS},
        {"active": 0},
        {"active": True},
        {"active": True, "cache_grants": None},
        {"active": True, "cache_grants": [APP]},
        {"active": True, "cache_grants": GRANTS, "exp": "1800000060"},
        {"active": True, "cache_grants": GRANTS, "exp": True},
        {"active": True, "cache_grants": GRANTS, "exp": math.nan},
        {"projects": [APP]},
    ],
    ids=str,
)
def test_introspection_that_is_not_understood_is_no_answer(answer: dict[str, Any]) -> None:
    assert read_introspection(body(**answer), NOW) is None


@pytest.mark.parametrize(
    "message", [None, 1, ["x"], "", "two\nlines", "caf\xe9", "\x00", {"message": "x"}], ids=str
)
def test_message_that_cannot_stand_in_a_header_is_none(message: object) -> None:
    assert read_message(body(message=message)) == ""


def test_message_is_not_endless() -> None:
    assert len(read_message(body(message="x" * 10_000))) == 500
