"""The Tuist server's API, as far as the auth cache asks it.

It is reached as the environment says: with its CA certificates (`SSL_CERT_FILE`, `SSL_CERT_DIR`)
and through its proxies (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`).
"""

from __future__ import annotations

import json
import os
import ssl
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from http import HTTPStatus
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Any

import certifi
import httpx
import trio

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

TIMEOUT = 10.0
"""Seconds that a question may take from start to end."""

CONNECTIONS = 16
"""How many questions may be under way at once, unless a setting says otherwise."""


MOST_BYTES = 8 * 1024 * 1024
"""The longest answer that is read."""


class Access(Enum):
    """What Tuist says of a token. FORBIDDEN is also what a project outside its list means."""

    GRANTED = "granted"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"


@dataclass(frozen=True, slots=True)
class Answer:
    """Tuist's answer about a token: the projects it sees, in lower case, if access is granted.

    `oddity` is a sentence about what in the answer could not be read, and was left out; it is empty
    if there was nothing.
    """

    access: Access
    projects: frozenset[str] = frozenset()
    oddity: str = field(default="", compare=False)


def projects_url(server_url: str) -> str:
    """The URL that tells which projects a token sees, below whatever path `server_url` has."""
    return server_url.rstrip("/") + "/api/projects"


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


def read_projects(body: bytes | bytearray) -> Answer | None:
    """The projects in the body of Tuist's answer; None if it cannot be read as one.

    Items without a name are left out, and told of in the answer's `oddity`, as long as others have
    one.
    """
    try:
        items = json.loads(body.decode("utf-8-sig", errors="replace"))["projects"]
    except (ValueError, RecursionError, LookupError, TypeError):
        return None
    if not isinstance(items, list):
        return None
    names = [item.get("full_name") if isinstance(item, dict) else item for item in items]
    # No handle has other characters, and some of these are ASCII once they are in lower case.
    known = frozenset(name.lower() for name in names if isinstance(name, str) and name.isascii())
    unnamed = sum(not isinstance(name, str) for name in names)
    if unnamed and unnamed == len(items):
        return None
    oddity = f"{unnamed} of {len(items)} projects have no full_name" if unnamed else ""
    return Answer(Access.GRANTED, known, oddity)


class TuistApi:
    """Asks `GET {server_url}/api/projects`, over one pool of connections."""

    def __init__(self, server_url: str, connections: int = CONNECTIONS) -> None:
        self._url = projects_url(server_url)
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

    async def ask(self, authorization: str, request_id: str) -> Answer | str:
        """What Tuist says of the token in `authorization`, or why it could not be asked.

        Both arguments are forwarded as headers. Any trouble is a sentence, without the token in it:
        unreachable, too slow (`TIMEOUT`), an unexpected status or an unreadable body.
        """
        headers = {
            "Authorization": authorization.encode("latin-1"),
            "X-Request-ID": request_id,
            "Accept-Encoding": "identity",
        }
        try:
            with trio.fail_after(TIMEOUT):
                try:
                    response = await self._send(self._client, headers)
                except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
                    # Not a byte of an answer has come, and the question changes nothing.
                    response = await self._send(self._fresh, headers)
                try:
                    body = bytearray()
                    async for piece in response.aiter_bytes():
                        body += piece
                        if len(body) > MOST_BYTES:
                            return "The Tuist server's answer is too long"
                finally:
                    await response.aclose()
        except Exception as error:  # whatever it is, it is about this question only
            return f"The Tuist server cannot be reached: {_reason(error)}"
        return self._read(response, body)

    async def _send(self, client: httpx.AsyncClient, headers: dict[str, Any]) -> httpx.Response:
        return await client.send(
            client.build_request("GET", self._url, headers=headers), stream=True
        )

    def _read(self, response: httpx.Response, body: bytearray) -> Answer | str:
        if response.status_code == HTTPStatus.UNAUTHORIZED:
            return Answer(Access.UNAUTHORIZED)
        if response.status_code == HTTPStatus.FORBIDDEN:
            return Answer(Access.FORBIDDEN)
        if response.status_code != HTTPStatus.OK:
            return f"The Tuist server answered {described(response)}"
        return read_projects(body) or "The Tuist server's answer cannot be read"


def described(response: httpx.Response) -> str:
    """The status of a response, and of a redirect to which host it leads."""
    if not response.has_redirect_location:
        return str(response.status_code)
    try:
        target = httpx.URL(response.headers["Location"])
        where = f"{target.scheme}://{target.host}" if target.host else "a path of its own"
    except httpx.InvalidURL:
        where = "what is no URL"
    return f"{response.status_code}, a redirect to {where[:200]}"


def _reason(error: Exception) -> str:
    """What went wrong, for people; of messages only those that can hold no header, so no token."""
    name = type(error).__name__
    if not isinstance(error, (httpx.ConnectError, httpx.ProxyError)):
        return name
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):  # which says more
        cause = cause.__cause__ or cause.__context__
    return f"{name}: {cause or error}"
