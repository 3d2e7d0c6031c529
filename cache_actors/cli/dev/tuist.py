"""A stand-in for the Tuist server, for development and tests.

The stand-in has the three endpoints that the cache asks (`access/tuist.py`), in today's formats,
and knows a few tokens. It runs in a thread of its own, and answers over real connections.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from cache_actors.access.tuist import ACCESS, INTROSPECTION, PROJECTS


@dataclass(frozen=True, slots=True)
class Question:
    """A request received; `authorization` has the client's token, or the introspected one."""

    authorization: str | None
    request_id: str | None
    path: str = field(default=ACCESS, compare=False)


@dataclass(slots=True)
class StandInTuist:
    """A Tuist server on loopback, as a context manager. Its attributes may change while it runs.

    Attributes:
        tokens: by token, the full names of the projects that it may read and write.
        grants: by token, the project grants in an introspection, instead of those from `tokens`.
        unpaid: the full names of projects whose account is over its plan.
        paths: the available endpoints; others are 404, as on an older server.
        credential: the client id and secret required for an introspection; None refuses all.
        status: the status of every answer, with an empty object as body; None for real answers.
        delay: the delay of each answer, in seconds.
        questions: the requests received so far.
    """

    tokens: dict[str, list[str]] = field(default_factory=dict)
    grants: dict[str, dict[str, Any]] = field(default_factory=dict)
    unpaid: list[str] = field(default_factory=list)
    paths: frozenset[str] = frozenset({INTROSPECTION, ACCESS, PROJECTS})
    credential: tuple[str, str] | None = None
    status: int | None = None
    delay: float = 0.0
    questions: list[Question] = field(default_factory=list)
    _port: int = 0
    _server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        """The URL of this server, which stays the same after a stop and another start."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start to listen, at the same port as before if it was stopped."""
        owner = self

        class Handler(_Handler):
            tuist = owner

        self._server = _Server(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Stop listening, so that connections are refused."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def answer(self, authorization: str | None) -> tuple[int, object]:
        """The status and body of the answer at `ACCESS`, about a client's token."""
        if self.status is not None:
            return self.status, {}
        names = self.tokens.get((authorization or "").removeprefix("Bearer "))
        if names is None:
            return HTTPStatus.UNAUTHORIZED, {"message": "Unauthorized"}
        unpaid = [name for name in names if name in self.unpaid]
        paid = [name for name in names if name not in unpaid]
        return HTTPStatus.OK, {"projects": paid} | ({"payment_required": unpaid} if unpaid else {})

    def answer_at(self, path: str, authorization: str | None) -> tuple[int, object]:
        """The status and body of the answer to `GET path`."""
        if path not in self.paths - {INTROSPECTION}:
            return HTTPStatus.NOT_FOUND, {"message": "Not Found"}
        status, body = self.answer(authorization)
        if path == PROJECTS and isinstance(body, dict) and "projects" in body:
            names = body["projects"]
            items = [{"id": number, "full_name": name} for number, name in enumerate(names, 1)]
            return status, {"projects": items}
        return status, body

    def introspect(self, question: dict[str, str]) -> tuple[int, object]:
        """The status and body of the answer to an introspection request (RFC 7662)."""
        if INTROSPECTION not in self.paths:
            return HTTPStatus.NOT_FOUND, {"message": "Not Found"}
        if self.status is not None:
            return self.status, {}
        if (question.get("client_id"), question.get("client_secret")) != self.credential:
            return HTTPStatus.UNAUTHORIZED, {"error": "invalid_client"}
        token = question.get("token", "")
        names = self.tokens.get(token)
        grants = self.grants.get(token) or ({"write": names} if names is not None else None)
        if grants is None:
            return HTTPStatus.OK, {"active": False}
        return HTTPStatus.OK, {"active": True, "sub": "1", "cache_grants": {"project": grants}}


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Ignore clients that disconnect before their answer."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    tuist: StandInTuist

    def do_GET(self) -> None:
        """Answer a request about the client's own token."""
        authorization = self.headers.get("Authorization")
        self._note(authorization)
        self._answer(*self.tuist.answer_at(self.path, authorization))

    def do_POST(self) -> None:
        """Answer an introspection request."""
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._note(f"Bearer {question.get('token')}")
        known = self.path == INTROSPECTION
        self._answer(*(self.tuist.introspect(question) if known else (HTTPStatus.NOT_FOUND, {})))

    def _note(self, authorization: str | None) -> None:
        request_id = self.headers.get("X-Request-ID")
        self.tuist.questions.append(Question(authorization, request_id, self.path))
        time.sleep(self.tuist.delay)

    def _answer(self, status: int, answer: object) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Discard the access log."""
