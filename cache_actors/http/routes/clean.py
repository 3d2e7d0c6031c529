"""The handler for cleans, which remove all stored files of a project."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cache_actors.http.responses import Response, empty_response

from .decision import authorized_project

if TYPE_CHECKING:
    from cache_actors.http.request import Request


async def clean_project(request: Request) -> Response:
    """`DELETE /api/cache/clean`: remove all stored files of the project for good, on all nodes.

    Raises:
        CleanUntold: they are gone here, and other nodes hear of it later.
        As `authorized_project` and `CleanerClient.clean`.
    """
    project = await authorized_project(request)
    await request.services.cleaner.clean(project)
    if request.services.fetcher is not None:
        await request.services.fetcher.tell_cleans()
    return empty_response()
