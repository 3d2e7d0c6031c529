"""The request and the application that the current handler works for, with their own types."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from quart import current_app
from quart import request as current_request

if TYPE_CHECKING:
    from .app import CacheApp
    from .body import Request


def app() -> CacheApp:
    """The application."""
    return cast("CacheApp", current_app)


def request() -> Request:
    """The request that is being handled."""
    return cast("Request", current_request)
