"""The application: routes, and what surrounds every handler.

Handlers translate: they read a request, send a message through a client, and turn the answer into a
response. They own nothing and hold nothing but the clients in `Services`.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from quart_trio import QuartTrio
from werkzeug.exceptions import NotFound, RequestEntityTooLarge
from werkzeug.routing import BaseConverter

from cache_actors.metrics.registry import NGINX_TROUBLES
from cache_actors.metrics.served import By, Route, Served
from cache_actors.storage.entries import MissingArtifact
from cache_actors.storage.errors import StorageError

from . import artifacts, authorization, health, keyvalue, metrics
from .body import Request
from .context import enter_request
from .errors import HttpError, error_response, translate
from .exchange import BODY_HEADER, Exchange
from .in_flight import InFlight

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from structlog.typing import FilteringBoundLogger

    from cache_actors.actors.artifact_reader import ArtifactReader
    from cache_actors.actors.auth_cache import AuthCacheClient
    from cache_actors.actors.disk_writer import DiskWriterClient
    from cache_actors.actors.kv_store import KeyValueStoreClient
    from cache_actors.metrics.recent import Figures
    from cache_actors.metrics.registry import Metrics
    from cache_actors.settings import Settings
    from cache_actors.storage.eviction_record import EvictionStatus
    from cache_actors.storage.health import StorageStatus
    from cache_actors.supervision import Shares, Status

    from .responses import Response


@dataclass(frozen=True, slots=True)
class Services:
    """All that handlers may use: clients of actors, and bounds.

    Attributes:
        memory: what key-value entries on their way in may take together, in bytes.
        since: when the service was started, in `time.monotonic()`.
        status: the supervision tree's own records; with workers, those of all processes.
        metrics: what `/metrics` answers.
        recent: what has been answered lately.
        storage: how writing to the disk has gone lately.
        is_replaced: whether another instance gets the new connections by now.
        eviction: what has been evicted.
        nginx_troubles: what nginx could not do by itself lately.
    """

    auth: AuthCacheClient
    keyvalue: KeyValueStoreClient
    writer: DiskWriterClient
    reader: ArtifactReader
    memory: Shares
    since: float
    status: Callable[[], Status]
    metrics: Callable[[], bytes]
    recent: Callable[[], Figures]
    storage: Callable[[], StorageStatus]
    is_replaced: Callable[[], bool]
    eviction: Callable[[], EvictionStatus]
    nginx_troubles: Callable[[], Sequence[str]]


MOST_LOGGED = 200
"""Characters that are logged of the path of what was no request."""


class CacheApp(QuartTrio):
    """Quart-Trio with this project's way of handling connections, errors and logs."""

    asgi_http_class = Exchange
    request_class = Request

    def __init__(
        self, services: Services, settings: Settings, metrics: Metrics, log: FilteringBoundLogger
    ) -> None:
        super().__init__(__name__, static_folder=None)
        self.services = services
        self.settings = settings
        self.metrics = metrics
        self.log = log
        self.in_flight = InFlight()
        self.body_timeout = settings.body_timeout
        self.body_least_rate = settings.body_least_rate
        self.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
        self.url_map.merge_slashes = False
        self.url_map.converters["anything"] = _Anything
        for route, path, method_names, handler in _ROUTES:
            self.add_url_rule(path, route.value, handler, methods=method_names.split())
        self._routes = self.url_map.bind("")

    async def handle_request(self, request: Request) -> Response:  # type: ignore[override]
        """Answer a request: find its handler, call it, and translate what that raises.

        Quart would also push contexts, open a session, send signals and call hooks, none of which
        are used here, but which take a fifth of the time of a request.
        """
        enter_request(request)
        try:
            handler, arguments = self._route(request)
            response: Response = await handler(**arguments)
        except Exception as error:
            return self._answer_error(request, error)
        return response

    def _route(self, request: Request) -> tuple[Callable[..., Any], Mapping[str, Any]]:
        """The handler of a request, and its arguments.

        A path may begin with several slashes, as a client's base URL may end with one: werkzeug has
        made them one.

        Raises:
            HTTPException: there is none, or nginx has refused the request.
            HttpError: the token is too long.
        """
        authorization.refuse_long_token(request)
        if BODY_HEADER in request.headers:
            self._refuse_as_nginx(request)
        route, arguments = self._routes.match(request.path, request.method)
        request.route = Route(route)
        return self.view_functions[route], arguments

    def _refuse_as_nginx(self, request: Request) -> None:
        """Refuse what nginx leaves to us only because there is a body to be read first.

        Raises:
            HTTPException: nginx would have answered that.
        """
        if (request.content_length or 0) > self.settings.max_upload_bytes:
            raise RequestEntityTooLarge
        if ANSWER_HEADER in request.headers:
            raise NotFound

    def _answer_error(self, request: Request, error: Exception) -> Response:
        answer = translate(error)
        if isinstance(error, MissingArtifact):
            self.log_missing_artifact(request, error.artifact_id, stored=False)
        if isinstance(error, StorageError):
            self.log.error("storage_failed", request_id=request.id, cause=repr(error.__cause__))
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

    def log_missing_artifact(self, request: Request, artifact_id: str, *, stored: bool) -> None:
        """Tell that an entry refers to an artifact which does not exist, and was stored or not."""
        self.metrics.missing_artifacts.labels("stored" if stored else "refused").inc()
        self.log.warning(
            "artifact_missing",
            request_id=request.id,
            project=str(request.project),
            artifact=artifact_id,
            stored=stored,
        )

    def log_request(self, request: Request, status: int, sent: int, seconds: float) -> None:
        """Count a request, and log its one line. That has no query and no headers, so no token."""
        self.metrics.served(
            Served(
                By.SERVICE,
                request.route,
                status,
                seconds,
                sent,
                received=request.body.received,
                duplicate=request.duplicate,
            )
        )
        trouble = request.headers.get(TROUBLE_HEADER)
        if trouble in NGINX_TROUBLES and status < HTTPStatus.BAD_REQUEST:
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
        )

    def log_refusal(
        self, request_id: str, status: int, method: str | None = None, target: str = ""
    ) -> None:
        """Count what was refused before it was a request, and log a line as requests have it."""
        self.metrics.served(Served(By.SERVICE, Route.OTHER, status, 0.0, 0))
        self.log.info(
            "request",
            request_id=request_id,
            method=method,
            path=target.partition("?")[0][:MOST_LOGGED] or None,
            project=None,
            status=status,
            bytes_in=0,
            bytes_out=0,
            milliseconds=0.0,
        )


