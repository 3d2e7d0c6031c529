"""The schema of `/up`'s answer, which the service sends and `cache-actors status` reads.

Fields with a default may be missing from the answer of another version of the service.
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from cache_actors.metrics.recent import Figures  # noqa: TC001  # msgspec looks for it


class NotAnAnswer(ValueError):
    """A body is not an answer of `/up`."""


class LastPass(msgspec.Struct, frozen=True):
    """The last pass of eviction, as in `PassReport`. Artifacts are all files but entries.

    Attributes:
        youngest_evicted_seconds: age of the youngest evicted artifact, since its last use.
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
    """The usage of the storage, in percent of its limit, and evicted files.

    Attributes:
        passes, artifacts, entries, bytes: totals since the service was started. Artifacts are all
            files but entries.
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
    """A node of the supervision tree, with its children.

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
    """The state of writes to the disk, its duration in seconds, and the free room."""

    state: str
    reason: str | None = None
    seconds: float | None = None
    free_bytes: int | None = None
    free_inodes: int | None = None


class Shared(msgspec.Struct, frozen=True):
    """The state of the bucket, its duration in seconds, and what is not in the bucket yet.

    Attributes:
        backlog_bytes: bytes on disk of the files.
        oldest_seconds: time that the oldest of them has waited.
        dropped: files that this process has evicted before they were there.
    """

    state: str
    reason: str | None = None
    seconds: float | None = None
    backlog_files: int = 0
    backlog_bytes: int = 0
    oldest_seconds: float = 0.0
    dropped: int = 0


class Nginx(msgspec.Struct, frozen=True):
    """Recent troubles with nginx (`NGINX_TROUBLES`)."""

    troubles: tuple[str, ...] = ()


class Health(msgspec.Struct, frozen=True):
    """The answer of `/up`; `recent` has a value for each step of time, the latest last."""

    status: str
    version: str | None = None
    uptime_seconds: float | None = None
    storage: Storage | None = None
    eviction: Eviction | None = None
    nginx: Nginx | None = None
    shared: Shared | UnsetType = UNSET
    recent: Figures | None = None
    tree: Node | None = None


encode_answer = msgspec.json.Encoder().encode


def read_answer(body: bytes) -> Health:
    """The answer in the JSON `body`.

    Raises:
        NotAnAnswer: `body` is something else.
    """
    try:
        return msgspec.json.decode(body, type=Health)
    except msgspec.MsgspecError as error:
        raise NotAnAnswer(str(error)) from error
