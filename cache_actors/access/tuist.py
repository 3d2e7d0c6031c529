"""The client for Tuist: the sources of a token's grants, in this order.

1. The token's own claims, if it is a JWT that `TUIST_TOKEN_SECRET` verifies
   (`TuistApi.grants_in_token`). Its grants are all that it may do. Without grants it may read and
   write in the projects that it lists, and the server is asked about others.
2. `POST /oauth2/introspect`, if the cache has a credential of its own (`TUIST_CLIENT_ID`): the
   grants of any token.
3. `GET /api/cache/access`, with the client's token: the projects in which it may read and write.
4. `GET /api/projects`, likewise, for servers too old for 3.

A path for which the server answers 404 is skipped for ten minutes (`SKIP_PATH_SECONDS`). No other
failure leads to the next source: 3 and 4 do not tell reads from writes, so a read-only token could
write while 2 fails. So a refused credential counts as an outage.

The environment sets CA certificates (`SSL_CERT_FILE`, `SSL_CERT_DIR`) and proxies (`HTTPS_PROXY`,
`HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`) for the connection.
"""

from __future__ import annotations

import math
import os
import ssl
import time
from dataclasses import dataclass, field, replace
from functools import lru_cache
from http import HTTPStatus
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Any

import certifi
import httpx
import trio

from .grants import (
    LEEWAY,
    Access,
    TuistReply,
    read_claims,
    read_introspection,
    read_message,
    read_projects,
    seconds,
)
from .signed_token import unverified_claims, verified_claims

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from cache_actors.settings import Settings

TIMEOUT = 10.0
"""Longest time for all requests to Tuist about one token, in seconds."""

CONNECTIONS = 16
"""Default of the largest number of concurrent questions to Tuist."""

MAX_BYTES = 8 * 1024 * 1024
"""Largest answer of Tuist's that is read, in bytes."""

SKIP_PATH_SECONDS = 600.0
"""Time for which a path that the server does not have is skipped, in seconds."""

CLOCK_IS_OFF_SECONDS = 3.0
"""Lifetime, in seconds, of a yes for a token that has expired by this machine's clock."""

INTROSPECTION, ACCESS, PROJECTS = "/oauth2/introspect", "/api/cache/access", "/api/projects"

UNREADABLE = "The Tuist server's answer cannot be read"
REFUSED = (
    "The Tuist server refuses the cache's own credential, TUIST_CLIENT_ID and TUIST_CLIENT_SECRET"
)
NO_INTROSPECTION = f"no {INTROSPECTION}, for which TUIST_CLIENT_ID is set; asked as without"


@dataclass(frozen=True, slots=True)
class Credential:
    """The cache's own credential at the Tuist server, for introspection."""

    client_id: str
    client_secret: str = field(repr=False)

    def question(self, token: str) -> dict[str, str]:
        """The body of an introspection request for `token`."""
        return {
            "client_id": self.client_id,
            "client_secret": self.client_secret,
            "token": token,
        }


def url_at(server_url: str, path: str) -> str:
    """The URL of the API's `path`, which is appended to `server_url` with any path in that."""
    return server_url.rstrip("/") + path


