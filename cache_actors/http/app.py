"""The application: routes, and what surrounds every handler.

Handlers translate: they read a request, send a message through a client, and turn the answer into a
response. They own nothing and hold nothing but the clients in `Services`.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

from quart_trio import QuartTrio
from werkzeug.exceptions import NotFound
from werkzeug.routing import BaseConverter

from cache_actors.kinds import Kind
from cache_actors.metrics.registry import NGINX_TROUBLES
from cache_actors.metrics.request_event import UPLOADS, RequestEvent, Responder, Route
from cache_actors.storage.entries import MissingArtifact
from cache_actors.storage.errors import StorageError

from .errors import (
    HttpError,
    error_response,
    record_missing_artifact,
    record_storage_error,
    translate,
)
from .routes import artifacts, clean, decision, gradle, health, keyvalue, metrics, modules
from .server.in_flight import InFlight
from .server.request_cycle import BODY_HEADER, RequestCycle

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from structlog.typing import FilteringBoundLogger

    from cache_actors.metrics.registry import Metrics
    from cache_actors.services import Services
    from cache_actors.settings import Settings

    from .request import Request
    from .responses import Response


MAX_LOGGED = 200
"""Longest path, in characters, that is logged for a message that is no well-formed request."""


class CallFront(Protocol):
    """Answers calls by gRPC, which come as requests."""

    async def answer(self, request: Request) -> Response:
        """Answer a call; all that goes wrong is in the answer."""


class CacheApp(QuartTrio):
    """Quart-Trio with this project's way of handling connections, errors and logs."""

    asgi_http_class = RequestCycle

    def __init__(
        self,
        services: Services,
        settings: Settings,
        metrics: Metrics,
        log: FilteringBoundLogger,
        calls: CallFront | None = None,
    ) -> None:
        super().__init__(__name__, static_folder=None)
        self.services = services
        self.settings = settings
        self.metrics = metrics
        self.log = log
        self._calls = calls
        self.in_flight = InFlight()
        self.body_timeout = settings.body_timeout
        self.min_body_rate = settings.min_body_rate
        self.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
        self.url_map.merge_slashes = False
        self.url_map.converters["anything"] = _Anything
        # Routes by method and path, and those of paths that end in a variable: start, name of the
        # variable, methods, route.
        self._whole_paths: dict[tuple[str, str], str] = {}
        self._path_starts: list[tuple[str, str, list[str], str]] = []
        for route, path, method_names, handler in _ROUTES:
            methods = method_names.split()
            self.add_url_rule(path, route.value, handler, methods=methods)
            start, _, variable = path.partition("<anything:")
            if variable:
                self._path_starts.append((start, variable.removesuffix(">"), methods, route.value))
            else:
                self._whole_paths |= {(method, path): route.value for method in methods}
        self._routes = self.url_map.bind("")

    async def handle_request(self, request: Request) -> Response:  # type: ignore[override]
        """Answer a request: find its handler, call it, and translate what that raises.

        Quart would also push contexts, open a session, send signals and call hooks, none of which
        are used here, but which take a fifth of the time of a request.
        """
        if self._calls is not None and is_call(request):
            return await self._calls.answer(request)
        try:
            handler, arguments = self._route(request)
            response: Response = await handler(request, **arguments)
        except Exception as error:
            return self._answer_error(request, error)
        return response

    def _route(self, request: Request) -> tuple[Callable[..., Any], Mapping[str, Any]]:
        """The handler of a request, and its arguments.

        A path may begin with several slashes, since a client's base URL may end with one; werkzeug
        treats them as one. A path may begin with `PATH_PREFIX` or not: clients send it, but nginx
        and health checks do not.

        Raises:
            HTTPException: no route matches (404, 405), or nginx would have refused the request.
            HttpError: the token is too long.
        """
        decision.refuse_long_token(request)
        try:
            route, arguments = self._match(request)
            request.route = Route(route)
        finally:  # replaces an error of routing: nginx would have given its own answer before
            if BODY_HEADER in request.headers:
                self._refuse_as_nginx(request)
        return self.view_functions[route], arguments

    def _match(self, request: Request) -> tuple[str, Mapping[str, Any]]:
        """The route of a request and its arguments, whether or not its path has the prefix.

        werkzeug, which takes four times as long, is asked about what has no route: it knows why.
        """
        path, prefix = request.path, self.settings.path_prefix
        if prefix and path.startswith(f"{prefix}/"):
            path = path.removeprefix(prefix)
        if route := self._whole_paths.get((request.method, path)):
            return route, {}
        for start, variable, methods, route in self._path_starts:
            if path.startswith(start) and request.method in methods:
                return route, {variable: path[len(start) :]}
        return self._routes.match(path, request.method)

    def _refuse_as_nginx(self, request: Request) -> None:
        """Refuse a request that nginx would have refused itself, had it no body to be read first.

        Raises:
            HttpError, HTTPException: the body is too large (413), or nginx has found nothing (404).
        """
        kind = UPLOADS.get(request.route, Kind.CAS)  # for all else nginx has the limit of CAS
        request.body.limit(self.settings.largest(kind))
        if ANSWER_HEADER in request.headers:
            raise NotFound

    def _answer_error(self, request: Request, error: Exception) -> Response:
        """The response for an exception, which is logged and counted if operators need to know."""
        answer = translate(error)
        if isinstance(error, MissingArtifact):
            record_missing_artifact(
                request, error.artifact_id, self.metrics, self.log, stored=False
            )
        if isinstance(error, StorageError):
            record_storage_error(error, request.id, self.metrics, self.log)
        if answer is None:
            self.log_exception((type(error), error, error.__traceback__))
            answer = HttpError(HTTPStatus.INTERNAL_SERVER_ERROR, "Internal server error")
        return error_response(answer)

    def log_exception(
        self,
        exception_info: tuple[type, BaseException, TracebackType | None] | tuple[None, None, None],
    ) -> None:
        """Log a bug, with its traceback."""
        self.log.error("request_crashed", exc_info=exception_info)

    def record_request(self, request: Request, status: int, sent: int, seconds: float) -> None:
        """Count an answered request, and log one line. No query or header is in it, so no token.

        Args:
            request: the request.
            status: the status of the response.
            sent: the number of bytes of its body that were sent.
            seconds: the time from the request's head to the end of the response.
        """
        call = request.call
        if call is not None:
            self.metrics.calls.labels(call.method, call.status).inc()
        self.metrics.served(
            RequestEvent(
                Responder.SERVICE,
                request.route,
                status,
                seconds,
                sent,
                received=request.body.received,
                duplicate=request.duplicate,
            )
        )
        trouble = request.headers.get(TROUBLE_HEADER)
        if (
            trouble in NGINX_TROUBLES
            and status < HTTPStatus.BAD_REQUEST
            and metrics.is_on_this_host(request.scope["client"])
        ):
            self.metrics.nginx_trouble(trouble)
        self.log.info(
            "request",
            request_id=request.id,
            method=request.method,
            path=request.path,
            project=str(request.project) if request.project else None,
            status=status,
            bytes_in=request.body.received,
            bytes_out=sent,
            milliseconds=round(seconds * 1000, 1),
            **({"grpc_status": call.status, "instance": call.instance} if call else {}),
        )

    def record_refusal(
        self, request_id: str, status: int, method: str | None = None, target: str = ""
    ) -> None:
        """Count a message that was refused before it became a request, and log the same line."""
        self.metrics.served(RequestEvent(Responder.SERVICE, Route.OTHER, status, 0.0, 0))
        self.log.info(
            "request",
            request_id=request_id,
            method=method,
            path=target.partition("?")[0][:MAX_LOGGED] or None,
            project=None,
            status=status,
            bytes_in=0,
            bytes_out=0,
            milliseconds=0.0,
        )


