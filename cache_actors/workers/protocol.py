"""The messages between a parent and its workers."""

from __future__ import annotations

from dataclasses import dataclass

CONNECTION = b"connection"
"""Message to a worker that carries a connection's descriptor. All other messages are JSON."""


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """The configuration of a worker, passed as JSON on its command line.

    Attributes:
        name: the worker's name.
        since: start of the service, in `time.monotonic()`.
        channel: the descriptor of the worker's end of the channel.
        shared_reports: the descriptors of the shared reports, by name of the process.
    """

    name: str
    since: float
    channel: int
    shared_reports: dict[str, int]


@dataclass(frozen=True, slots=True)
class Drain:
    """Message to a worker: finish your requests, then end.

    Attributes:
        replaced: whether another instance has taken over (`runtime/listen_socket.py`).
    """

    replaced: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """Message to the parent: the state of a worker. No field ever decreases or becomes false again.

    Attributes:
        ready: whether the worker's tree runs.
        taken: the number of connections that the worker has taken.
        ended: the number of those connections that have ended.
        closed: whether the worker takes no more connections.
    """

    ready: bool = False
    taken: int = 0
    ended: int = 0
    closed: bool = False
