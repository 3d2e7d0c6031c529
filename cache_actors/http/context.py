"""The request that the current task is answering, and the application that it came to."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .app import CacheApp
    from .request import Request

_request: ContextVar[Request] = ContextVar("request")


def enter_request(request: Request) -> None:
    """Mark the current task as answering `request`."""
    _request.set(request)


def request() -> Request:
    """The request that is being answered."""
    return _request.get()


def app() -> CacheApp:
    """The application."""
    return _request.get().app