TROUBLE_HEADER = "X-Cache-Trouble"
"""In which nginx says what it could not do by itself."""

ANSWER_HEADER = "X-Cache-Answer"
"""In which nginx says that it would answer 404, if that could be done before a body is read."""


class _Anything(BaseConverter):
    """The rest of a path, whatever is in it: ids are judged by `storage.layout`, not by routing."""

    regex = r"[\s\S]*"
    part_isolating = False


_ARTIFACT = "/api/cache/cas/<anything:artifact_id>"
_ENTRY = "/api/cache/keyvalue/<anything:cas_id>"

_ROUTES: tuple[tuple[Route, str, str, Callable[..., Any]], ...] = (
    (Route.ARTIFACT_READ, _ARTIFACT, "GET HEAD", artifacts.retrieve_artifact),
    (Route.ARTIFACT_STORE, _ARTIFACT, "POST", artifacts.store_artifact),
    (Route.ENTRY_READ, _ENTRY, "GET HEAD PUT", keyvalue.retrieve_values),
    (Route.ENTRY_STORE, "/api/cache/keyvalue", "PUT", keyvalue.store_values),
    (Route.DECISION, "/_auth_cas", "GET", authorization.decide),
    (Route.UP, "/up", "GET HEAD", health.up),
    (Route.READY, "/ready", "GET HEAD", health.ready),
    (Route.METRICS, "/metrics", "GET HEAD", metrics.metrics),
)