TROUBLE_HEADER = "X-Cache-Trouble"
"""Header in which nginx names what it could not do by itself; ignored if another host sends it."""

ANSWER_HEADER = "X-Cache-Answer"
"""Header with which nginx says that it has found nothing (404); the body has to be read first."""


def is_call(request: Request) -> bool:
    """Whether a request is a call by gRPC; the answer needs trailers, which HTTP/1.0 has not."""
    content_type = request.headers.get("Content-Type") or ""
    return (
        content_type.startswith("application/grpc")
        and request.method == "POST"
        and request.scope["http_version"] == "1.1"
    )


class _Anything(BaseConverter):
    """A variable that matches any rest of a path: `storage.layout` checks ids, and says why one is
    refused, where routing would answer 404."""

    regex = r"[\s\S]*"
    part_isolating = False


_ARTIFACT = "/api/cache/cas/<anything:artifact_id>"
_ENTRY = "/api/cache/keyvalue/<anything:cas_id>"
_OUTPUT = "/api/cache/gradle/<anything:key>"

_ROUTES: tuple[tuple[Route, str, str, Callable[..., Any]], ...] = (
    (Route.ARTIFACT_READ, _ARTIFACT, "GET HEAD", artifacts.retrieve_artifact),
    (Route.ARTIFACT_STORE, _ARTIFACT, "POST", artifacts.store_artifact),
    (Route.ENTRY_READ, _ENTRY, "GET HEAD PUT", keyvalue.retrieve_values),
    (Route.ENTRY_STORE, "/api/cache/keyvalue", "PUT", keyvalue.store_values),
    (Route.GRADLE_READ, _OUTPUT, "GET HEAD", gradle.retrieve_output),
    (Route.GRADLE_STORE, _OUTPUT, "PUT", gradle.store_output),
    (Route.MODULE_READ, "/api/cache/module/<anything:module>", "GET HEAD", modules.retrieve_module),
    (Route.MODULE_START, "/api/cache/module/start", "POST", modules.start_upload),
    (Route.MODULE_PART, "/api/cache/module/part", "POST", modules.put_part),
    (Route.MODULE_STORE, "/api/cache/module/complete", "POST", modules.complete_upload),
    (Route.CLEAN, "/api/cache/clean", "DELETE", clean.clean_project),
    (Route.DECISION, "/_auth_cas", "GET", decision.decide),
    (Route.UP, "/up", "GET HEAD", health.up),
    (Route.READY, "/ready", "GET HEAD", health.ready),
    (Route.METRICS, "/metrics", "GET HEAD", metrics.metrics),
)
