"""One request from its first byte to its last: in place of Quart-Trio's own connection class.

Quart-Trio runs two tasks for a request, one that handles it and one that pushes the body into an
unbounded buffer, and cancels both when the connection closes. That leaves uploads without
backpressure and size limits, and connections that never close. Here one task does it all: the
handler pulls the body (`http/request.py`), and the response is sent from the same task.

What remains to be done by hand is the rest of a body that the handler did not want, if only the
mark of its end. Hypercorn cannot finish a response while that lies unread in its queue, and closing
a socket with unread bytes resets it, which can cost the client the response that it is about to
read. So the response is sent, then the rest is read and dropped for a while, and then the response
is ended. Behind nginx a client that speaks HTTP/2 would have its stream reset by an early response,
and some take that for a failure: nginx says so, and then the rest is dropped before the response.
"""

from __future__ import annotations

from contextlib import aclosing
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

import trio
from quart.utils import encode_headers
from quart_trio.asgi import TrioASGIHTTPConnection

from cache_actors.http.errors import CLIENT_CLOSED_REQUEST, BodyStalled, ClientDisconnected
from cache_actors.http.request import Request
from cache_actors.http.request_id import request_id
from cache_actors.http.responses import TrailedResponse
from cache_actors.kinds import Kind
from cache_actors.metrics.request_event import UPLOADS

if TYPE_CHECKING:
    from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, ASGISendEvent

    from cache_actors.http.app import CacheApp
    from cache_actors.http.responses import Response

LINGER_SECONDS = 5.0
"""Longest pause in an unwanted body while it is being dropped, in seconds."""

LINGER_BYTES = 64 * 1024 * 1024
"""Largest rest of an unwanted body that is dropped, in bytes; with more, the connection is closed
instead. If what the request may store is larger, it is as much as that."""

TRAILERS = "http.response.trailers"
"""ASGI's message with trailers, and the extension of a connection that can send them before the
request is complete."""

BODY_HEADER = "X-Cache-Body"
"""Header that nginx sends if the body has to be read before the response."""


class RequestCycle(TrioASGIHTTPConnection):
    """Handles one request in one task."""

    app: CacheApp
    _sent: int

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Handle the request, answer it, and log it."""
        request = Request(self.app, self.scope, receive)
        request.id = request_id(request.headers.get("X-Request-ID", ""))
        if _has_no_body(request):
            await request.body.pull()  # the mark of its end, which is there already
        began = trio.current_time()
        # What is said of a request that the end of the service has overtaken.
        status: int = HTTPStatus.SERVICE_UNAVAILABLE
        self._sent = 0
        try:
            with self.app.in_flight.one():
                response = await self.app.handle_request(request)
                status = response.status_code
                if not request.body.complete and BODY_HEADER in request.headers:
                    await _drop_rest(request)
                if isinstance(response, TrailedResponse):
                    await self._respond_with_trailers(request, response, send)
                elif status != CLIENT_CLOSED_REQUEST:
                    await self._respond(request, response, send)
        finally:
            if request.call is not None:
                request.call.resources.close()
                status = request.call.http_status
            self.app.record_request(request, status, self._sent, trio.current_time() - began)

    async def _respond_with_trailers(
        self, request: Request, response: TrailedResponse, send: ASGISendCallable
    ) -> None:
        """Send a response whose trailers are known at its end; its pieces report all errors.

        A client that is still sending hears the status at once, if the connection can do both.
        """
        start = self._start_of(request, response)
        start["trailers"] = True
        await send(cast("ASGISendEvent", start))
        last = b""
        async with response.pieces, aclosing(response.pieces.__aiter__()) as pieces:
            async for piece in pieces:
                if last:
                    await send(_body(last, more=True))
                last = piece
                self._sent += len(piece)
        if not request.body.complete and TRAILERS not in request.scope["extensions"]:
            await send(_body(last, more=True))
            last = b""
            await _drop_rest(request)
        await send(_body(last, more=False))
        trailers = {"type": TRAILERS, "headers": response.pieces.trailers()}
        await send(cast("ASGISendEvent", {**trailers, "more_trailers": False}))
        if not request.body.complete:
            await _drop_rest(request)

    def _start_of(self, request: Request, response: Response) -> dict[str, object]:
        """The head of a response, as ASGI has it."""
        response.headers["X-Request-ID"] = request.id
        if self.app.in_flight.draining or _is_left_waiting(request):
            response.headers["Connection"] = "close"
        return {
            "type": "http.response.start",
            "status": response.status_code,
            "headers": encode_headers(response.headers),
        }

    async def _respond(self, request: Request, response: Response, send: ASGISendCallable) -> None:
        """Send the response, and count the bytes of its body."""
        start = self._start_of(request, response)
        try:
            async with response.response as pieces:
                await send(cast("ASGISendEvent", start))
                async for piece in pieces:
                    await send(_body(piece, more=True))
                    self._sent += len(piece)
            if not request.body.complete:
                await _drop_rest(request)
            await send(_body(b"", more=False))
        except* Exception as errors:
            # The response has begun. Returning without its end makes Hypercorn close the
            # connection, from which the client sees that it is incomplete.
            self.app.log.exception("response_aborted", request_id=request.id, exc_info=errors)


def _body(piece: bytes, *, more: bool) -> ASGISendEvent:
    return {"type": "http.response.body", "body": piece, "more_body": more}


def _has_no_body(request: Request) -> bool:
    """Whether a request announces no body (RFC 9112, section 6)."""
    return request.content_length is None and "Transfer-Encoding" not in request.headers


def _is_left_waiting(request: Request) -> bool:
    """Whether a client has not sent its body as it waits to be told to, which now nobody will.

    Whether it sends the body all the same cannot be known, nor so where its next request begins.
    """
    body = request.body
    return not body.complete and body.received == 0 and "Expect" in request.headers


async def _drop_rest(request: Request) -> None:
    """Read what is left of the request's body and forget it, if it is not too much."""
    kind = UPLOADS.get(request.route, Kind.CAS)
    most = max(LINGER_BYTES, request.app.settings.largest(kind))
    with trio.move_on_after(LINGER_SECONDS) as patience:
        while not request.body.complete and request.body.received < most:
            try:
                await request.body.pull()
            except (ClientDisconnected, BodyStalled):
                break
            patience.deadline = trio.current_time() + LINGER_SECONDS
