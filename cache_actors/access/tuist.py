"""Who is asked about a token, in which order, and how.

1. The token itself, if it is a JWT that `TUIST_TOKEN_SECRET` verifies (`TuistApi.word_in`). Its
   grants are all that it may do. Without grants it may do all in the projects that it lists, and of
   others the server is asked.
2. `POST /oauth2/introspect`, if the cache has a credential of its own for that (`TUIST_CLIENT_ID`):
   Tuist's grants for any token.
3. `GET /api/cache/access`, with the client's token: the projects in which it may do all.
4. `GET /api/projects`, likewise, if the server is too old for 3.

What a server has no path for (404), it is not asked again for ten minutes (`RETRY_SECONDS`).
Nothing else leads from one question to the next: 3 and 4 know no actions, so that a token that may
only read would write as long as 2 fails. So a refused credential is trouble like an outage.

The server is reached as the environment says: with its CA certificates (`SSL_CERT_FILE`,
`SSL_CERT_DIR`) and through its proxies (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`).
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
"""Longest time that one question to Tuist may take, in seconds."""

CONNECTIONS = 16
"""Largest number of questions to Tuist at once, unless a setting says otherwise."""

MAX_BYTES = 8 * 1024 * 1024
"""Largest answer of Tuist that is read, in bytes."""

RETRY_SECONDS = 600.0
"""Time after which a server is asked again for what it had no path for, in seconds."""

CLOCK_IS_OFF_SECONDS = 3.0
"""Lifetime of a yes of the server's about a token that has ended by our clock, in seconds."""

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
        """The body of a question about `token`."""
        return {
            "client_id": self.client_id,
            "client_secret": self.client_secret,
            "token": token,
        }


def url_at(server_url: str, path: str) -> str:
    """The URL of a path of the server's API, below whatever path `server_url` has."""
    return server_url.rstrip("/") + path


def client_options() -> dict[str, Any]:
    """How any client of httpx reaches the Tuist server: one built with these options asks as the
    service does.

    Its CA certificates are those of the environment, or else the system's and certifi's together.
    """
    return {
        "verify": _certificates(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")),
        "timeout": TIMEOUT,
        # Nothing adds credentials of its own to a request, or replaces those of the client.
        "auth": httpx.Auth(),
        # What listens on this machine is not to be reached through a proxy.
        "mounts": dict.fromkeys(("all://127.0.0.1", "all://localhost", "all://[::1]")),
        # A session that Tuist opens for one token must never speak for another.
        "cookies": CookieJar(DefaultCookiePolicy(allowed_domains=())),
    }


@lru_cache(1)
def _certificates(file: str | None, folder: str | None) -> ssl.SSLContext:
    """Whom to trust, if the environment has these: read once, as that takes 20 to 40 ms.

    Raises:
        OSError: what they name cannot be read. OpenSSL itself would trust nobody then.
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
    """Tuist's word on tokens, over one pool of connections.

    Args:
        server_url: where the Tuist server is.
        connections: how many questions there may be at once.
        token_secret: with which Tuist signs its tokens, if that is known.
        credential: for introspection, if there is one.
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
        self._missing: dict[str, float] = {}  # paths that the server has not, and until when
        options = client_options()
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._client = httpx.AsyncClient(limits=limits, **options)
        # For a question whose kept connection was closed just as it was sent.
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

    def word_in(self, authorization: str) -> TuistReply | None:
        """What the token in `authorization` says of itself, if Tuist has signed it and it is in
        force.

        Nobody is asked for that.
        """
        claims = self._verified(authorization)
        return None if claims is None else read_claims(claims, time.time())

    async def ask(self, authorization: str, request_id: str) -> TuistReply | str:
        """The server's word on the token in `authorization`, or the reason that there is none.

        Any trouble is a sentence, without the token in it: unreachable, too slow (`TIMEOUT`), an
        unexpected status or an unreadable body. `request_id` is forwarded.
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
        """Whether a cache token has been asked about as if it were another: as nothing else can
        be."""
        is_cache_token = unverified_claims(authorization).get("typ") == "cache"
        return is_cache_token and self._verified(authorization) is None

    def _has(self, path: str) -> bool:
        """Whether the server has a path, as far as is known."""
        return trio.current_time() >= self._missing.get(path, -math.inf)

    def _is_missing(self, path: str, answer: _Answer | str) -> bool:
        """Whether an answer says that the server has no such path; that is remembered."""
        if isinstance(answer, str) or answer.status != HTTPStatus.NOT_FOUND:
            return False
        self._missing[path] = trio.current_time() + RETRY_SECONDS
        return True

    async def _send(
        self, method: str, path: str, headers: dict[str, Any], content: object = None
    ) -> _Answer | str:
        """The answer to one question, or the reason that there is none."""

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
                # Not a byte of an answer has come, and the question changes nothing.
                response = await exchange(self._fresh)
            try:
                body = bytearray()
                async for piece in response.aiter_bytes():
                    body += piece
                    if len(body) > MAX_BYTES:
                        return "The Tuist server's answer is too long"
            finally:
                await response.aclose()
        except Exception as error:  # whatever it is, it is about this question only
            return f"The Tuist server cannot be reached: {_reason(error)}"
        return _Answer(response.status_code, bytes(body), described(response))


def tuist_api(settings: Settings) -> TuistApi:
    """A connection to the Tuist server, as it is asked with these settings."""
    secret = settings.tuist_token_secret
    return TuistApi(
        str(settings.server_url),
        settings.tuist_connections,
        secret.get_secret_value().encode(errors="surrogateescape") if secret else b"",
        credential(settings),
    )


def credential(settings: Settings) -> Credential | None:
    """The cache's own credential at the Tuist server, if it has one."""
    client_id, client_secret = settings.tuist_client_id, settings.tuist_client_secret
    if client_id is None or client_secret is None:
        return None
    return Credential(client_id, client_secret.get_secret_value())


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer of the server's. `described` is its status, in words for people."""

    status: int
    body: bytes
    described: str


def _of_projects(answer: _Answer | str) -> TuistReply | str:
    """What is made of an answer about the client's own token."""
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
    """What is made of an answer to the cache itself, which is the one that a 401 refuses there."""
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
    """`reply`, for no longer than the token lasts by its own claims. They may be forged, but can
    make it only shorter. Where the server accepts what has ended by our clock, that is off."""
    if isinstance(reply, str) or reply.access is not Access.GRANTED:
        return reply
    left = reply.lifetime
    ends = seconds(unverified_claims(authorization).get("exp"))
    if ends is not None:
        left = min(left, ends + LEEWAY - time.time())
    return replace(reply, lifetime=left if left > 0 else CLOCK_IS_OFF_SECONDS)


def described(response: httpx.Response) -> str:
    """The status of a response, and of a redirect to which host it leads."""
    if not response.has_redirect_location:
        return str(response.status_code)
    try:
        target = httpx.URL(response.headers["Location"])
        where = f"{target.scheme}://{target.host}" if target.host else "a path of its own"
    except httpx.InvalidURL:
        where = "something that is not a URL"
    return f"{response.status_code}, a redirect to {where[:200]}"


def _reason(error: Exception) -> str:
    """The cause of an error in words that can hold no header, and so no token."""
    name = type(error).__name__
    if not isinstance(error, (httpx.ConnectError, httpx.ProxyError)):
        return name
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):  # which says more
        cause = cause.__cause__ or cause.__context__
    return f"{name}: {cause or error}"
