"""A stand-in for the Tuist server: it knows a few tokens and answers `GET /api/projects`.

For development and tests. It runs in a thread of its own, so that whoever talks to it does so over
a real connection.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self


@dataclass(frozen=True, slots=True)
class Question:
    """A question that has been asked."""

    authorization: str | None
    request_id: str | None


@dataclass(slots=True)
class StandInTuist:
    """A Tuist server on loopback, as a context manager; its attributes can be changed as it runs.

    Attributes:
        tokens: the full names of the projects that each token sees.
        status: if set, the status of every answer, with an empty object as its body.
        delay: seconds before each answer.
        questions: what has been asked so far.
    """

    tokens: dict[str, list[str]] = field(default_factory=dict)
    status: int | None = None
    delay: float = 0.0
    questions: list[Question] = field(default_factory=list)
    _port: int = 0
    _server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        """The URL of this server; the same after it has been stopped and started again."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen."""
        owner = self

        class Handler(_Handler):
            tuist = owner

        self._server = _Server(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections from now on."""
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
        """Status and body of the answer to a question."""
        if self.status is not None:
            return self.status, {}
        names = self.tokens.get((authorization or "").removeprefix("Bearer "))
        if names is None:
            return HTTPStatus.UNAUTHORIZED, {"message": "Unauthorized"}
        projects = [{"id": number, "full_name": name} for number, name in enumerate(names, 1)]
        return HTTPStatus.OK, {"projects": projects}


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that leave before their answer."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    tuist: StandInTuist

    def do_GET(self) -> None:
        """Answer one question."""
        authorization = self.headers.get("Authorization")
        self.tuist.questions.append(Question(authorization, self.headers.get("X-Request-ID")))
        time.sleep(self.tuist.delay)
        status, answer = (
            self.tuist.answer(authorization)
            if self.path == "/api/projects"
            else (HTTPStatus.NOT_FOUND, {})
        )
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""
