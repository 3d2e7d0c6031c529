"""Errors on their way to a client: every exception is translated here, once.

They sort into the caller's fault (4xx), too much that is asked for at once (429), the service being
unable at the moment (503, 507), and a failing disk or a bug (500), which are logged.
"""

from __future__ import annotations

import random
from http import HTTPStatus

import msgspec
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from cache_actors.actors.auth_cache import AccessUnknown, TooManyQuestions
from cache_actors.storage.entries import MissingArtifact
from cache_actors.storage.errors import StorageBusy, StorageError, StorageFull, StorageLocked
from cache_actors.storage.files.unfinished import (
    ArtifactTooLarge,
    TooManyUploads,
    UnknownUpload,
    WrongParts,
)
from cache_actors.storage.layout import InvalidIdentifier
from cache_actors.supervision import ActorError, MailboxFull
from cache_actors.transfer.upload import EmptyUpload, WrongDigest

from .responses import Response, json_response

RETRY_AFTER = 1
"""Value of `Retry-After`, in seconds, when an actor has crashed."""

LATEST_RETRY = 5
"""Largest `Retry-After`, in seconds, of what is refused for load; the smallest is 1. Each is told a
time of its own, so that they do not all come back at once."""


class HttpError(Exception):
    """An answer other than the one that was asked for."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers or {}


class ClientDisconnected(Exception):
    """The client left before its request was complete. Normal; nobody is there for an answer."""


class BodyStalled(Exception):
    """For so many seconds nothing of a request's body has come, or less than has to come."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"Too little of the body has come for {seconds:g} seconds")


def error_body(message: str) -> bytes:
    """The JSON that every error answers with; Tuist's client decodes it."""
    return msgspec.json.encode({"message": message})


def error_response(error: HttpError) -> Response:
    """The response that `error` stands for."""
    return json_response(error_body(error.message), error.status, error.headers)


def translate(error: Exception) -> HttpError | None:
    """The answer to the client that `error` stands for, or None if it is a bug."""
    match error:
        case HttpError():
            return error
        case InvalidIdentifier() | EmptyUpload() | WrongParts():
            return HttpError(HTTPStatus.BAD_REQUEST, str(error))
        case BodyStalled():
            return HttpError(HTTPStatus.REQUEST_TIMEOUT, str(error))
        case MissingArtifact():
            return HttpError(HTTPStatus.CONFLICT, str(error))
        case UnknownUpload():
            return HttpError(HTTPStatus.NOT_FOUND, str(error))
        case WrongDigest() | ArtifactTooLarge():
            return HttpError(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        case AccessUnknown():
            return unavailable(str(error), error.retry_after)
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
    """503, with the seconds after which asking again makes sense."""
    return HttpError(
        HTTPStatus.SERVICE_UNAVAILABLE, message, {"Retry-After": str(max(1, retry_after))}
    )


def overloaded(message: str) -> HttpError:
    """429: what is asked for would be possible if others did not ask for so much."""
    seconds = random.randint(1, LATEST_RETRY)  # noqa: S311 - nobody has to be unable to guess it
    return HttpError(HTTPStatus.TOO_MANY_REQUESTS, message, {"Retry-After": str(seconds)})


CLIENT_CLOSED_REQUEST = 499
"""Status in logs of a request whose client left (nginx's number); nobody receives it."""
