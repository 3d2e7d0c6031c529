"""The handler for cleans, which remove all stored files of a project."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cache_actors.actors.fetcher import CleanUnknown
from cache_actors.http.responses import Response, empty_response

from .decision import authorized_project

if TYPE_CHECKING:
    from cache_actors.http.request import Request


async def clean_project(request: Request) -> Response:
    """`DELETE /api/cache/clean`: remove all stored files of the project for good, on all nodes.

    Raises:
        CleanUnknown: they are gone here, but what is in the bucket may come back.
        As `authorized_project` and `CleanerClient.clean`.
    """
    project = await authorized_project(request)
    unknown: CleanUnknown | None = None
    if request.services.fetcher is not None:
        try:
            await request.services.fetcher.clean(project)
        except CleanUnknown as error:
            unknown = error
    await request.services.cleaner.clean(project)
    if unknown is not None:
        raise unknown
    return empty_response()
