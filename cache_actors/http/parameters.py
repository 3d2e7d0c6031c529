"""Parameters in a request's query string."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import parse_qsl

from cache_actors.access.grants import Action
from cache_actors.storage.layout import Project, module_id, parse_project

_HANDLES = ("account_handle", "project_handle")


class InvalidParameter(ValueError):
    """A parameter is missing, repeated, or has a value that is not allowed; the message says so."""


@lru_cache(maxsize=1024)  # a build asks for one project, again and again
def project_in(query: bytes) -> Project:
    """The project in a query string's `account_handle` and `project_handle`.

    Raises:
        InvalidParameter: one of them is missing, given more than once, or its name is not in lower
            case. nginx ignores the case of names, and takes the first of several; the service must
            never take another project than nginx, and so refuses both.
        InvalidIdentifier: a handle is invalid.
    """
    parameters = _parameters(query)
    return parse_project(*(_exactly_one(name, parameters) for name in _HANDLES))


@lru_cache(maxsize=1024)
def action_in(query: bytes) -> Action:
    """The `action`, `read` or `write`, in the query string of nginx's request for a decision.

    Older configurations of nginx send no action, and use one decision for all: that of `write`.

    Raises:
        InvalidParameter: the action is something else, or is given more than once.
    """
    actions = [value for name, value in _parameters(query) if name == "action"]
    if len(actions) > 1:
        raise InvalidParameter("action is given more than once")
    try:
        return Action(actions[0]) if actions else Action.WRITE
    except ValueError:
        raise InvalidParameter("action is neither read nor write") from None


@lru_cache(maxsize=1024)
def module_in(query: bytes) -> str:
    """The id of the module artifact that `hash`, `name` and `cache_category` name.

    Without a category it is `builds`, as with Tuist.

    Raises:
        InvalidParameter: `hash` or `name` is missing, or one of the three is given more than once.
        InvalidIdentifier: `hash`, `name` or `cache_category` is invalid.
    """
    category = _at_most_one("cache_category", _parameters(query))
    module_hash, name = parameter(query, "hash"), parameter(query, "name")
    return module_id("builds" if category is None else category, module_hash, name)


def parameter(query: bytes, name: str) -> str:
    """The value of the parameter `name` in a query string.

    Raises:
        InvalidParameter: the parameter is missing, or given more than once.
    """
    value = _at_most_one(name, _parameters(query))
    if value is None:
        raise InvalidParameter(f"{name} is missing")
    return value


def _at_most_one(name: str, parameters: list[tuple[str, str]]) -> str | None:
    """The value of a parameter that is given once; None without it."""
    values = [value for key, value in parameters if key == name]
    if len(values) > 1:
        raise InvalidParameter(f"{name} is given more than once")
    return values[0] if values else None


def _parameters(query: bytes) -> list[tuple[str, str]]:
    return parse_qsl(query.decode("ascii", "replace"), keep_blank_values=True)


def _exactly_one(name: str, parameters: list[tuple[str, str]]) -> str:
    """The value of `name`, which has to be given once, in lower case; `NAME` is a second one."""
    spellings = [(key, value) for key, value in parameters if key.lower() == name]
    if not spellings:
        raise InvalidParameter(f"{name} is missing")
    if len(spellings) > 1:
        raise InvalidParameter(f"{name} is given more than once")
    key, value = spellings[0]
    if key != name:
        raise InvalidParameter(f"{name} is missing: write the parameter's name in lower case")
    return value
