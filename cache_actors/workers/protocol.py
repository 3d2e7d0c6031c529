"""The messages between a parent and its workers."""

from __future__ import annotations

from dataclasses import dataclass

CONNECTION = b"connection"
"""Message to a worker that comes with a connection. All others are JSON."""


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """The configuration of a worker; JSON, in its command line.

    Attributes:
        name: the worker's.
        since: when the service was started, in `time.monotonic()`.
        channel: the descriptor of its end of the channel.
        shared_reports: the descriptor of each process's shared report, by the process's name.
    """

    name: str
    since: float
    channel: int
    shared_reports: dict[str, int]


@dataclass(frozen=True, slots=True)
class Drain:
    """To a worker: finish what you have, then end.

    Attributes:
        replaced: whether another instance has taken over (see `runtime/listen_socket.py`).
    """

    replaced: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """To the parent: how far a worker is, as a whole each time. Nothing of it ever decreases.

    Attributes:
        ready: its tree runs.
        taken: how many connections it has taken.
        ended: how many of these have ended.
        closed: it takes no more.
    """

    ready: bool = False
    taken: int = 0
    ended: int = 0
    closed: bool = False
