"""`GET /metrics`: all metrics, for Prometheus.

It names no token, account or project, but is not for the public: it is for clients on the
same host. nginx, which is one of them, does not pass it on.
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
    """All metrics, in Prometheus's text format; 404 for clients on other hosts."""
    if not is_on_this_host(request.scope["client"]):
        raise HttpError(HTTPStatus.NOT_FOUND, "Not Found")
    return Response(request.services.metrics(), content_type=CONTENT_TYPE, headers=dict(NO_STORE))


def is_on_this_host(client: tuple[str, int] | None) -> bool:
    """Whether a client's address and port are on loopback; None is a client on a Unix socket."""
    if client is None:
        return True
    address = ip_address(client[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback
