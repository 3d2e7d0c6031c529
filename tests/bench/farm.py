"""What a build farm asks for: operations, each due at its time. Pure functions.

Each kind of operation comes at random times that do not depend on one another (a Poisson process),
at a rate of its own, and goes on whatever becomes of those before it.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from .names import KIBIBYTE, QUERY, SMALL, STORED, TOKEN, artifact_id, entry_id, new_entry, payload

ENTRY_READ, ENTRY_PUT = "entry read", "entry stored"
ARTIFACT_READ, ARTIFACT_WRITE = "artifact read", "artifact stored"
LARGE_READ, LARGE_WRITE = "artifact of 2 MiB read", "artifact of 2 MiB stored"

RATES = {
    ENTRY_READ: 512.0,
    ENTRY_PUT: 256.0,
    ARTIFACT_READ: 460.8,
    ARTIFACT_WRITE: 57.6,
    LARGE_READ: 51.2,
    LARGE_WRITE: 6.4,
}
"""Operations of each kind that one farm needs in a second."""

FACTORS = (1.0, 2.0, 4.0, 6.0)
"""So many farms at once, one after the other, until something gives."""

WORKERS = (1, 2)
"""With so many workers of the service, one after the other."""

LARGE = 2048 * KIBIBYTE
SIZES = (SMALL,) * 6 + (256 * KIBIBYTE,) * 3 + (LARGE,)
"""The sizes of artifacts, in bytes, as often as they occur among ten. The large ones are operations
of a kind of their own, as they may take longer."""

BODIES = {size: payload(size) for size in set(SIZES)}


@dataclass(frozen=True, slots=True)
class Request:
    """A request, ready to be sent, and the status that it is to be answered with."""

    head: bytes
    body: bytes
    status: int


@dataclass(frozen=True, slots=True)
class Operation:
    """What somebody wants: one or several requests, one after the other.

    Attributes:
        due: when, in seconds from the start.
        kind: what it is, in words.
        requests: what is sent; each when the one before it has been answered.
    """

    due: float
    kind: str
    requests: tuple[Request, ...]


@dataclass(frozen=True, slots=True)
class Load:
    """A part of what farms ask for. It is cheap to hand to another process, unlike operations.

    Attributes:
        rates: operations of each kind in a second.
        seconds: for how long.
        stored: so many artifacts are there, each with an entry.
        tag: of the ids that are new.
        seed: for all that is random.
    """

    rates: dict[str, float]
    seconds: float
    stored: int
    tag: str
    seed: int


def size_of(number: int) -> int:
    """The size of the artifact of that number, in bytes."""
    return SIZES[number % len(SIZES)]


def operations(load: Load) -> list[Operation]:
    """All operations, in the order in which they are due."""
    chance = random.Random(load.seed)
    makers: dict[str, _Requests] = {
        ENTRY_READ: _EntryReads(load),
        ENTRY_PUT: _EntryPuts(load),
        ARTIFACT_READ: _ArtifactReads(load, large=False),
        ARTIFACT_WRITE: _ArtifactWrites(load, large=False),
        LARGE_READ: _ArtifactReads(load, large=True),
        LARGE_WRITE: _ArtifactWrites(load, large=True),
    }
    made = [
        Operation(due, kind, makers[kind].requests(chance))
        for kind, rate in load.rates.items()
        for due in arrivals(rate, load.seconds, chance)
    ]
    made.sort(key=lambda operation: operation.due)
    return made


def arrivals(rate: float, seconds: float, chance: random.Random) -> Iterator[float]:
    """Random times up to `seconds`, `rate` of them in a second on average."""
    at = chance.expovariate(rate)
    while at < seconds:
        yield at
        at += chance.expovariate(rate)


class _Requests(Protocol):
    """Makes the requests of one kind of operation."""

    def requests(self, chance: random.Random) -> tuple[Request, ...]:
        """Those of one operation."""


class _EntryReads:
    def __init__(self, load: Load) -> None:
        self._reads = [
            get(f"/api/cache/keyvalue/{entry_id(STORED, number)}?{QUERY}")
            for number in range(load.stored)
        ]

    def requests(self, chance: random.Random) -> tuple[Request, ...]:
        return (chance.choice(self._reads),)


class _ArtifactReads:
    """An entry says which artifact it is, and then that is read."""

    def __init__(self, load: Load, *, large: bool) -> None:
        self._reads = [
            (
                get(f"/api/cache/keyvalue/{entry_id(STORED, number)}?{QUERY}"),
                get(f"/api/cache/cas/{artifact_id(STORED, number)}?{QUERY}"),
            )
            for number in range(load.stored)
            if (size_of(number) == LARGE) == large
        ]

    def requests(self, chance: random.Random) -> tuple[Request, ...]:
        return chance.choice(self._reads)


class _EntryPuts:
    """New entries, which refer to artifacts that are there."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._count = 0

    def requests(self, chance: random.Random) -> tuple[Request, ...]:
        self._count += 1
        artifact = artifact_id(STORED, chance.randrange(self._load.stored))
        return (put_entry(entry_id(self._load.tag, 2 * self._count), artifact),)


class _ArtifactWrites:
    """New artifacts, each with an entry that refers to it as soon as it is stored.

    Small ones have even numbers and large ones odd ones. Their entries have odd numbers.
    """

    def __init__(self, load: Load, *, large: bool) -> None:
        self._load = load
        self._number = int(large)
        self._sizes = [size for size in SIZES if (size == LARGE) == large]

    def requests(self, chance: random.Random) -> tuple[Request, ...]:
        self._number += 2
        artifact = artifact_id(self._load.tag, self._number)
        body = BODIES[chance.choice(self._sizes)]
        return (
            store_artifact(artifact, body),
            put_entry(entry_id(self._load.tag, 2 * self._number + 1), artifact),
        )


def get(path: str) -> Request:
    """Ask for what is there."""
    return Request(_head("GET", path), b"", 200)


def put_entry(entry: str, artifact: str) -> Request:
    """Store an entry that refers to an artifact."""
    body = new_entry(entry, artifact)
    return Request(_head("PUT", f"/api/cache/keyvalue?{QUERY}", len(body)) + body, b"", 204)


def store_artifact(artifact: str, body: bytes) -> Request:
    """Store an artifact."""
    return Request(_head("POST", f"/api/cache/cas/{artifact}?{QUERY}", len(body)), body, 204)


def _head(method: str, path: str, length: int | None = None) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: cache", f"Authorization: Bearer {TOKEN}"]
    lines.append("X-Request-ID: farm")
    if length is not None:
        lines += [f"Content-Length: {length}", "Content-Type: application/octet-stream"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
