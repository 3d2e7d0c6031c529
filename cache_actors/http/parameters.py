"""Parameters in a request's query string."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import parse_qsl

from cache_actors.access.grants import Action
from cache_actors.storage.layout import InvalidIdentifier, Project, module_id, parse_project

_HANDLES = ("account_handle", "project_handle")


@lru_cache(maxsize=1024)  # a build asks for one project, again and again
def project_in(query: bytes) -> Project:
    """The project in a query string's `account_handle` and `project_handle`.

    Raises:
        InvalidIdentifier: one of them is missing, repeated, spelled in another case, or invalid.
            nginx uses the first of several and ignores the case of names, but must never use
            another project than the service; so both are refused.
    """
    parameters = _parameters(query)
    return parse_project(*(_only(name, parameters) for name in _HANDLES))


@lru_cache(maxsize=1024)
def action_in(query: bytes) -> Action:
    """The `action`, `read` or `write`, in the query string of nginx's request for a decision.

    Older configurations of nginx send no action, and use one decision for all: that of `write`.

    Raises:
        InvalidIdentifier: the action is something else, or is given more than once.
    """
    actions = [value for name, value in _parameters(query) if name == "action"]
    if len(actions) > 1:
        raise InvalidIdentifier("action is given more than once")
    try:
        return Action(actions[0]) if actions else Action.WRITE
    except ValueError:
        raise InvalidIdentifier("action is neither read nor write") from None


@lru_cache(maxsize=1024)
def module_in(query: bytes) -> str:
    """The id of the module artifact that a query string names.

    Raises:
        InvalidIdentifier: `hash`, `name` or `cache_category` is missing, repeated or invalid.
    """
    category = _optional("cache_category", _parameters(query))
    module_hash, name = parameter(query, "hash"), parameter(query, "name")
    return module_id("builds" if category is None else category, module_hash, name)


def parameter(query: bytes, name: str) -> str:
    """The value of the parameter `name` in a query string.

    Raises:
        InvalidIdentifier: the parameter is missing, or given more than once.
    """
    value = _optional(name, _parameters(query))
    if value is None:
        raise InvalidIdentifier(f"{name} is missing")
    return value


def _optional(name: str, parameters: list[tuple[str, str]]) -> str | None:
    values = [value for key, value in parameters if key == name]
    if len(values) > 1:
        raise InvalidIdentifier(f"{name} is given more than once")
    return values[0] if values else None


def _parameters(query: bytes) -> list[tuple[str, str]]:
    return parse_qsl(query.decode("ascii", "replace"), keep_blank_values=True)


def _only(name: str, parameters: list[tuple[str, str]]) -> str:
    spellings = [(key, value) for key, value in parameters if key.lower() == name]
    if not spellings:
        raise InvalidIdentifier(f"{name} is missing")
    if len(spellings) > 1:
        raise InvalidIdentifier(f"{name} is given more than once")
    key, value = spellings[0]
    if key != name:
        raise InvalidIdentifier(f"{name} is missing: the parameter's name is in lower case")
    return value
