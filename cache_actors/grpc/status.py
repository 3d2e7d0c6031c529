"""The statuses of gRPC, and the one place that translates exceptions to them."""

from __future__ import annotations

from enum import IntEnum
from http import HTTPStatus
from urllib.parse import quote

import trio

from cache_actors.http.errors import CLIENT_CLOSED_REQUEST, BodyStalled, translate
from cache_actors.storage.entries import MissingArtifact
from cache_actors.storage.errors import StorageBusy, StorageError, StorageFull


class Code(IntEnum):
    """The statuses of gRPC, as far as the service answers them."""

    OK = 0
    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


HTTP_STATUS = {
    Code.OK: 200,
    Code.CANCELLED: CLIENT_CLOSED_REQUEST,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 408,
    Code.NOT_FOUND: 404,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 409,
    Code.OUT_OF_RANGE: 416,
    Code.UNIMPLEMENTED: 404,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.UNAUTHENTICATED: 401,
}
"""The status of HTTP that means the same, for metrics and logs."""

_CODES: dict[int, Code] = {
    HTTPStatus.BAD_REQUEST: Code.INVALID_ARGUMENT,
    HTTPStatus.UNAUTHORIZED: Code.UNAUTHENTICATED,
    HTTPStatus.PAYMENT_REQUIRED: Code.PERMISSION_DENIED,
    HTTPStatus.FORBIDDEN: Code.PERMISSION_DENIED,
    HTTPStatus.NOT_FOUND: Code.NOT_FOUND,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: Code.RESOURCE_EXHAUSTED,
    HTTPStatus.UNPROCESSABLE_ENTITY: Code.INVALID_ARGUMENT,
    HTTPStatus.TOO_MANY_REQUESTS: Code.RESOURCE_EXHAUSTED,
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: Code.UNAUTHENTICATED,
    CLIENT_CLOSED_REQUEST: Code.CANCELLED,
    HTTPStatus.SERVICE_UNAVAILABLE: Code.UNAVAILABLE,
    HTTPStatus.INSUFFICIENT_STORAGE: Code.RESOURCE_EXHAUSTED,
}

MAX_MESSAGE = 500
"""Longest message of a status, in characters; trailers have to fit into nginx's buffers."""


class CallFailed(Exception):
    """A call is answered with `code` and `message`, and counted as HTTP's `http_status`."""

    def __init__(self, code: Code, message: str, http_status: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.http_status = int(HTTP_STATUS[code] if http_status is None else http_status)


def invalid(message: str) -> CallFailed:
    """The failure of a call that asks for what makes no sense."""
    return CallFailed(Code.INVALID_ARGUMENT, message)


def failure(error: Exception) -> CallFailed | None:
    """The status for an exception, or None if that is a bug."""
    match error:
        case CallFailed():
            return error
        case trio.TooSlowError():
            return CallFailed(Code.DEADLINE_EXCEEDED, "The call has taken too long")
        case BodyStalled():
            return CallFailed(Code.DEADLINE_EXCEEDED, str(error))
        case MissingArtifact():
            text = f"Blob {error.artifact_id} does not exist"
            return CallFailed(Code.FAILED_PRECONDITION, text)
        case StorageError():
            passes = isinstance(error, StorageFull | StorageBusy)
            code = Code.RESOURCE_EXHAUSTED if passes else Code.INTERNAL
            http = HTTPStatus.INSUFFICIENT_STORAGE if isinstance(error, StorageFull) else None
            return CallFailed(code, str(error), http)
    answer = translate(error)
    if answer is None:
        return None
    return CallFailed(_CODES.get(answer.status, Code.INTERNAL), answer.message, answer.status)


def encoded(message: str) -> str:
    """A status's message as trailers have it: printable ASCII, all else percent-encoded."""
    return quote(message[:MAX_MESSAGE], safe=" !\"#$&'()*+,/:;<=>?@[\\]^`{|}")
