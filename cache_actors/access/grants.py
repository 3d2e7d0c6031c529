"""What Tuist says of a token, as its server answers it and as the token itself has it: pure
functions.

Handles are compared in lower case. No handle has characters beyond ASCII, and some of those are
ASCII once they are in lower case, so what has any is nobody's.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Action(Enum):
    """What is to be done in a project: READ is also the PUT that retrieves an entry, WRITE all
    else."""

    READ = "read"
    WRITE = "write"


class Access(Enum):
    """Tuist's verdict on a token. A project that it does not name is FORBIDDEN too.

    UNVERIFIABLE is a cache token that Tuist's server refuses because it is one, and that this
    service has no means to verify; its client is told the same as one that is UNAUTHORIZED.
    """

    GRANTED = "granted"
    UNAUTHORIZED = "unauthorized"
    UNVERIFIABLE = "unverifiable"
    FORBIDDEN = "forbidden"
    PAYMENT_REQUIRED = "payment_required"


LEEWAY = 1.0
"""Seconds that a token is in force beyond its end, as clocks differ. nginx, which keeps a decision
for a second more than it is told, is told a second less than is left: together this is its end."""

UNPAID = "The account's plan does not cover this"
"""What clients are told with 402 if Tuist says nothing else."""

MAX_MESSAGE = 500
"""Longest message of Tuist's that clients are told, in characters."""


@dataclass(frozen=True, slots=True)
class TuistReply:
    """Tuist's word on a token: in an answer of its server, or in the token, which it has signed.

    Attributes:
        access: the verdict on the token as such.
        projects: those that it may read and write to, in lower case, if access is granted.
        read_only: those that it may only read.
        unpaid: those whose account is over its plan.
        is_whole: whether what is not named is forbidden; else the server has to be asked of it.
        lifetime: seconds, from when it was given, for which it holds at most: until the token ends.
        message: Tuist's words for people whose account is over its plan, or nothing.
        oddity: a sentence about what could not be read, and was left out, or nothing.
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
        """Whether the token may do that in `project`, which is in lower case."""
        if self.access is not Access.GRANTED:
            return self.access
        if project in self.projects or (action is Action.READ and project in self.read_only):
            return Access.GRANTED
        return Access.PAYMENT_REQUIRED if project in self.unpaid else Access.FORBIDDEN

    @property
    def names(self) -> int:
        """How many projects it names."""
        return len(self.projects) + len(self.read_only) + len(self.unpaid)


def handles(value: object) -> frozenset[str]:
    """The handles in a list of them, in lower case; what is none, and what is no list, is left
    out."""
    if not isinstance(value, list):
        return frozenset()
    named = (item.strip().lower() for item in value if isinstance(item, str) and item.isascii())
    return frozenset(name for name in named if name)


def read_grants(grants: object) -> TuistReply:
    """What `cache_grants` say of projects: that is all that the token may do.

    What has another form grants nothing. Those of accounts say nothing of their projects.
    """
    of_projects = grants.get("project") if isinstance(grants, dict) else None
    named = of_projects if isinstance(of_projects, dict) else {}
    write = handles(named.get("write"))
    return TuistReply(Access.GRANTED, write, handles(named.get("read")) - write)


def read_claims(claims: dict[str, Any], now: float) -> TuistReply | None:
    """What a verified token says of itself, if it is in force at `now`, in `time.time()`.

    None if that is nothing: it has no end that can be read, or has ended.
    """
    ends = seconds(claims.get("exp"))
    if ends is None or ends + LEEWAY <= now:
        return None
    left = ends + LEEWAY - now
    if claims.get("cache_grants") is not None:
        word = read_grants(claims["cache_grants"])
        return TuistReply(Access.GRANTED, word.projects, word.read_only, lifetime=left)
    projects = handles(claims.get("projects"))
    return TuistReply(Access.GRANTED, projects, is_whole=False, lifetime=left)


def read_projects(body: bytes | bytearray) -> TuistReply | None:
    """The projects in the server's answer, to either of its two questions; None if that is none.

    Items without a name are left out, and told of in the answer's `oddity`, as long as others have
    one.
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
    """The server's answer about a token that it was given to introspect (RFC 7662, section 2.2).

    None if it cannot be read as one: of `active`, the grants and `exp` each has to be what it must,
    as nobody knows what is meant otherwise. `now` is in `time.time()`.
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
    word = read_grants(grants)
    return TuistReply(word.access, word.projects, word.read_only, lifetime=ends - now)


def read_message(body: bytes | bytearray) -> str:
    """Tuist's words for people, if the answer has any that can stand in a header."""
    answer = decoded(body)
    message = answer.get("message") if isinstance(answer, dict) else None
    if not isinstance(message, str) or not (message.isascii() and message.isprintable()):
        return ""
    return message[:MAX_MESSAGE]


def decoded(body: bytes | bytearray) -> Any:
    """The JSON in `body`; None if it is none."""
    try:
        return json.loads(body.decode("utf-8-sig", errors="replace"))
    except (ValueError, RecursionError):
        return None


def seconds(value: object) -> float | None:
    """A time, in `time.time()`; None if `value` is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer beyond all floats
        return None
    return number if math.isfinite(number) else None
