"""The handler for Prometheus's `GET /metrics`.

Metrics name no token, account or project, but are not public: only clients on the same host get
them. nginx, which is one of those, does not proxy this path.
"""

from __future__ import annotations

from http import HTTPStatus
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING

from cache_actors.http.errors import HttpError
from cache_actors.http.responses import NO_STORE, Response
from cache_actors.metrics.registry import CONTENT_TYPE

if TYPE_CHECKING:
    from cache_actors.http.request import Request


async def metrics(request: Request) -> Response:
    """`GET /metrics`: all metrics in Prometheus's text format; 404 for clients on other hosts."""
    if not is_on_this_host(request.scope["client"]):
        raise HttpError(HTTPStatus.NOT_FOUND, "Not Found")
    return Response(request.services.metrics(), content_type=CONTENT_TYPE, headers=dict(NO_STORE))


def is_on_this_host(client: tuple[str, int] | None) -> bool:
    """Whether the address of a client is loopback; `client` is None on a Unix socket."""
    if client is None:
        return True
    address = ip_address(client[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback
