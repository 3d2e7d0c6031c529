"""Error responses: the one place that translates exceptions to statuses and messages.

Errors are a fault of the client's (4xx), overload (429), a temporary failure of the service (503,
507), or a failing disk or a bug (500); the last are logged.
"""

from __future__ import annotations

import random
from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from cache_actors.actors.auth_cache import AccessUnknown, TooManyQuestions
from cache_actors.actors.fetcher import CleanUntold
from cache_actors.storage.entries import MissingArtifact
from cache_actors.storage.errors import StorageBusy, StorageError, StorageFull, StorageLocked
from cache_actors.storage.files.unfinished import (
    ModuleTooLarge,
    TooManyUploads,
    UnknownUpload,
    WrongParts,
)
from cache_actors.storage.layout import InvalidIdentifier
from cache_actors.supervision import ActorError, MailboxFull
from cache_actors.transfer.upload import EmptyUpload, WrongDigest

from .parameters import InvalidParameter
from .responses import Response, json_response

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from cache_actors.metrics.registry import Metrics

    from .request import Request

RETRY_AFTER = 1
"""`Retry-After`, in seconds, of a failure that is soon over: a crashed actor, or a held lock."""

MAX_RETRY_AFTER = 5
"""Largest `Retry-After`, in seconds, of a 429; the smallest is 1. It is random, so that clients do
not all retry at once."""


def record_storage_error(
    error: StorageError, request_id: str, metrics: Metrics, log: FilteringBoundLogger
) -> None:
    """Log what a request met on the disk and, if that was a lack of room, count which."""
    shortage = error.shortage if isinstance(error, StorageFull) else None
    if shortage is not None:
        metrics.storage_full.labels(shortage).inc()
    cause = repr(error.__cause__)
    log.error("storage_failed", request_id=request_id, cause=cause, shortage=shortage)


def record_missing_artifact(
    request: Request, artifact_id: str, metrics: Metrics, log: FilteringBoundLogger, *, stored: bool
) -> None:
    """Count and log an entry or an action that refers to what does not exist.

    Args:
        request: the request to store it.
        artifact_id: the id of the missing artifact, or the digest of the missing blob.
        metrics: where it is counted.
        log: where it is logged.
        stored: whether the entry was stored all the same; if not, it was refused.
    """
    metrics.missing_artifacts.labels("stored" if stored else "refused").inc()
    log.warning(
        "artifact_missing",
        request_id=request.id,
        project=str(request.project),
        artifact=artifact_id,
        stored=stored,
    )


class HttpError(Exception):
    """An error response, as an exception: its status, message and headers."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers or {}


class ClientDisconnected(Exception):
    """The client left before its request was complete, which is normal and needs no answer."""


class BodyStalled(Exception):
    """A request's body arrived too slowly, or not at all, for `seconds`."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"Too little of the body has come for {seconds:g} seconds")


def error_body(message: str) -> bytes:
    """The JSON body of an error response, as Tuist's client decodes it."""
    return msgspec.json.encode({"message": message})


def error_response(error: HttpError) -> Response:
    """The response for `error`."""
    return json_response(error_body(error.message), error.status, error.headers)


def translate(error: Exception) -> HttpError | None:
    """The error response for an exception, or None if that is a bug."""
    match error:
        case HttpError():
            return error
        case InvalidParameter() | InvalidIdentifier() | EmptyUpload() | WrongParts():
            return HttpError(HTTPStatus.BAD_REQUEST, str(error))
        case BodyStalled():
            return HttpError(HTTPStatus.REQUEST_TIMEOUT, str(error))
        case MissingArtifact():
            return HttpError(HTTPStatus.CONFLICT, str(error))
        case UnknownUpload():
            return HttpError(HTTPStatus.NOT_FOUND, str(error))
        case WrongDigest() | ModuleTooLarge():
            return HttpError(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        case AccessUnknown():
            return unavailable(str(error), error.retry_after)
        case CleanUntold():
            text = f"The project is cleaned here, but the bucket has yet to be told: {error}"
            return unavailable(text, RETRY_AFTER)
        case MailboxFull():
            return overloaded("The service has too much to do at the moment")
        case TooManyQuestions() | TooManyUploads():
            return overloaded(str(error))
        case ActorError():
            return unavailable("The service cannot answer at the moment", RETRY_AFTER)
        case StorageLocked():
            return unavailable(str(error), RETRY_AFTER)
        case StorageBusy():
            return overloaded(str(error))
        case StorageFull():
            return HttpError(HTTPStatus.INSUFFICIENT_STORAGE, str(error))
        case StorageError():
            return HttpError(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
        case ClientDisconnected():
            return HttpError(CLIENT_CLOSED_REQUEST, "The client closed the connection")
        case MethodNotAllowed():
            allowed = ", ".join(sorted(error.valid_methods or ()))
            return HttpError(
                HTTPStatus.METHOD_NOT_ALLOWED, "Method not allowed", {"Allow": allowed}
            )
        case HTTPException(code=int() as code):
            return HttpError(code, HTTPStatus(code).phrase)
        case _:
            return None


def unavailable(message: str, retry_after: int) -> HttpError:
    """A 503 with a `Retry-After` of `retry_after` seconds, and 1 at least."""
    return HttpError(
        HTTPStatus.SERVICE_UNAVAILABLE, message, {"Retry-After": str(max(1, retry_after))}
    )


def overloaded(message: str) -> HttpError:
    """A 429 with a random `Retry-After`, for a request that overload alone prevents."""
    seconds = random.randint(1, MAX_RETRY_AFTER)  # noqa: S311 - it may be guessed
    return HttpError(HTTPStatus.TOO_MANY_REQUESTS, message, {"Retry-After": str(seconds)})


CLIENT_CLOSED_REQUEST = 499
"""Status that is logged for a request whose client left (as nginx does), and never sent."""
