"""The answer of `/up`: what the service sends, and what `cache-actors status` reads.

Fields with a default may be missing where somebody else's answer is read.
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from cache_actors.metrics.recent import Figures  # noqa: TC001  # msgspec looks for it


class NotAnAnswer(ValueError):
    """This is not what `/up` answers."""


class LastPass(msgspec.Struct, frozen=True):
    """The last pass of eviction: what it removed, and what it left. Sizes are in bytes on disk.

    Attributes:
        youngest_evicted_seconds: the age of the youngest evicted artifact, since its last use.
    """

    ended_seconds_ago: float
    seconds: float = 0.0
    artifacts: int = 0
    entries: int = 0
    bytes: int = 0
    youngest_evicted_seconds: float | None = None
    stored_artifacts: int = 0
    stored_entries: int = 0
    stored_bytes: int = 0


class Eviction(msgspec.Struct, frozen=True):
    """The usage of the storage, in percent of its limit, and what has been evicted.

    Attributes:
        passes, artifacts, entries, bytes: totals since the service was started.
    """

    used_percent: float | None = None
    running: bool = False
    failure: str | None = None
    passes: int = 0
    artifacts: int = 0
    entries: int = 0
    bytes: int = 0
    last_pass: LastPass | None = None


class Node(msgspec.Struct, frozen=True):
    """A part of the supervision tree, with what is below it.

    Only actors have a mailbox, and so `mailbox_depth` and `oldest_message_seconds`.
    """

    name: str
    state: str
    restarts: int = 0
    last_error: str | None = None
    uptime_seconds: float | None = None
    mailbox_depth: int | UnsetType = UNSET
    oldest_message_seconds: float | UnsetType | None = UNSET
    stuck: bool | UnsetType = UNSET
    children: tuple[Node, ...] | UnsetType = UNSET


class Storage(msgspec.Struct, frozen=True):
    """The state of writing to the disk, since how many seconds, and the room that is left."""

    state: str
    reason: str | None = None
    seconds: float | None = None
    free_bytes: int | None = None
    free_inodes: int | None = None


class Nginx(msgspec.Struct, frozen=True):
    """What nginx could not do by itself lately."""

    troubles: tuple[str, ...] = ()


class Health(msgspec.Struct, frozen=True):
    """The whole answer. `recent` has a value for each step of time, the latest last."""

    status: str
    version: str | None = None
    uptime_seconds: float | None = None
    storage: Storage | None = None
    eviction: Eviction | None = None
    nginx: Nginx | None = None
    recent: Figures | None = None
    tree: Node | None = None


encode_answer = msgspec.json.Encoder().encode


def read_answer(body: bytes) -> Health:
    """The answer in a body of JSON.

    Raises:
        NotAnAnswer: it is something else.
    """
    try:
        return msgspec.json.decode(body, type=Health)
    except msgspec.MsgspecError as error:
        raise NotAnAnswer(str(error)) from error
