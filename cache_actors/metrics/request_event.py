"""Answered requests, by the service or by nginx alone, and what they count as. Pure."""

from __future__ import annotations

from enum import StrEnum
from http import HTTPStatus

import msgspec

from cache_actors.kinds import Kind

CLIENT_LEFT = 499
"""Status of a request whose client did not wait for its answer: nginx's number, in logs only."""

STATUSES = {str(status.value): status.value for status in HTTPStatus} | {"499": CLIENT_LEFT}
"""Statuses that are counted each by itself."""

_HITS = {HTTPStatus.OK, HTTPStatus.NO_CONTENT, HTTPStatus.PARTIAL_CONTENT, HTTPStatus.NOT_MODIFIED}

_STORED = {HTTPStatus.NO_CONTENT, HTTPStatus.CREATED, HTTPStatus.OK}


class Responder(StrEnum):
    """Who has answered."""

    SERVICE = "service"
    NGINX = "nginx"


class Route(StrEnum):
    """The route of a request."""

    ARTIFACT_READ = "artifact_read"
    ARTIFACT_STORE = "artifact_store"
    ENTRY_READ = "entry_read"
    ENTRY_STORE = "entry_store"
    GRADLE_READ = "gradle_read"
    GRADLE_STORE = "gradle_store"
    MODULE_READ = "module_read"
    MODULE_START = "module_start"
    MODULE_PART = "module_part"
    MODULE_STORE = "module_store"
    BLOB_READ = "blob_read"
    BLOB_STORE = "blob_store"
    BLOB_FIND = "blob_find"
    ACTION_READ = "action_read"
    ACTION_STORE = "action_store"
    CAPABILITIES = "capabilities"
    CLEAN = "clean"
    DECISION = "decision"
    UP = "up"
    READY = "ready"
    METRICS = "metrics"
    OTHER = "other"


READS = {Route(f"{kind.label}_read"): kind for kind in Kind}
"""Routes that read what is stored."""

STORES = {Route(f"{kind.label}_store"): kind for kind in Kind}
"""Routes that store something."""

UPLOADS = STORES | {Route.MODULE_PART: Kind.MODULE}
"""Routes whose bodies are stored, or a part of what is stored."""

FROM_CLIENTS = {
    *READS,
    *STORES,
    Route.MODULE_START,
    Route.MODULE_PART,
    Route.BLOB_FIND,
    Route.CAPABILITIES,
    Route.CLEAN,
    Route.OTHER,
}
"""Routes that builds ask for. The others are for nginx and for operators."""

_REASONS: dict[int, str] = {
    HTTPStatus.BAD_REQUEST: "invalid",
    HTTPStatus.UNAUTHORIZED: "unauthorized",
    HTTPStatus.PAYMENT_REQUIRED: "payment_required",
    HTTPStatus.FORBIDDEN: "forbidden",
    HTTPStatus.REQUEST_TIMEOUT: "stalled",
    HTTPStatus.CONFLICT: "artifact_missing",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "too_large",
    HTTPStatus.UNPROCESSABLE_ENTITY: "wrong_digest",
    HTTPStatus.TOO_MANY_REQUESTS: "overloaded",
    CLIENT_LEFT: "client_left",
    HTTPStatus.SERVICE_UNAVAILABLE: "unavailable",
    HTTPStatus.INSUFFICIENT_STORAGE: "storage_full",
}


class RequestEvent(msgspec.Struct, frozen=True):
    """Requests that have been answered, all in the same way: one, or `times` of them.

    Attributes:
        status: of the answer; 0 for one that HTTP does not know.
        seconds: from request to answer, of each.
        sent: bytes of the answers' bodies, of all together.
        received: bytes of the requests' bodies, of all together.
        duplicate: whether the artifact that was sent existed already.
    """

    by: Responder
    route: Route
    status: int
    seconds: float
    sent: int
    received: int = 0
    duplicate: bool = False
    times: int = 1

    @property
    def is_error(self) -> bool:
        """Whether it is the service's fault, or that of something that it needs."""
        return self.status >= HTTPStatus.INTERNAL_SERVER_ERROR

    @property
    def is_from_client(self) -> bool:
        """Whether a build has asked."""
        return self.route in FROM_CLIENTS

    @property
    def hit(self) -> bool | None:
        """Whether a read has found what it asked for. None: it was no read, or was refused."""
        if self.route not in READS:
            return None
        if self.status == HTTPStatus.NOT_FOUND:
            return False
        return True if self.status in _HITS else None

    @property
    def outcome(self) -> str | None:
        """The outcome of an upload or an entry to store, in a word; None for other requests."""
        if self.route not in STORES:
            return None
        if self.status in _STORED:
            return "duplicate" if self.duplicate else "stored"
        return _REASONS.get(self.status, "failed")
