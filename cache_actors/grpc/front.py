"""The front: the methods, and what surrounds each of them.

A method translates, as a handler does over HTTP: it gets a decoded message, asks services, and
makes the answer. Calls and their errors are all answered with HTTP's 200; what became of them is in
the trailers.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Self

import trio
from google.protobuf.message import DecodeError

from cache_actors.access.grants import Action
from cache_actors.http.errors import record_missing_artifact, record_storage_error
from cache_actors.http.request import Call
from cache_actors.http.responses import TrailedBody, TrailedResponse, empty_response
from cache_actors.metrics.request_event import Route
from cache_actors.storage.entries import MissingArtifact
from cache_actors.storage.errors import StorageError

from . import action_cache, byte_stream, capabilities, content
from .context import CallContext
from .decoding import decoded, weight
from .digests import instance_of_blob, instance_of_upload
from .framing import COPIES, DENSE_ROOM, ROOM, framing_head, put_together
from .messages_pb2 import (
    BatchReadBlobsRequest,
    BatchUpdateBlobsRequest,
    FindMissingBlobsRequest,
    GetActionResultRequest,
    GetCapabilitiesRequest,
    GetTreeRequest,
    QueryWriteStatusRequest,
    ReadRequest,
    UpdateActionResultRequest,
)
from .status import HTTP_STATUS, CallFailed, Code, encoded, failure, invalid

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from google.protobuf.message import Message
    from structlog.typing import FilteringBoundLogger

    from cache_actors.http.request import Request
    from cache_actors.http.responses import Response
    from cache_actors.metrics.registry import Metrics
    from cache_actors.services import Services
    from cache_actors.settings import Settings

    Result = bytes | list[bytes] | AsyncGenerator[bytes, None]
    """What a method answers: a message, whole or in pieces, or framed messages as they are made."""


@dataclass(frozen=True, slots=True)
class Method:
    """A method.

    Attributes:
        route: what it counts as.
        action: what it does, for the decision on access.
        call: what answers it, with a `Result`.
        message: what it takes; None for a stream, which `call` reads itself.
        limit: the setting with the size of its largest message.
        room: memory that is taken for a message, in its own size.
        instance_in: the name of the instance in the name that its message begins with.
        name_field: the field of that name.
    """

    route: Route
    action: Action
    call: Callable[..., Any]
    message: type[Message] | None
    limit: str = "grpc_max_cas_bytes"
    room: float = ROOM
    instance_in: Callable[[str], str] = str
    name_field: str = "instance_name"


_V2 = "/build.bazel.remote.execution.v2."
_STREAM = "/google.bytestream.ByteStream/"

METHODS = {
    _V2 + "Capabilities/GetCapabilities": Method(
        Route.CAPABILITIES, Action.READ, capabilities.get_capabilities, GetCapabilitiesRequest
    ),
    _V2 + "ActionCache/GetActionResult": Method(
        *(Route.ACTION_READ, Action.READ, action_cache.get_action_result),
        *(GetActionResultRequest, "grpc_max_ac_bytes"),
    ),
    _V2 + "ActionCache/UpdateActionResult": Method(
        *(Route.ACTION_STORE, Action.WRITE, action_cache.update_action_result),
        *(UpdateActionResultRequest, "grpc_max_ac_bytes"),
    ),
    _V2 + "ContentAddressableStorage/FindMissingBlobs": Method(
        *(Route.BLOB_FIND, Action.READ, content.find_missing_blobs, FindMissingBlobsRequest),
        room=DENSE_ROOM,
    ),
    _V2 + "ContentAddressableStorage/BatchReadBlobs": Method(
        *(Route.BLOB_READ, Action.READ, content.batch_read_blobs, BatchReadBlobsRequest),
        room=DENSE_ROOM,
    ),
    _V2 + "ContentAddressableStorage/BatchUpdateBlobs": Method(
        Route.BLOB_STORE, Action.WRITE, content.batch_update_blobs, BatchUpdateBlobsRequest
    ),
    _V2 + "ContentAddressableStorage/GetTree": Method(
        Route.BLOB_FIND, Action.READ, content.get_tree, GetTreeRequest
    ),
    _STREAM + "Read": Method(
        *(Route.BLOB_READ, Action.READ, byte_stream.read, ReadRequest),
        instance_in=instance_of_blob,
        name_field="resource_name",
    ),
    _STREAM + "Write": Method(
        *(Route.BLOB_STORE, Action.WRITE, byte_stream.write, None),
        instance_in=instance_of_upload,
    ),
    _STREAM + "QueryWriteStatus": Method(
        *(Route.BLOB_FIND, Action.WRITE, byte_stream.query_write_status),
        QueryWriteStatusRequest,
        instance_in=instance_of_upload,
        name_field="resource_name",
    ),
}

NO_METHOD = "There is no such method here"
NO_TRAILERS = "Trailers would be lost: this needs nginx 1.27.2 or newer, with grpc.conf"
"""Message for a call of which nobody says that it takes trailers."""

_HEADERS = {
    "Content-Type": "application/grpc",
    "Trailer": "grpc-status, grpc-message",
    "grpc-accept-encoding": "identity",
}


class GrpcFront:
    """Answers calls.

    Args:
        services: what methods may use.
        settings: the service's settings.
        metrics: where calls are counted.
        log: logs failures of the service.
    """

    def __init__(
        self, services: Services, settings: Settings, metrics: Metrics, log: FilteringBoundLogger
    ) -> None:
        self._services = services
        self._settings = settings
        self._metrics = metrics
        self._log = log

    async def answer(self, request: Request) -> Response:
        """Answer a call; all that goes wrong is in the answer."""
        request.call = Call()
        answer = _Answer(self, request)
        if "trailers" not in request.headers.get("TE", ""):
            text = NO_TRAILERS if request.path in METHODS else NO_METHOD
            answer.fail(CallFailed(Code.UNIMPLEMENTED, text))
            headers = {name.decode(): value.decode() for name, value in answer.trailers()}
            return empty_response(HTTPStatus.OK, {"Content-Type": "application/grpc", **headers})
        try:
            context, method = self._prepared(request)
            answer.deadline = context.deadline
            with trio.CancelScope(deadline=context.deadline) as scope:
                answer.give(await _result(context, method))
            if scope.cancelled_caught:
                answer.fail(trio.TooSlowError())
        except Exception as error:
            answer.fail(error)
        return TrailedResponse(answer, dict(_HEADERS))

    def _prepared(self, request: Request) -> tuple[CallContext, Method]:
        """The context and the method of a call."""
        method = METHODS.get(request.path)
        if method is None:
            raise CallFailed(Code.UNIMPLEMENTED, NO_METHOD)
        assert request.call is not None  # noqa: S101
        request.call.method = request.path.rpartition("/")[2]
        request.route = method.route
        content_type = request.headers.get("Content-Type")
        if content_type not in ("application/grpc", "application/grpc+proto"):
            raise CallFailed(Code.UNIMPLEMENTED, "Messages have to be application/grpc+proto")
        if request.headers.get("grpc-encoding", "identity") != "identity":
            raise CallFailed(Code.UNIMPLEMENTED, "Messages must not be compressed")
        most = int(getattr(self._settings, method.limit))
        context = CallContext(
            request,
            method.action,
            most,
            method.room,
            self._services,
            self._settings,
            self._metrics,
            method.instance_in,
        )
        return context, method

    def failure_of(self, request: Request, error: Exception) -> CallFailed:
        """The status for an exception, which is logged and counted if operators need to know."""
        failed = failure(error)
        if isinstance(error, MissingArtifact):
            record_missing_artifact(
                request, error.artifact_id, self._metrics, self._log, stored=False
            )
        if isinstance(error, StorageError):
            record_storage_error(error, request.id, self._metrics, self._log)
        if failed is None:
            self._log.error("request_crashed", exc_info=error)
            return CallFailed(Code.INTERNAL, "Internal server error")
        return failed


async def _result(context: CallContext, method: Method) -> Result:
    """What a method answers."""
    if method.message is None:
        answer: Result = await method.call(context)
        return answer
    data = await context.messages.next()
    if data is None:
        raise invalid("There is no message")
    if not await context.messages.is_at_end():
        raise invalid("There is more than one message")
    try:
        objects = await weight(method.message, data, context.services.call_memory.limit)
        await context.messages.hold(data, COPIES * len(data) + objects)
        message = await decoded(method.message(), data)
    except DecodeError:
        raise invalid(f"The message is no {method.message.__name__}") from None
    del data
    await context.authorise(method.instance_in(getattr(message, method.name_field)))
    result: Result = await method.call(context, message)
    return result


class _Answer(TrailedBody):
    """The body of an answer: framed messages, until they end or one of them cannot be made."""

    def __init__(self, front: GrpcFront, request: Request) -> None:
        self._front = front
        self._request = request
        self._message: list[bytes] | None = None
        self._stream: AsyncGenerator[bytes, None] | None = None
        self._failed: CallFailed | None = None
        self.deadline = float("inf")

    def give(self, result: Result) -> None:
        """Answer with a message, whole or in pieces, or with a stream of framed ones."""
        if isinstance(result, bytes):
            self._message = [result]
        elif isinstance(result, list):
            self._message = result
        else:
            self._stream = result
        self._note()

    def fail(self, error: Exception) -> None:
        """Answer with a status instead."""
        self._failed = self._front.failure_of(self._request, error)
        self._note()

    def _note(self) -> None:
        call = self._request.call
        assert call is not None  # noqa: S101
        call.status = self._failed.code.name if self._failed else Code.OK.name
        call.http_status = self._failed.http_status if self._failed else HTTP_STATUS[Code.OK]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        if self._message is not None:
            head = framing_head(sum(map(len, self._message)))
            for piece in put_together((head, *self._message)):
                yield piece
        if self._stream is None:
            return
        async with aclosing(self._stream) as stream:
            while True:
                try:
                    with trio.fail_at(self.deadline):
                        piece = await anext(stream)
                except StopAsyncIteration:
                    return
                except Exception as error:
                    self.fail(error)
                    return
                yield piece

    def trailers(self) -> list[tuple[bytes, bytes]]:
        """The status of the call."""
        if self._failed is None:
            return [(b"grpc-status", b"0")]
        trailers = [
            (b"grpc-status", b"%d" % self._failed.code),
            (b"grpc-message", encoded(self._failed.message).encode()),
        ]
        if self._failed.http_status == HTTPStatus.PAYMENT_REQUIRED:
            trailers.append((b"tuist-refusal-reason", b"payment_required"))
        return trailers
