"""Clean: everything of a project goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cache_actors.http.responses import Response, empty_response

from .decision import authorized_project

if TYPE_CHECKING:
    from cache_actors.http.request import Request


async def clean_project(request: Request) -> Response:
    """`DELETE /api/cache/clean`: what has been stored of the project so far is gone for good."""
    await request.services.cleaner.clean(await authorized_project(request))
    return empty_response()