def client_options() -> dict[str, Any]:
    """Options for an httpx client that reaches the Tuist server as the service does.

    CA certificates are those of the environment, or else the system's and certifi's together.

    Raises:
        OSError: the environment names certificates that cannot be read.
    """
    return {
        "verify": _certificates(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")),
        "timeout": TIMEOUT,
        # Keeps credentials in .netrc or the URL from replacing the client's token.
        "auth": httpx.Auth(),
        # Servers on this machine are not reached through a proxy.
        "mounts": dict.fromkeys(("all://127.0.0.1", "all://localhost", "all://[::1]")),
        # A session cookie for one token must never authorise another.
        "cookies": CookieJar(DefaultCookiePolicy(allowed_domains=())),
    }


@lru_cache(1)
def _certificates(file: str | None, folder: str | None) -> ssl.SSLContext:
    """The CA certificates to trust, given SSL_CERT_FILE and SSL_CERT_DIR; cached, since reading
    them takes 20 to 40 ms.

    Raises:
        OSError: a path cannot be read, for which OpenSSL itself would just trust nobody.
    """
    certificates = ssl.create_default_context()
    for name, path in ("SSL_CERT_FILE", file), ("SSL_CERT_DIR", folder):
        if path and not os.access(path, os.R_OK):
            raise OSError(f"{name} is {path!r}, which is not there or may not be read")
    if file:
        certificates.load_verify_locations(file)
    if not file and not folder:
        certificates.load_verify_locations(certifi.where())
    return certificates


class TuistApi:
    """A client for Tuist's decisions on tokens, with a pool of connections.

    Args:
        server_url: URL of the Tuist server.
        connections: largest number of concurrent questions.
        token_secret: secret with which Tuist signs its tokens; empty if unknown.
        credential: credential for introspection; None to do without.
    """

    def __init__(
        self,
        server_url: str,
        connections: int = CONNECTIONS,
        token_secret: bytes = b"",
        credential: Credential | None = None,
    ) -> None:
        self._server_url = server_url
        self._token_secret = token_secret
        self._credential = credential
        self._missing: dict[str, float] = {}  # paths that the server lacks, and times to try again
        options = client_options()
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._client = httpx.AsyncClient(limits=limits, **options)
        # Retries requests for which a kept-alive connection was closed.
        once = httpx.Limits(max_connections=connections, max_keepalive_connections=0)
        self._fresh = httpx.AsyncClient(limits=once, **options)

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        await self._fresh.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._fresh.__aexit__(kind, error, traceback)
        await self._client.__aexit__(kind, error, traceback)

    def grants_in_token(self, authorization: str) -> TuistReply | None:
        """The grants in the claims of the token in `authorization`, without a request to Tuist.

        None if the token is not signed by Tuist, or not in force.
        """
        claims = self._verified(authorization)
        return None if claims is None else read_claims(claims, time.time())

    async def ask(self, authorization: str, request_id: str) -> TuistReply | str:
        """Ask the server about the token in `authorization`, and return its grants or a failure.

        A failure is a sentence without the token in it: the server is unreachable or too slow
        (`TIMEOUT`), or its status or body is unexpected. `request_id` is forwarded.
        """
        with trio.move_on_after(TIMEOUT):
            return await self._ask(authorization, request_id)
        return "The Tuist server cannot be reached: TooSlowError"

    async def _ask(self, authorization: str, request_id: str) -> TuistReply | str:
        token = {"Authorization": authorization.encode("latin-1"), "X-Request-ID": request_id}
        if self._credential is not None and self._has(INTROSPECTION):
            scheme, _, bare = authorization.partition(" ")
            if scheme.lower() != "bearer" or not bare:
                return TuistReply(Access.UNAUTHORIZED)
            question = self._credential.question(bare)
            told = await self._send("POST", INTROSPECTION, {"X-Request-ID": request_id}, question)
            if not self._is_missing(INTROSPECTION, told):
                return _within(_of_introspection(told), authorization)
        answer = await self._send("GET", ACCESS, token) if self._has(ACCESS) else None
        if answer is None or self._is_missing(ACCESS, answer):
            answer = await self._send("GET", PROJECTS, token)
        reply = _of_projects(answer)
        if isinstance(reply, str):
            return reply
        if reply.access is Access.UNAUTHORIZED and self._cannot_verify(authorization):
            return TuistReply(Access.UNVERIFIABLE)
        if self._credential is not None:
            reply = replace(reply, oddity=NO_INTROSPECTION)
        return _within(reply, authorization)

    def _verified(self, authorization: str) -> dict[str, Any] | None:
        return verified_claims(authorization, self._token_secret) if self._token_secret else None

    def _cannot_verify(self, authorization: str) -> bool:
        """Whether the token is a cache token, which Tuist's API refuses, and not signed by Tuist
        as far as this service can verify."""
        is_cache_token = unverified_claims(authorization).get("typ") == "cache"
        return is_cache_token and self._verified(authorization) is None

    def _has(self, path: str) -> bool:
        """Whether the server may have `path`: no 404 for it is remembered."""
        return trio.current_time() >= self._missing.get(path, -math.inf)

    def _is_missing(self, path: str, answer: _Answer | str) -> bool:
        """Whether `answer` is a 404 for `path`, which is remembered."""
        if isinstance(answer, str) or answer.status != HTTPStatus.NOT_FOUND:
            return False
        self._missing[path] = trio.current_time() + SKIP_PATH_SECONDS
        return True

    async def _send(
        self, method: str, path: str, headers: dict[str, Any], content: object = None
    ) -> _Answer | str:
        """Send one request, and return its answer or a failure."""

        async def exchange(client: httpx.AsyncClient) -> httpx.Response:
            url = url_at(self._server_url, path)
            plain = headers | {"Accept-Encoding": "identity"}
            return await client.send(
                client.build_request(method, url, headers=plain, json=content), stream=True
            )

        try:
            try:
                response = await exchange(self._client)
            except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
                # No byte of an answer has come, and the request is idempotent.
                response = await exchange(self._fresh)
            try:
                body = bytearray()
                async for piece in response.aiter_bytes():
                    body += piece
                    if len(body) > MAX_BYTES:
                        return "The Tuist server's answer is too long"
            finally:
                await response.aclose()
        except Exception as error:  # any error concerns this request only
            return f"The Tuist server cannot be reached: {_reason(error)}"
        return _Answer(response.status_code, bytes(body), described(response))


def tuist_api(settings: Settings) -> TuistApi:
    """Make a client of the Tuist server."""
    secret = settings.tuist_token_secret
    return TuistApi(
        str(settings.server_url),
        settings.tuist_connections,
        secret.get_secret_value().encode(errors="surrogateescape") if secret else b"",
        credential(settings),
    )


def credential(settings: Settings) -> Credential | None:
    """The cache's own credential at the Tuist server; None if none is set."""
    client_id, client_secret = settings.tuist_client_id, settings.tuist_client_secret
    if client_id is None or client_secret is None:
        return None
    return Credential(client_id, client_secret.get_secret_value())


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer of the server's; `described` is its status for messages."""

    status: int
    body: bytes
    described: str


def _of_projects(answer: _Answer | str) -> TuistReply | str:
    """The grants, or a failure, in an answer to a request with the client's own token."""
    if isinstance(answer, str):
        return answer
    match answer.status:
        case HTTPStatus.OK:
            return read_projects(answer.body) or UNREADABLE
        case HTTPStatus.UNAUTHORIZED:
            return TuistReply(Access.UNAUTHORIZED)
        case HTTPStatus.PAYMENT_REQUIRED:
            return TuistReply(Access.PAYMENT_REQUIRED, message=read_message(answer.body))
        case HTTPStatus.FORBIDDEN:
            return TuistReply(Access.FORBIDDEN)
        case _:
            return f"The Tuist server answered {answer.described}"


def _of_introspection(answer: _Answer | str) -> TuistReply | str:
    """The grants, or a failure, in an introspection answer. A 401 refuses the cache itself."""
    if isinstance(answer, str):
        return answer
    match answer.status:
        case HTTPStatus.OK:
            return read_introspection(answer.body, time.time()) or UNREADABLE
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
            return f"{REFUSED} ({answer.status})"
        case HTTPStatus.PAYMENT_REQUIRED:
            return TuistReply(Access.PAYMENT_REQUIRED, message=read_message(answer.body))
        case _:
            return f"The Tuist server answered {answer.described}"


def _within(reply: TuistReply | str, authorization: str) -> TuistReply | str:
    """Limit the lifetime of `reply` to the token's `exp`. A forged `exp` could only shorten it. If
    the server grants access to an expired token, this machine's clock is off."""
    if isinstance(reply, str) or reply.access is not Access.GRANTED:
        return reply
    left = reply.lifetime
    ends = seconds(unverified_claims(authorization).get("exp"))
    if ends is not None:
        left = min(left, ends + LEEWAY - time.time())
    return replace(reply, lifetime=left if left > 0 else CLOCK_IS_OFF_SECONDS)


def described(response: httpx.Response) -> str:
    """The status of a response, with the target host of a redirect."""
    if not response.has_redirect_location:
        return str(response.status_code)
    try:
        target = httpx.URL(response.headers["Location"])
        where = f"{target.scheme}://{target.host}" if target.host else "a path of its own"
    except httpx.InvalidURL:
        where = "something that is not a URL"
    return f"{response.status_code}, a redirect to {where[:200]}"


def _reason(error: Exception) -> str:
    """A description of an error that cannot hold a header, and so no token."""
    name = type(error).__name__
    if not isinstance(error, (httpx.ConnectError, httpx.ProxyError)):
        return name
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):  # the most specific message
        cause = cause.__cause__ or cause.__context__
    return f"{name}: {cause or error}"
