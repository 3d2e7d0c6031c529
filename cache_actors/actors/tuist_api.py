"""The Tuist server's API, as far as the auth cache asks it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING

import httpx
import msgspec
import trio

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

TIMEOUT = 10.0
"""Seconds that a question may take from start to end."""

CONNECTIONS = 16
"""How many questions may be under way at once."""


MOST_BYTES = 8 * 1024 * 1024
"""The longest answer that is read."""


class Access(Enum):
    """What Tuist says of a token. FORBIDDEN is also what a project outside its list means."""

    GRANTED = "granted"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"


@dataclass(frozen=True, slots=True)
class Answer:
    """Tuist's answer about a token: the projects it sees, in lower case, if access is granted."""

    access: Access
    projects: frozenset[str] = frozenset()


class _Project(msgspec.Struct):
    full_name: str


class _Projects(msgspec.Struct):
    projects: list[_Project | str]


class TuistApi:
    """Asks `GET {server_url}/api/projects`, over one pool of connections."""

    def __init__(self, server_url: str) -> None:
        self._url = server_url.rstrip("/") + "/api/projects"
        self._client = httpx.AsyncClient(
            timeout=TIMEOUT,
            limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS),
            trust_env=False,
            # A session that Tuist opens for one token must never speak for another.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        )
        self._decode = msgspec.json.Decoder(_Projects).decode

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
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
                async with self._client.stream("GET", self._url, headers=headers) as response:  # type: ignore[arg-type]
                    body = bytearray()
                    async for piece in response.aiter_bytes():
                        body += piece
                        if len(body) > MOST_BYTES:
                            return "The Tuist server's answer is too long"
        except (httpx.HTTPError, trio.TooSlowError) as error:
            return f"The Tuist server cannot be reached: {type(error).__name__}"
        return self._read(response, body)

    def _read(self, response: httpx.Response, body: bytearray) -> Answer | str:
        if response.status_code == HTTPStatus.UNAUTHORIZED:
            return Answer(Access.UNAUTHORIZED)
        if response.status_code == HTTPStatus.FORBIDDEN:
            return Answer(Access.FORBIDDEN)
        if response.status_code != HTTPStatus.OK:
            return f"The Tuist server answered {response.status_code}"
        try:
            items = self._decode(body).projects
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return "The Tuist server's answer cannot be read"
        names = (item if isinstance(item, str) else item.full_name for item in items)
        return Answer(Access.GRANTED, frozenset(name.lower() for name in names))
