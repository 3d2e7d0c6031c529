"""A request names its project once, in one spelling, or it is refused.

The contract suite asks the same of the service and of nginx: `test_identifiers.py`.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_actors.access.grants import Action
from cache_actors.http.parameters import InvalidParameter, action_in, project_in
from cache_actors.storage.layout import InvalidIdentifier, Project

REFUSALS = InvalidParameter, InvalidIdentifier

GOOD = b"account_handle=acme&project_handle=app"


def refusal_of(query: bytes) -> str:
    with pytest.raises(REFUSALS) as refused:
        project_in(query)
    return str(refused.value)


NAMING = [
    GOOD,
    b"project_handle=app&account_handle=acme",
    b"account_handle=Acme&project_handle=APP",
    b"x=1&account_handle=acme&x=2&project_handle=app&",
    b"&&account_handle=acme&&project_handle=app",
    b"account_handle=%61cme&project_handle=%41pp",
    b"account_handle=acme&project_handle=app&x=\xff%ff",
]


@pytest.mark.parametrize("query", NAMING)
def test_project_is_what_the_two_handles_name(query: bytes) -> None:
    assert project_in(query) == Project("acme", "app")


REFUSED = [
    (b"", "account_handle is missing"),
    (b"project_handle=app", "account_handle is missing"),
    (b"account_handle=acme", "project_handle is missing"),
    (b"account=acme&project_handle=app", "account_handle is missing"),
    (b"account_handle =acme&project_handle=app", "account_handle is missing"),
    (b"account_handle=acme;project_handle=app", "project_handle is missing"),
    (GOOD + b"&account_handle=acme", "account_handle is given more than once"),
    (GOOD + b"&project_handle=other", "project_handle is given more than once"),
    (GOOD + b"&account_handle", "account_handle is given more than once"),
    (GOOD + b"&Account_Handle=other", "account_handle is given more than once"),
    (b"PROJECT_HANDLE=other&" + GOOD, "project_handle is given more than once"),
    (GOOD + b"&%61ccount_handle=other", "account_handle is given more than once"),
    (b"Account_handle=acme&project_handle=app", "account_handle is missing: .*lower case"),
    (b"account_handle=acme&PROJECT_HANDLE=app", "project_handle is missing: .*lower case"),
    (b"account_handle=&project_handle=app", "account_handle '' is invalid"),
    (b"account_handle&project_handle=app", "account_handle '' is invalid"),
    (b"account_handle=acme&project_handle=a/b", "project_handle 'a/b' is invalid"),
    (b"account_handle=acme&project_handle=a%2fb", "project_handle 'a/b' is invalid"),
    (b"account_handle=..&project_handle=app", r"account_handle '\.\.' is invalid"),
    (b"account_handle=acme%0a&project_handle=app", r"account_handle 'acme\\n' is invalid"),
    (b"account_handle=ac+me&project_handle=app", "account_handle 'ac me' is invalid"),
    (b"account_handle=acme%00&project_handle=app", r"account_handle 'acme\\x00' is invalid"),
    (b"account_handle=caf%C3%A9&project_handle=app", r"account_handle 'caf\\xe9' is invalid"),
    (b"account_handle=%ff&project_handle=app", r"account_handle '\\ufffd' is invalid"),
    (b"account_handle=\xff&project_handle=app", r"account_handle '\\ufffd' is invalid"),
    (b"account_handle=a%&project_handle=app", "account_handle 'a%' is invalid"),
    (GOOD + b"&account_handle=", "account_handle is given more than once"),
    (GOOD + b"&%50ROJECT_HANDLE=other", "project_handle is given more than once"),
    (b"%70roject_handle=other&" + GOOD, "project_handle is given more than once"),
    (b"account_handle[]=acme&project_handle=app", "account_handle is missing"),
    (GOOD + b".b", r"project_handle 'app\.b' is invalid"),
    (GOOD + b"~", "project_handle 'app~' is invalid"),
    (GOOD + b"=", "project_handle 'app=' is invalid"),
    (GOOD + b"b" * 98, "project_handle 'app.* is invalid"),
    (GOOD + b"%zz", "project_handle 'app%zz' is invalid"),
    (b"account_handle=%252e%252e&project_handle=app", "account_handle '%2e%2e' is invalid"),
    (b"account_handle=acme/app", "account_handle 'acme/app' is invalid|project_handle is missing"),
]


@pytest.mark.parametrize(("query", "message"), REFUSED)
def test_handle_that_is_missing_repeated_or_odd_is_refused(query: bytes, message: str) -> None:
    with pytest.raises(REFUSALS, match=f"^{message}"):
        project_in(query)


@given(st.binary(max_size=40))
def test_no_query_string_is_more_than_refused(query: bytes) -> None:
    message = refusal_of(query)
    assert message.isascii()
    assert message.isprintable()


@given(st.binary(max_size=20))
def test_nothing_that_follows_changes_the_project(more: bytes) -> None:
    try:
        project = project_in(GOOD + b"&" + more)
    except REFUSALS:
        return
    assert project == Project("acme", "app")


@pytest.mark.parametrize(
    ("query", "action"),
    [
        (GOOD + b"&action=read", Action.READ),
        (b"action=write&" + GOOD, Action.WRITE),
        (GOOD, Action.WRITE),  # of an nginx that would use the answer for both
    ],
)
def test_nginx_says_what_its_question_is_about(query: bytes, action: Action) -> None:
    assert action_in(query) is action


@pytest.mark.parametrize("query", [b"action=", b"action=READ", b"action=read&action=read"])
def test_question_about_something_else_is_refused(query: bytes) -> None:
    with pytest.raises(InvalidParameter, match=r"^action is "):
        action_in(GOOD + b"&" + query)
