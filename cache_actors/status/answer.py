"""What `/up` answers, for those who read it: what may be missing is None or empty here."""

from __future__ import annotations

import msgspec


class NotAnAnswer(ValueError):
    """This is not what `/up` answers."""


class Pass(msgspec.Struct, frozen=True):
    """What an eviction did, and how long ago it ended, in seconds."""

    ended_seconds_ago: float
    artifacts: int = 0
    entries: int = 0
    bytes: int = 0
    youngest_evicted_seconds: float | None = None


class Eviction(msgspec.Struct, frozen=True):
    """How full the storage is, in percent of what it may be, and what the last pass did."""

    used_percent: float | None = None
    last_pass: Pass | None = None


class Part(msgspec.Struct, frozen=True):
    """A part of the supervision tree, with what is below it."""

    name: str
    state: str
    restarts: int = 0
    last_error: str | None = None
    mailbox_depth: int | None = None
    oldest_message_seconds: float | None = None
    stuck: bool = False
    uptime_seconds: float | None = None
    children: tuple[Part, ...] = ()


class Worker(msgspec.Struct, frozen=True):
    """One of several processes; without a tree if it does not answer."""

    name: str
    tree: Part | None = None


class Storage(msgspec.Struct, frozen=True):
    """How writing to the disk goes, for how many seconds, and what room is left."""

    state: str
    reason: str | None = None
    seconds: float | None = None
    free_bytes: int | None = None
    free_inodes: int | None = None


class Recent(msgspec.Struct, frozen=True):
    """Series over the last minutes, the latest value last; None where there is nothing to say."""

    requests_per_second: tuple[float | None, ...] = ()
    hit_rate: tuple[float | None, ...] = ()
    latency_ms_p50: tuple[float | None, ...] = ()
    latency_ms_p95: tuple[float | None, ...] = ()
    errors_per_second: tuple[float | None, ...] = ()


class Nginx(msgspec.Struct, frozen=True):
    """What nginx could not do by itself lately."""

    troubles: tuple[str, ...] = ()


class Health(msgspec.Struct, frozen=True):
    """The whole answer."""

    status: str
    version: str | None = None
    uptime_seconds: float | None = None
    storage: Storage | None = None
    tree: Part | None = None
    workers: tuple[Worker, ...] = ()
    recent: Recent | None = None
    nginx: Nginx | None = None
    eviction: Eviction | None = None


def read_answer(body: bytes) -> Health:
    """The answer in a body of JSON.

    Raises:
        NotAnAnswer: it is something else.
    """
    try:
        return msgspec.json.decode(body, type=Health)
    except msgspec.MsgspecError as error:
        raise NotAnAnswer(str(error)) from error
