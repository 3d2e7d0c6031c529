"""Grants: parsers of Tuist's answers about a token and of a token's claims. Pure functions, no I/O.

Handles are compared in lower case. A handle that is not ASCII is left out: no valid one is, and
some such characters become ASCII in lower case.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Action(Enum):
    """An action in a project: READ retrieves files, WRITE is anything else."""

    READ = "read"
    WRITE = "write"


class Access(Enum):
    """Tuist's verdict on a token. A project that Tuist does not name is FORBIDDEN too.

    UNVERIFIABLE is a cache token, which Tuist's server refuses as such, and this service has no
    secret or credential to verify. Clients get the same answer as for UNAUTHORIZED.
    """

    GRANTED = "granted"
    UNAUTHORIZED = "unauthorized"
    UNVERIFIABLE = "unverifiable"
    FORBIDDEN = "forbidden"
    PAYMENT_REQUIRED = "payment_required"


LEEWAY = 1.0
"""Seconds that a token stays valid beyond its end, since clocks differ."""

UNPAID = "The account's plan does not cover this"
"""Message of a 402 for which Tuist has given none."""

MAX_MESSAGE = 500
"""Longest message of Tuist's that is passed on to clients, in characters."""


@dataclass(frozen=True, slots=True)
class TuistReply:
    """Tuist's grants for a token, from an answer of its server or from the token's signed claims.

    Attributes:
        access: verdict on the token itself.
        projects: projects, in lower case, with read and write access.
        read_only: projects with read access only.
        unpaid: projects whose account is over its plan.
        is_whole: whether all other projects are forbidden; else the server has to be asked.
        lifetime: seconds from the answer until the token ends; the grants hold no longer.
        message: Tuist's message for people whose account is over its plan, or "".
        oddity: a description of malformed items that were left out, or "".
    """

    access: Access
    projects: frozenset[str] = frozenset()
    read_only: frozenset[str] = frozenset()
    unpaid: frozenset[str] = frozenset()
    is_whole: bool = True
    lifetime: float = math.inf
    message: str = ""
    oddity: str = field(default="", compare=False)

    def verdict(self, project: str, action: Action) -> Access:
        """The verdict on `action` in `project`, which is in lower case."""
        if self.access is not Access.GRANTED:
            return self.access
        if project in self.projects or (action is Action.READ and project in self.read_only):
            return Access.GRANTED
        return Access.PAYMENT_REQUIRED if project in self.unpaid else Access.FORBIDDEN

    @property
    def names(self) -> int:
        """The number of named projects."""
        return len(self.projects) + len(self.read_only) + len(self.unpaid)


def handles(value: object) -> frozenset[str]:
    """The handles in the list `value`, in lower case; anything else is left out."""
    if not isinstance(value, list):
        return frozenset()
    named = (item.strip().lower() for item in value if isinstance(item, str) and item.isascii())
    return frozenset(name for name in named if name)


def read_grants(grants: object) -> TuistReply:
    """The grants in the claim `cache_grants`, which are all that a token may do.

    A malformed claim grants nothing, and grants on accounts do not extend to their projects.
    """
    of_projects = grants.get("project") if isinstance(grants, dict) else None
    named = of_projects if isinstance(of_projects, dict) else {}
    write = handles(named.get("write"))
    return TuistReply(Access.GRANTED, write, handles(named.get("read")) - write)


def read_claims(claims: dict[str, Any], now: float) -> TuistReply | None:
    """The grants in the claims of a verified token, at the time `now` (`time.time()`).

    None if the token has ended, or has no valid `exp`.
    """
    ends = seconds(claims.get("exp"))
    if ends is None or ends + LEEWAY <= now:
        return None
    left = ends + LEEWAY - now
    if claims.get("cache_grants") is not None:
        granted = read_grants(claims["cache_grants"])
        return TuistReply(Access.GRANTED, granted.projects, granted.read_only, lifetime=left)
    projects = handles(claims.get("projects"))
    return TuistReply(Access.GRANTED, projects, is_whole=False, lifetime=left)


def read_projects(body: bytes | bytearray) -> TuistReply | None:
    """The grants in an answer to `GET /api/cache/access` or `GET /api/projects`; None if malformed.

    Items without a name are left out and counted in `oddity`, unless no item has a name.
    """
    answer = decoded(body)
    items = answer.get("projects") if isinstance(answer, dict) else None
    if not isinstance(items, list):
        return None
    names = [item.get("full_name") if isinstance(item, dict) else item for item in items]
    unnamed = sum(not isinstance(name, str) for name in names)
    if unnamed and unnamed == len(items):
        return None
    oddity = f"{unnamed} of {len(items)} projects have no full_name" if unnamed else ""
    known = handles(names)
    unpaid = handles(answer.get("payment_required")) - known
    return TuistReply(
        Access.GRANTED, known, unpaid=unpaid, message=read_message(body), oddity=oddity
    )


def read_introspection(body: bytes | bytearray, now: float) -> TuistReply | None:
    """The grants in an introspection response (RFC 7662, section 2.2), at `now` (`time.time()`).

    None if `active`, `cache_grants` or `exp` is malformed: an answer is not to be guessed at.
    """
    answer = decoded(body)
    if not isinstance(answer, dict):
        return None
    if answer.get("active") is False:
        return TuistReply(Access.UNAUTHORIZED)
    ends = math.inf if answer.get("exp") is None else seconds(answer["exp"])
    grants = answer.get("cache_grants")
    if answer.get("active") is not True or ends is None or not isinstance(grants, dict):
        return None
    granted = read_grants(grants)
    return TuistReply(granted.access, granted.projects, granted.read_only, lifetime=ends - now)


def read_message(body: bytes | bytearray) -> str:
    """The message in an answer of Tuist's, or "" if there is none that a header can hold."""
    answer = decoded(body)
    message = answer.get("message") if isinstance(answer, dict) else None
    if not isinstance(message, str) or not (message.isascii() and message.isprintable()):
        return ""
    return message[:MAX_MESSAGE]


def decoded(body: bytes | bytearray) -> Any:
    """The value of the JSON in `body`; None if malformed."""
    try:
        return json.loads(body.decode("utf-8-sig", errors="replace"))
    except (ValueError, RecursionError):
        return None


def seconds(value: object) -> float | None:
    """The time `value` as a float, in seconds since the epoch; None if it is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer too large for a float
        return None
    return number if math.isfinite(number) else None
